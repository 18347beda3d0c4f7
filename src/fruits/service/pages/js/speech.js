// Every word that the page says, in the language of the reader, and again when the reader switches.
//
// What is said is remembered with the element that says it: switching changes texts and nothing else, so that an answer, a half
// written word or the focus stays where it is. Text goes into the page as text, never as HTML.

const root = document.documentElement;
const words = {};
const said = new WeakMap();
const PROPER = new Set(["Brazil", "Brussels", "Chinese", "Swiss"]);
const ATTRIBUTES = { label: "aria-label", placeholder: "placeholder", alt: "alt", title: "title" };

/** The reader's language, en or fr. */
export const language = () => root.lang;

/** Add words: {key: [English, French]}; a text may be a function of values. */
export function learn(more) {
  Object.assign(words, more);
}

/**
 * Return a text.
 *
 * @param {string|{en: string, fr: string}|((language: string) => string)} what  A key, a text in both languages, or what makes one.
 */
export function text(what, values = {}) {
  if (typeof what === "function") return what(language());
  if (typeof what === "object") return what[language()] || what.en || "";
  const entry = words[what];
  if (!entry) return what;
  const chosen = entry[language() === "fr" ? 1 : 0];
  return typeof chosen === "function" ? chosen(values) : chosen;
}

/** Let an element say something, now and after a switch of language; `where` names an attribute instead of its content. */
export function say(element, what, values, where = "content") {
  const all = said.get(element) ?? {};
  all[where] = [what, values];
  said.set(element, all);
  element.setAttribute("data-said", "");
  utter(element);
  return element;
}

function utter(element) {
  for (const [where, [what, values]] of Object.entries(said.get(element) ?? {})) {
    if (where === "content") element.textContent = text(what, values);
    else element.setAttribute(ATTRIBUTES[where], text(what, values));
  }
}

/** Give the page its voice: static texts, the language buttons. `changed` is called after each switch. */
export function speak(changed = () => {}) {
  for (const element of document.querySelectorAll("[data-t]")) say(element, element.dataset.t);
  for (const where of Object.keys(ATTRIBUTES)) {
    for (const element of document.querySelectorAll(`[data-t-${where}]`)) {
      say(element, element.getAttribute(`data-t-${where}`), undefined, where);
    }
  }
  const buttons = [...document.querySelectorAll("[data-language]")];
  const mark = () => buttons.forEach((one) => one.setAttribute("aria-pressed", String(one.dataset.language === language())));
  for (const button of buttons) {
    button.addEventListener("click", () => {
      root.lang = button.dataset.language;
      try {
        localStorage.setItem("fruits.language", root.lang);
      } catch {
        // As in early.js.
      }
      document.querySelectorAll("[data-said]").forEach(utter);
      mark();
      changed();
    });
  }
  mark();
  root.classList.remove("unsaid");
}

/** A share as people say it: never 100 % of a guess, never 0 % of what is shown. */
export function percent(share) {
  const written = (value) => new Intl.NumberFormat(language(), { style: "percent", maximumFractionDigits: 0 }).format(value);
  if (!(share >= 0)) return "–";
  if (share > 0.994) return `>${language() === "fr" ? "\u202f" : ""}${written(0.99)}`;
  if (share < 0.006) return `<${language() === "fr" ? "\u202f" : ""}${written(0.01)}`;
  return written(share);
}

/** A name as it stands within a sentence: "probably kiwi"; names of places, numbers and titles stay as they are (recogniser/taxonomy.py). */
export function inASentence(name) {
  const [first, second = ""] = name.split(/\s+/);
  const stays = PROPER.has(first) || /^.\p{Lu}/u.test(name) || /^\p{Lu}/u.test(second) || /\p{Nd}/u.test(name);
  return stays ? name : name.slice(0, 1).toLowerCase() + name.slice(1);
}

export const megabytes = (bytes) =>
  `${new Intl.NumberFormat(language(), { maximumFractionDigits: 1 }).format(bytes / 1e6)}\u202f${language() === "fr" ? "Mo" : "MB"}`;
