// Every message of the page, in the language of the reader, and again when the reader switches.
//
// The messages come from the service, a file per language made of its catalogue (fruits/messages). Each element remembers its
// message: switching changes texts and nothing else, so that an answer, a half written word or the focus stays where it is. Text goes into the page as text, never as HTML.

import { at } from "./place.js";

const root = document.documentElement;
const said = new WeakMap();
const catalogues = new Map();
const PROPER = new Set(["Brazil", "Brussels", "Chinese", "Swiss"]);
const ATTRIBUTES = { label: "aria-label", placeholder: "placeholder", alt: "alt", title: "title" };
const LANGUAGES = root.dataset.languages.split(" ");
const PERIOD = 100; // of the table of plural forms, from 100 on

// early.js has asked for it already; where that failed, English is the language that a reader most likely has in store.
let catalogue = await globalThis.fruitsMessages;
if (catalogue) catalogues.set(root.lang, catalogue);
else {
  catalogue = await loaded(LANGUAGES[0]);
  root.lang = LANGUAGES[0];
}

async function loaded(wanted) {
  if (!catalogues.has(wanted)) {
    const answer = await fetch(at(`/static/messages/${root.dataset.messages}.${wanted}.json`));
    if (!answer.ok) throw new Error(`messages: ${answer.status}`);
    catalogues.set(wanted, await answer.json());
  }
  return catalogues.get(wanted);
}

/** The reader's language: the code of one that the service has. */
export const language = () => root.lang;

/** A row's names by language. */
export const namesOf = (row) => Object.fromEntries(LANGUAGES.filter((one) => row[one]).map((one) => [one, row[one]]));

/** Whether there is a message of that key. */
export const has = (key) => Object.hasOwn(catalogue.messages, key);

/**
 * Return a text.
 *
 * @param {string|object|((language: string) => string)} what  A key, a text by language, or what makes one.
 * @param {object} values  What stands for {placeholders}; numbers are written as the reader's language does, and `n` chooses
 *   between singular and plural.
 */
export function text(what, values = {}) {
  if (typeof what === "function") return what(language());
  if (typeof what === "object") return what[language()] || what.en || "";
  if (!has(what)) return what;
  const entry = catalogue.messages[what];
  const pattern = Array.isArray(entry) ? entry[pluralForm(values.n)] : entry;
  return pattern.replace(/\{(\w+)\}/g, (_, name) => (typeof values[name] === "number" ? new Intl.NumberFormat(language()).format(values[name]) : values[name]));
}

/** The catalogue's formula, as a table: 0 to 199, then the last hundred again. */
const pluralForm = (n) => Number(catalogue.plural[n < 2 * PERIOD ? n : PERIOD + (n % PERIOD)]);

/** Give an element a text, now and after a switch of language; `where` names an attribute instead of its content. */
export function say(element, what, values, where = "content") {
  const all = said.get(element) ?? {};
  all[where] = [what, values];
  said.set(element, all);
  element.setAttribute("data-said", "");
  render(element);
  return element;
}

function render(element) {
  for (const [where, [what, values]] of Object.entries(said.get(element) ?? {})) {
    if (where === "content") element.textContent = text(what, values);
    else element.setAttribute(ATTRIBUTES[where], text(what, values));
  }
}

/** Localise the page: static texts, the language buttons. `changed` is called after each switch. */
export function localise(changed = () => {}) {
  for (const element of document.querySelectorAll("[data-t]")) say(element, element.dataset.t);
  for (const where of Object.keys(ATTRIBUTES)) {
    for (const element of document.querySelectorAll(`[data-t-${where}]`)) {
      say(element, element.getAttribute(`data-t-${where}`), undefined, where);
    }
  }
  const buttons = [...document.querySelectorAll("[data-language]")];
  let asked = language();
  const mark = () => buttons.forEach((one) => one.setAttribute("aria-pressed", String(one.dataset.language === language())));
  for (const button of buttons) {
    button.addEventListener("click", async () => {
      asked = button.dataset.language;
      let found;
      try {
        found = await loaded(asked);
      } catch {
        return; // without a connection the language stays as it is
      }
      if (asked !== button.dataset.language) return;
      catalogue = found;
      root.lang = asked;
      try {
        localStorage.setItem("fruits.language", root.lang);
      } catch {
        // As in early.js.
      }
      document.querySelectorAll("[data-said]").forEach(render);
      mark();
      changed();
    });
  }
  mark();
  root.classList.remove("unsaid");
}

/** A share as text: never 100 % of a guess, never 0 % of what is shown. */
export function percent(share) {
  const written = (value) => new Intl.NumberFormat(language(), { style: "percent", maximumFractionDigits: 0 }).format(value);
  if (!(share >= 0)) return "–";
  if (share > 0.994) return text("more_than", { share: written(0.99) });
  if (share < 0.006) return text("less_than", { share: written(0.01) });
  return written(share);
}

/** A name as it stands within a sentence: "probably kiwi"; names of places, numbers and titles stay as they are (recogniser/taxonomy.py). */
export function inASentence(name) {
  const [first, second = ""] = name.split(/\s+/);
  const stays = PROPER.has(first) || /^.\p{Lu}/u.test(name) || /^\p{Lu}/u.test(second) || /\p{Nd}/u.test(name);
  return stays ? name : name.slice(0, 1).toLowerCase() + name.slice(1);
}

export const megabytes = (bytes) => text("megabytes", { size: new Intl.NumberFormat(language(), { maximumFractionDigits: 1 }).format(bytes / 1e6) });
