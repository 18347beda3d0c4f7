// The owner's review: one photo after the other, confirmed, corrected or refused, by keyboard if that is faster.

import { knownLabels } from "../api.js";
import { combobox, optionsOf } from "../combobox.js";
import { element } from "../elements.js";
import { Names, moment } from "../names.js";
import { askOwner, explain, photoAddress, session } from "./session.js";
import { percent, say, localise, text } from "../localisation.js";

const AT_ONCE = 50;

localise();
const $ = (id) => document.getElementById(id);
const asked = /^#([\w-]{22})$/.exec(location.hash)?.[1] ?? null;
let names = null;
let which = null; // the field of the correction
let list = [];
let cursor = null;
let at = 0;
let total = 0;
let busy = false;
let sure = false; // of deleting
const pictures = new Map();

const { refused } = session(load);

async function load() {
  const known = await knownLabels();
  names ??= new Names(known);
  if (!which) {
    which = combobox("which", optionsOf({ labels: known.labels, kinds: [] }));
    const cancel = say(element("button.button.small.plain", { type: "button", click: closeCorrection }), "cancel");
    $("correction").append(which.node, element("p.buttons", {}, say(element("button.button.small.first", { type: "submit" }), "send"), cancel));
  }
  if (asked && !list.length) $("state").value = "wrong";
  list = [];
  cursor = null;
  at = 0;
  const { submissions } = await (await askOwner("summary?days=1")).json();
  total = submissions[$("state").value];
  await more();
  // A link of the overview asks for one; it is looked for as far as pages go, and not for ever.
  for (let page = 0; asked && cursor && page < 20 && !list.some((one) => one.id === asked); page++) await more();
  at = Math.max(0, list.findIndex((one) => one.id === asked));
  show();
}

async function more() {
  const query = new URLSearchParams({ state: $("state").value, limit: AT_ONCE, ...(cursor ? { cursor } : {}) });
  const page = await (await askOwner(`submissions?${query}`)).json();
  cursor = page.cursor;
  list.push(...page.submissions);
}

function show() {
  const one = list[at];
  $("desk").hidden = !one;
  $("empty").hidden = Boolean(one);
  say($("place"), one ? "place" : () => "", { n: at + 1, of: Math.max(total, list.length) });
  if (!one) return;
  closeCorrection();
  unsure();
  const named = one.variety ?? one.kind;
  const said = one.right === null ? "visitor_nothing" : one.right ? "visitor_right" : "visitor_wrong";
  $("told").replaceChildren(
    say(element("dt"), "answer_was"),
    element("dd.name", {}, one.label ? names.of(one.label) : "–"),
    say(element("dd.plain-text"), () => `${named ? names.plain(named) : text(one.outcome ?? "unsure")}, ${percent(one.probability)}`),
    say(element("dt"), "visitor_says"),
    element("dd", {}, say(element("span"), said), ...(one.said_label ? [" · ", names.of(one.said_label)] : [])),
    ...(one.note ? [say(element("dt"), "note"), element("dd.plain-text", {}, element("bdi", {}, one.note))] : []),
    say(element("dt"), "when"),
    say(element("dd.plain-text"), moment(one.created)),
  );
  $("decided").hidden = !one.decision;
  if (one.decision) say($("decided"), `decided_${one.decision}`, { get label() { return names.plain(one.reviewed_label ?? ""); } });
  $("confirm").disabled = !one.label;
  // What the visitor says is one key away; text of their own is looked at first.
  const suggested = one.said_label && names.has(one.said_label) && one.said_label !== one.label ? one.said_label : null;
  $("as-said").hidden = !suggested;
  if (suggested) say($("as-said-text"), "as_said", { get label() { return names.plain(suggested); } });
  $("before").disabled = at === 0;
  $("after").disabled = at + 1 >= list.length && !cursor;
  picture(one, named);
}

