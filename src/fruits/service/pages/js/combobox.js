// A list to search in, with free text: the "editable combobox with list autocomplete" of the ARIA practices.

import { element } from "./elements.js";
import { language, namesOf, say, text } from "./localisation.js";

const SHOWN = 50;
let number = 0;

const plain = (value) => value.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase().trim();

/**
 * Make a field.
 *
 * @param {string|object} label  What it asks for.
 * @param {{value: string, hint?: string|object}[]} options  With their names by language.
 * @returns {{node: HTMLElement, field: HTMLInputElement, chosen: () => {value: string, shown: string}|null}}
 */
export function combobox(label, options) {
  const id = `list-${++number}`;
  const field = element("input", {
    type: "text", id: `${id}-field`, role: "combobox", maxlength: 100, autocomplete: "off", autocapitalize: "none", spellcheck: "false",
    "aria-expanded": "false", "aria-controls": id, "aria-autocomplete": "list", "aria-describedby": `${id}-found`,
  });
  const list = element("ul.options", { id, role: "listbox", hidden: true });
  const found = element("p.quiet.small", { id: `${id}-found`, role: "status" });
  say(list, label, undefined, "label");
  say(field, "which_hint", undefined, "placeholder");
  const node = element("div.combobox", {}, say(element("label", { for: field.id }), label), element("div.anchored", {}, field, list), found);
  let shown = [];
  let at = -1;
  let picked = null;

  const matching = () => {
    const wanted = plain(field.value);
    const hits = options
      .map((option) => ({ option, in: Math.min(...[...Object.values(namesOf(option)), option.value].map((name) => position(plain(name), wanted))) }))
      .filter((hit) => hit.in < Infinity);
    hits.sort((a, b) => a.in - b.in || text(a.option).localeCompare(text(b.option), language(), { numeric: true }));
    return hits.map((hit) => hit.option);
  };
  const open = () => {
    const all = matching();
    shown = all.slice(0, SHOWN);
    at = -1;
    list.replaceChildren(
      ...shown.map((option, k) => {
        const item = element("li", { role: "option", id: `${id}-${k}`, "aria-selected": "false" }, say(element("bdi"), option));
        if (option.hint) item.append(" ", typeof option.hint === "string" && option.hint === option.value ? element("bdi.quiet", {}, option.hint) : say(element("span.quiet"), option.hint));
        item.addEventListener("pointerdown", (event) => {
          event.preventDefault(); // the field keeps the focus
          pick(option);
        });
        return item;
      }),
    );
    const any = shown.length > 0;
    list.hidden = !any;
    field.setAttribute("aria-expanded", String(any));
    field.removeAttribute("aria-activedescendant");
    say(found, any || !field.value.trim() ? "found" : "not_in_list", { n: all.length });
  };
  const close = () => {
    list.hidden = true;
    at = -1;
    field.setAttribute("aria-expanded", "false");
    field.removeAttribute("aria-activedescendant");
  };
  const pick = (option) => {
    picked = option;
    field.value = text(option);
    close();
  };
  const move = (to) => {
    list.children[at]?.setAttribute("aria-selected", "false");
    at = (to + shown.length) % shown.length;
    const item = list.children[at];
    item.setAttribute("aria-selected", "true");
    item.scrollIntoView({ block: "nearest" });
    field.setAttribute("aria-activedescendant", item.id);
  };

  field.addEventListener("input", () => {
    picked = null;
    open();
  });
  field.addEventListener("focus", open);
  field.addEventListener("blur", close);
  field.addEventListener("keydown", (event) => {
    const isOpen = !list.hidden;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (!isOpen) open();
      if (shown.length) move(event.key === "ArrowDown" ? at + 1 : at < 0 ? -1 : at - 1);
    } else if (event.key === "Enter" && isOpen && at >= 0) {
      event.preventDefault(); // chooses; the next Enter sends
      pick(shown[at]);
    } else if (event.key === "Escape" && isOpen) {
      event.preventDefault();
      event.stopPropagation();
      close();
    }
  });

  const chosen = () => {
    const written = field.value.trim();
    if (!written) return null;
    const option = picked ?? options.find((one) => [...Object.values(namesOf(one)), one.value].some((name) => plain(name) === plain(written)));
    return option ? { value: option.value, shown: text(option) } : { value: written, shown: written };
  };
  return { node, field, chosen };
}

/** Where the wanted text stands: at the beginning, at that of a word, inside, nowhere. */
function position(name, wanted) {
  if (!wanted || name.startsWith(wanted)) return 0;
  const at = name.indexOf(wanted);
  if (at < 0) return Infinity;
  return /[\s'’(-]/.test(name[at - 1]) ? 1 : 2;
}

/** Whether a label says more than its English name. */
const saysMore = ({ label, en }) => label.toLowerCase() !== en.toLowerCase();

/** What can be chosen: kinds, then labels; a label whose name others share says which one it is. Those that differ in case alone are one. */
export function optionsOf({ labels: every, kinds }) {
  const first = new Map();
  for (const label of every) {
    const same = [label.kind, label.variety, label.label.toLowerCase()].join("\n");
    if (!first.has(same)) first.set(same, label);
  }
  const labels = [...first.values()];
  const count = new Map();
  for (const label of labels) count.set(label.en, (count.get(label.en) ?? 0) + 1);
  const several = new Set(labels.filter((label) => labels.some((other) => other !== label && other.kind === label.kind)).map((label) => label.kind));
  const names = new Set(kinds.filter((kind) => several.has(kind.kind)).map((kind) => kind.en));
  return [
    ...kinds.filter((kind) => several.has(kind.kind)).map((one) => ({ ...namesOf(one), value: one.kind, hint: "any_variety" })),
    ...labels.map((one) => ({ ...namesOf(one), value: one.label, hint: saysMore(one) && (count.get(one.en) > 1 || names.has(one.en)) ? one.label : null })),
  ];
}
