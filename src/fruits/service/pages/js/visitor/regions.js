// Several kinds in one photo: boxes over it, each with its own answer; and a box that the visitor draws to ask about a part.
//
// Loaded only when asked for. Knows nothing of where answers come from: `look` gives them, from the service or from this device.

import { answerParts, nameOf, spokenLine } from "./answer.js";
import { element } from "../elements.js";
import { inASentence, language, percent, say, text } from "../localisation.js";

const LEAST = 0.02; // recogniser/regions.py, LEAST_SIDE
const FIRST = [0.3, 0.3, 0.7, 0.7]; // where a box to ask about begins
const STEP = 0.02;
let made = 0;
const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Parts {
  #look;
  #announce;
  #explain;
  #body;
  #whole = say(element("p.quiet"), "parts_whole");
  #layer = element("div.parts-over");
  #inner = element("div");
  #said = element("p.parts-said", { tabindex: "-1" });
  #answer = element("div.part-answer");
  #keys = say(element("p.part-keys.quiet.small", { id: `part-keys-${++made}`, hidden: true }), "part_keys");
  #asking = element("p.buttons", { hidden: true });
  #regions = [];
  #found = () => ""; // what is said of the parts that were looked for
  #box = null; // while the visitor draws one
  #busy = false;

  /**
   * @param {{frame: HTMLElement, body: HTMLElement, size: {width: number, height: number}, look: (wish: object) => Promise<object>,
   *   announce: (what: any) => void, explain: (error: Error, place: HTMLElement) => void}} given
   *   `body` says what the whole photo shows. `look` takes {regions: true} or {box}, and gives a list of answers with their boxes, or one answer.
   */
  constructor({ frame, body, size, look, announce, explain }) {
    this.#body = body;
    this.#look = look;
    this.#announce = announce;
    this.#explain = explain;
    this.#inner.style.aspectRatio = `${size.width} / ${size.height}`;
    this.#inner.style.width = `min(100%, calc(100cqh * ${size.width / size.height}))`;
    this.#layer.append(this.#inner);
    frame.append(this.#layer);
    say(this.#inner, "parts", undefined, "label");
    this.#inner.setAttribute("role", "group");
    const button = (key, click, classes = "") => say(element(`button.button.small${classes}`, { type: "button", click }), key);
    this.#asking.append(button("part_ask", () => this.#ask(), ".first"), button("part_cancel", () => this.#cancel()));
    this.#inner.addEventListener("pointerdown", (event) => this.#drawFrom(event));
    // Or the swipe is taken for a fling, and the next tap for what stops it.
    this.#inner.addEventListener("touchstart", (event) => this.#box && event.preventDefault(), { passive: false });
  }

  /** What is said of the parts: goes below the buttons. */
  get node() {
    this.panel ??= element("div.parts-of", {}, this.#said, this.#keys, this.#asking, this.#answer);
    return this.panel;
  }

  /** Look for several kinds. */
  async find() {
    if (this.#busy) return;
    this.#marked(null);
    await this.#while("parts_looking", async () => {
      const found = await this.#look({ regions: true });
      if (!found) {
        say(this.#said, "parts_untold");
        this.#announce("parts_untold");
        return;
      }
      this.#regions = found;
      this.#draw();
      this.#inView();
      this.#found = () => sentence(found);
      say(this.#said, this.#found);
      this.#announce(this.#found);
      this.#answer.replaceChildren();
      if (found.length === 1) this.#choose(0, { aloud: false });
    });
  }

  /** Let the visitor mark a part. */
  mark() {
    if (this.#busy) return;
    say(this.#said, "part_how");
    this.#answer.replaceChildren();
    this.#marked([...FIRST]);
    this.#inView();
    this.#inner.querySelector(".mark").focus({ preventScroll: true });
  }

  /** The buttons stand below the answer, and may have been pressed with the photo out of sight. */
  #inView() {
    const { top } = this.#layer.getBoundingClientRect();
    if (top < 0 || top > innerHeight / 2) this.#layer.parentElement.scrollIntoView({ block: "start" });
  }

  async #ask() {
    if (this.#busy || !this.#box) return;
    const box = this.#box.map((side) => Number(side.toFixed(4)));
    await this.#while("looking", async () => {
      const answer = { ...(await this.#look({ box })), box };
      this.#box = null;
      this.#asking.hidden = this.#keys.hidden = true;
      this.#regions = [...this.#regions, answer];
      this.#draw();
      this.#said.replaceChildren();
      say(this.#said, () => "");
      this.#choose(this.#regions.length - 1);
    });
  }

  async #while(key, work) {
    this.#busy = true;
    say(this.#said, key);
    this.#announce(key);
    this.node.setAttribute("aria-busy", "true");
    try {
      await work();
    } catch (error) {
      this.#explain(error, this.#said);
      this.#announce(this.#said.textContent);
    } finally {
      this.#busy = false;
      this.node.removeAttribute("aria-busy");
    }
  }

  // --- Boxes over the photo -------------------------------------------------------------------------------------------

  #draw() {
    const boxes = this.#regions.map((region, at) => {
      const one = element("button.part", { type: "button", "aria-pressed": "false", click: () => this.#choose(at) }, element("span", { "aria-hidden": "true" }, String(at + 1)));
      say(one, () => text("part_number", { n: at + 1, name: shortName(region) }), undefined, "label");
      return placed(one, region.box);
    });
    this.#inner.replaceChildren(...boxes);
    if (boxes.length) this.#body.prepend(this.#whole); // what follows is not of the part above it
    else this.#whole.remove();
  }

  #choose(at, { aloud = true } = {}) {
    [...this.#inner.querySelectorAll(".part")].forEach((one, number) => one.setAttribute("aria-pressed", String(number === at)));
    const answer = this.#regions[at];
    const { first, more } = answerParts(answer, { asked: false });
    this.#answer.replaceChildren(...first, ...more);
    if (aloud) this.#announce(spokenLine(answer));
  }

  // --- A box of the visitor's -----------------------------------------------------------------------------------------

  #marked(box) {
    this.#box = box;
    this.#asking.hidden = this.#keys.hidden = !box;
    this.#inner.classList.toggle("marking", Boolean(box));
    this.#inner.querySelector(".mark")?.remove();
    if (!box) return;
    const mark = element("div.mark", { tabindex: "0", role: "application", "aria-describedby": this.#keys.id, keydown: (event) => this.#key(event) });
    say(mark, () => where(this.#box ?? FIRST), undefined, "label");
    this.#inner.append(placed(mark, box));
  }

  /** Mark nothing after all: what was said before stands again, and the focus goes back to the button. */
  #cancel() {
    this.#marked(null);
    say(this.#said, this.#found);
    this.#body.querySelector(".closer button:last-child")?.focus({ preventScroll: true });
  }

  #moved(box) {
    this.#box = box;
    const mark = placed(this.#inner.querySelector(".mark"), box);
    say(mark, () => where(box), undefined, "label");
  }

  #key(event) {
    if (event.key === "Enter") this.#ask();
    else if (event.key === "Escape") this.#cancel();
    else if (KEYS[event.key]) {
      const [across, down] = KEYS[event.key].map((way) => way * STEP);
      const [left, top, right, bottom] = this.#box;
      const moved = event.shiftKey
        ? [left, top, Math.min(1, Math.max(left + LEAST, right + across)), Math.min(1, Math.max(top + LEAST, bottom + down))]
        : shifted(this.#box, across, down);
      this.#moved(moved);
      this.#announce(() => where(moved));
    } else return;
    event.preventDefault();
  }

  #drawFrom(event) {
    if (!this.#box || this.#busy || event.button) return;
    event.preventDefault();
    const { left, top, width, height } = this.#inner.getBoundingClientRect();
    const at = ({ clientX, clientY }) => [(clientX - left) / width, (clientY - top) / height].map((side) => Math.min(1, Math.max(0, side)));
    const [x, y] = at(event);
    this.#inner.setPointerCapture(event.pointerId);
    const move = (next) => {
      const [toX, toY] = at(next);
      this.#moved(spread([Math.min(x, toX), Math.min(y, toY), Math.max(x, toX), Math.max(y, toY)]));
    };
    const end = () => {
      this.#inner.removeEventListener("pointermove", move);
      for (const name of ["pointerup", "pointercancel"]) this.#inner.removeEventListener(name, end);
      this.#inner.querySelector(".mark")?.focus({ preventScroll: true });
    };
    this.#inner.addEventListener("pointermove", move);
    for (const name of ["pointerup", "pointercancel"]) this.#inner.addEventListener(name, end);
  }
}

/** A box that is wide and high enough to be asked about. */
function spread([left, top, right, bottom]) {
  const [across, down] = [Math.max(LEAST, right - left), Math.max(LEAST, bottom - top)];
  const [x, y] = [Math.min(left, 1 - across), Math.min(top, 1 - down)];
  return [x, y, x + across, y + down];
}

function shifted([left, top, right, bottom], across, down) {
  const x = Math.min(1 - right, Math.max(-left, across));
  const y = Math.min(1 - bottom, Math.max(-top, down));
  return [left + x, top + y, right + x, bottom + y];
}

function placed(node, [left, top, right, bottom]) {
  const share = (side) => `${(100 * side).toFixed(2)}%`;
  Object.assign(node.style, { left: share(left), top: share(top), width: share(right - left), height: share(bottom - top) });
  return node;
}

const where = ([left, top, right, bottom]) =>
  text("part_where", { left: percent(left), right: percent(right), top: percent(top), bottom: percent(bottom) });

/** A region in a few words: "banana", "probably kiwi (69%)", "not sure". */
function shortName(answer) {
  const name = answer.name ? inASentence(text(answer.name)) : nameOf(answer).toLowerCase();
  return answer.outcome === "probable" ? text("part_probable", { name, share: percent(answer.probability) }) : name;
}

/** "I see three: banana, kiwi and lime." */
function sentence(regions) {
  const named = regions.filter(({ name }) => name);
  const unsure = regions.length - named.length;
  if (!named.length) return text(unsure ? "parts_unsure" : "parts_none", { n: unsure });
  const list = new Intl.ListFormat(language() === "en" ? "en-GB" : language(), { type: "conjunction" });
  const number = text("parts_numbers").split("|")[named.length - 1];
  const seen = text("parts_seen", { number, names: list.format(named.map(shortName)) });
  return unsure ? `${seen} ${text("parts_unsure", { n: unsure })}` : seen;
}
