// Answers that a visitor lets this browser remember: a small picture, the name, the day. Nothing of it is ever sent.
//
// Off until switched on. Kept in IndexedDB; what is deleted here is deleted there.

import { isCertain, nameOf } from "./answer.js";
import { element } from "../elements.js";
import { language, say, text } from "../localisation.js";

const CHOSEN = "fruits.history";
const STORE = "answers";
const MOST = 60; // the oldest go
const SIDE = 160; // pixels of the picture
const $ = (id) => document.getElementById(id);

export class History {
  #box = $("remember");
  #addresses = [];

  #used = false; // before it was ever switched on, nothing is made on this device
  #switched;

  /**
   * @param {() => void} switched  Told when the visitor wants answers remembered from now on.
   * @param {boolean} turned  Whether the visitor has just turned the switch.
   */
  constructor(switched, turned) {
    this.#switched = switched;
    try {
      const chosen = localStorage.getItem(CHOSEN);
      this.#used = chosen !== null;
      if (!turned) this.#box.checked = chosen === "yes";
    } catch {
      this.#box.disabled = true; // this browser keeps nothing
    }
    $("forget-all").addEventListener("click", () => this.#forgetAll());
    this.#box.addEventListener("change", () => this.#turned());
    if (turned) this.#turned();
    else this.show();
  }

  #turned() {
    try {
      localStorage.setItem(CHOSEN, this.#box.checked ? "yes" : "no");
      this.#used = true;
    } catch {
      this.#box.checked = false;
    }
    if (this.#box.checked) this.#switched();
    this.show();
  }

  /** Remember an answer, if the visitor lets us; return the number to forget it by, or null. */
  async add(answer, blob) {
    if (!this.#box.checked) return null;
    const { outcome, name, probability, kinds } = answer;
    try {
      const row = { when: Date.now(), outcome, name, probability, kinds, picture: await small(blob) };
      const id = await asked("readwrite", (store) => store.add(row));
      const every = await asked("readonly", (store) => store.getAllKeys());
      for (const old of every.slice(0, Math.max(0, every.length - MOST))) await asked("readwrite", (store) => store.delete(old));
      await this.show();
      return id;
    } catch {
      return null; // no room, or not allowed
    }
  }

  async forget(id) {
    await asked("readwrite", (store) => store.delete(id)).catch(() => {});
    await this.show();
  }

  async #forgetAll() {
    await asked("readwrite", (store) => store.clear()).catch(() => {});
    await this.show();
    this.#box.focus({ preventScroll: true });
  }

  async show() {
    const rows = this.#used ? await asked("readonly", (store) => store.getAll()).catch(() => []) : [];
    for (const address of this.#addresses.splice(0)) URL.revokeObjectURL(address);
    $("history").replaceChildren(...rows.reverse().map((row) => this.#item(row)));
    $("history-none").hidden = Boolean(rows.length) || !this.#box.checked;
    $("history-all").hidden = !rows.length;
  }

  #item(row) {
    const address = URL.createObjectURL(row.picture);
    this.#addresses.push(address);
    const day = () => new Intl.DateTimeFormat(language(), { dateStyle: "medium" }).format(new Date(row.when));
    const best = isCertain(row) || row.outcome === "probable" ? null : say(element("span.quiet.small"), () => row.kinds.map((kind) => text(kind)).join(", "));
    const remove = say(element("button.link", { type: "button", click: () => this.#remove(row.id) }), "delete_it");
    say(remove, () => text("forget_one", { name: nameOf(row) }), undefined, "label");
    return element("li", {}, element("img", { src: address, alt: "", width: 72, height: 72 }), element("div", {}, say(element("bdi"), () => nameOf(row)), best, say(element("span.quiet.small"), day), remove));
  }

  async #remove(id) {
    const buttons = () => [...$("history").querySelectorAll("button")];
    const place = buttons().indexOf(document.activeElement);
    await this.forget(id);
    const left = buttons();
    (left[Math.min(Math.max(place, 0), left.length - 1)] ?? this.#box).focus();
  }
}

async function small(blob) {
  const bitmap = await createImageBitmap(blob);
  const side = Math.min(bitmap.width, bitmap.height);
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = SIDE;
  canvas.getContext("2d").drawImage(bitmap, (bitmap.width - side) / 2, (bitmap.height - side) / 2, side, side, 0, 0, SIDE, SIDE);
  bitmap.close();
  return new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.8));
}

let database = null;

function opened() {
  database ??= new Promise((done, failed) => {
    const asking = indexedDB.open("fruits", 1);
    asking.onupgradeneeded = () => asking.result.createObjectStore(STORE, { keyPath: "id", autoIncrement: true });
    asking.onsuccess = () => done(asking.result);
    asking.onerror = () => failed(asking.error);
  });
  return database;
}

/** Ask the store, and wait until the answer is on the disk. */
async function asked(mode, what) {
  const transaction = (await opened()).transaction(STORE, mode);
  const asking = what(transaction.objectStore(STORE));
  return new Promise((done, failed) => {
    transaction.oncomplete = () => done(asking.result);
    transaction.onerror = transaction.onabort = () => failed(transaction.error);
  });
}