async function picture(one, named) {
  const place = $("photo");
  place.replaceChildren();
  if (!one.has_photo) {
    place.append(say(element("p.quiet"), "no_photo"));
    return;
  }
  try {
    const address = await fetched(one);
    if (list[at] !== one) return;
    place.replaceChildren(say(element("img", { src: address }), () => text("photo_of", { name: named ? names.plain(named) : text(one.outcome ?? "unsure") }), undefined, "alt"));
    if (list[at + 1]?.has_photo) fetched(list[at + 1]).catch(() => {}); // so that the next one is there at once
  } catch (error) {
    if (list[at] === one) place.replaceChildren(say(element("p.quiet"), error.said ?? "went_wrong"));
  }
}

function fetched(one) {
  if (!pictures.has(one.id)) {
    const address = photoAddress(one.id);
    pictures.set(one.id, address);
    address.catch(() => pictures.delete(one.id));
    if (pictures.size > 8) {
      const [oldest, old] = pictures.entries().next().value;
      pictures.delete(oldest);
      old.then((unused) => URL.revokeObjectURL(unused)).catch(() => {});
    }
  }
  return pictures.get(one.id);
}

async function act(work) {
  if (busy || !list[at]) return;
  busy = true;
  $("notice").hidden = true;
  try {
    await work(list[at]);
    if (at + 1 >= list.length - 5 && cursor) await more();
  } catch (error) {
    if (error.status === 401 || error.status === 403) refused(error);
    else explain(error, $("notice"));
    return;
  } finally {
    busy = false;
  }
  show();
  // Keyboard users go on from where the decisions are.
  if (document.activeElement === document.body && list[at]) $("confirm").focus({ preventScroll: true });
}

const decide = (decision, label = null) =>
  act(async (one) => {
    list[at] = await (await askOwner(`submissions/${one.id}/review`, { method: "POST", json: { decision, label } })).json();
    at += 1;
    if (at >= list.length && !cursor) {
      if ($("state").value === "pending") await load(); // those that were skipped
      else at -= 1;
    }
  });

const remove = () =>
  act(async (one) => {
    await askOwner(`submissions/${one.id}`, { method: "DELETE" });
    list.splice(at, 1);
    total -= 1;
    at = Math.min(at, Math.max(0, list.length - 1));
  });

const go = (step) => act(async () => (at = Math.min(Math.max(0, at + step), list.length - 1)));

function openCorrection() {
  const one = list[at];
  $("correction").hidden = false;
  $("correct").setAttribute("aria-expanded", "true");
  which.field.value = one.said_label && !names.has(one.said_label) ? one.said_label : "";
  which.field.focus();
  which.field.select(); // what one types replaces what the visitor wrote
}

function closeCorrection() {
  const within = $("correction").contains(document.activeElement);
  $("correction").hidden = true;
  $("correct").setAttribute("aria-expanded", "false");
  if (within) $("correct").focus();
}

function unsure() {
  sure = false;
  say($("remove-text"), "remove");
}

$("confirm").addEventListener("click", () => decide("confirmed"));
$("as-said").addEventListener("click", () => decide("corrected", list[at].said_label));
$("correct").addEventListener("click", () => ($("correction").hidden ? openCorrection() : closeCorrection()));
$("refuse").addEventListener("click", () => decide("refused"));
$("before").addEventListener("click", () => go(-1));
$("after").addEventListener("click", () => go(1));
$("remove").addEventListener("click", () => {
  if (sure) remove();
  else {
    sure = true;
    say($("remove-text"), "remove_sure");
  }
});
$("remove").addEventListener("blur", unsure);
$("state").addEventListener("change", () => load().catch((error) => explain(error, $("notice"))));
$("correction").addEventListener("submit", (event) => {
  event.preventDefault();
  const chosen = which.chosen();
  if (chosen) decide("corrected", chosen.value);
  else which.field.focus();
});
$("correction").addEventListener("keydown", (event) => event.key === "Escape" && closeCorrection());

const KEYS = { c: "confirm", v: "as-said", x: "correct", r: "refuse", arrowleft: "before", arrowright: "after" };
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea") || $("desk").hidden) return;
  const button = $(KEYS[event.key.toLowerCase()] ?? "");
  if (button && !button.hidden && !button.disabled) {
    event.preventDefault();
    button.click();
  }
});
