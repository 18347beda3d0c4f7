// Labels as people call them, on the owner's pages: the name, and the label itself where that says more.

import { element } from "./elements.js";
import { language, say, text } from "./localisation.js";

export class Names {
  #labels;
  #others;

  /** @param {{labels: object[], kinds: object[]}} known  As GET /v1/labels gives them. */
  constructor({ labels, kinds }) {
    this.#labels = new Map(labels.map((label) => [label.label, label]));
    this.#others = new Map([...kinds.map((kind) => [kind.kind, kind]), ...labels.filter((one) => one.variety).map((one) => [one.variety, one])]);
  }

  has(label) {
    return this.#labels.has(label);
  }

  /** The name in the reader's language; of what nobody knows, what it is. */
  plain(label) {
    const known = this.#labels.get(label) ?? this.#others.get(label);
    return known ? text(known) : label;
  }

  /** The label with its name, as an element. */
  of(label) {
    const name = say(element("bdi"), () => this.plain(label));
    return this.plain(label) === label ? name : element("span", {}, name, " ", element("bdi.quiet.small", {}, label));
  }
}

/** Date and time as the reader writes them. */
export const moment = (iso) => () => new Intl.DateTimeFormat(language(), { dateStyle: "medium", timeStyle: "short" }).format(new Date(iso));
