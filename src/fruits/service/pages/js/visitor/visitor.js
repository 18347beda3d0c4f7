// The visitor's page: photos come in by camera, file picker, drag and drop or paste; a card per photo says what it shows.

import { Refused, ask, recognise } from "../api.js";
import { answerParts, spokenLine } from "./answer.js";
import { Choices } from "./choices.js";
import { canRunHere } from "../device/device.js";
import { DeviceSwitch } from "../device/device-switch.js";
import { element } from "../elements.js";
import { feedbackParts } from "./feedback.js";
import { later, laterFor } from "../later.js";
import { MapToggle } from "./map.js";
import { sayPrivacy } from "./privacy.js";
import { Unreadable, shrink } from "../device/photo.js";
import { has, language, say, localise, text } from "../localisation.js";
import { at } from "../place.js";

const AT_ONCE = 8; // photos of a request
const MOST = 40; // photos of one drop
const TRIES = 3; // of a busy service, by itself
const WAIT_S = 30; // at most, between them

localise();

const $ = (id) => document.getElementById(id);
const picker = $("picker");
const answers = $("answers");
let count = 0;
const waiting = new Set(); // what to do once there is a connection
const unanswered = new Set(); // cards
const cardOf = new WeakMap(); // by the element that shows it
const asking = new Set(); // cards whose photo was not sent, and which ask what to do
const sending = new Set(); // what stops requests that are on their way
const device = new DeviceSwitch({ turned, announce, said: () => choices.sayWay() });
const choices = new Choices(device);
let history = null; // a promise of what remembers answers, once the visitor wants that or did before
device.start();
sayPrivacy().catch(() => {}); // without a connection there are the general words
let chosen = false; // the visitor turned the switch while that was loaded, or before
$("remember").addEventListener("change", () => {
  chosen = true;
  remembers();
});
if (storageHas("fruits.history")) remembers();

/** Load what remembers answers; the rest of the page does without it. */
function remembers() {
  history ??= loadedHistory();
}

async function loadedHistory() {
  const part = await laterFor($("remember").parentElement, import("./history.js"));
  if (part) return new part.History(() => document.querySelectorAll(".card").forEach((node) => cardOf.get(node)?.remember()), chosen);
  $("remember").checked = false; // as nothing is remembered
  history = null; // the next turn of the switch tries again
  return null;
}

function storageHas(key) {
  try {
    return localStorage.getItem(key) !== null;
  } catch {
    $("remember").disabled = true; // this browser keeps nothing
    return false;
  }
}

// --- Photos come in ---------------------------------------------------------------------------------------------------

for (const input of [$("camera"), $("files")]) {
  input.addEventListener("change", () => {
    take(input.files);
    input.value = ""; // the same photo can be chosen again
  });
}
picker.addEventListener("submit", (event) => event.preventDefault());

let inside = 0;
addEventListener("dragenter", (event) => {
  if (!hasFiles(event.dataTransfer)) return;
  event.preventDefault();
  inside += 1;
  picker.classList.add("dropping");
});
addEventListener("dragleave", () => {
  inside = Math.max(0, inside - 1);
  if (!inside) picker.classList.remove("dropping");
});
addEventListener("dragover", (event) => hasFiles(event.dataTransfer) && event.preventDefault());
addEventListener("drop", (event) => {
  if (!hasFiles(event.dataTransfer)) return;
  event.preventDefault();
  inside = 0;
  picker.classList.remove("dropping");
  take(event.dataTransfer.files);
});
addEventListener("paste", (event) => {
  const files = [...(event.clipboardData?.files ?? [])];
  if (files.length) {
    event.preventDefault();
    take(files);
  }
});
const hasFiles = (transfer) => [...(transfer?.types ?? [])].includes("Files");

for (const button of document.querySelectorAll("[data-sample]")) {
  say(button, "sample_number", { n: Number(button.dataset.sample) }, "label");
  button.addEventListener("click", async () => {
    try {
      const picture = await (await ask(`/static/samples/${button.dataset.sample}.jpg`)).blob();
      take([picture], { sample: true });
    } catch {
      notice("offline_notice");
    }
  });
}

// The live camera, where the page can look at photos by itself.
if (navigator.mediaDevices?.getUserMedia) {
  canRunHere().then((can) => ($("live").hidden = !can), () => {}); // without a connection there is nothing to offer
  $("live").addEventListener("click", async () => {
    const part = await laterFor($("live").parentElement, import("./camera.js"));
    if (part) new part.Viewfinder({ lent: device.loaded ? await device.ready().catch(() => null) : null, keep: keepFrame });
  });
}

/** What the shutter took becomes a card; the photo stays on this device. */
async function keepFrame(photo, answer) {
  const card = new Card(photo.blob);
  card.stays = true;
  card.shows(photo);
  show([card]);
  try {
    card.answered(await answer, { here: true });
  } catch (error) {
    card.failed(error);
  }
}

function show(cards) {
  document.documentElement.classList.add("answered"); // the picker makes room for the answer
  answers.prepend(...cards.map((card) => card.node)); // the previews, at once
  intoView(cards[0].node);
}

async function take(list, { sample = false } = {}) {
  let files = [...list];
  if (!files.length) {
    notice("no_photo");
    return;
  }
  if (files.length > MOST) notice("too_many", { n: MOST });
  else connection(false);
  files = files.slice(0, MOST);
  const cards = files.map((file) => new Card(file, sample));
  show(cards);
  for (let start = 0; start < cards.length; start += AT_ONCE) {
    const some = [];
    for (const card of cards.slice(start, start + AT_ONCE)) if (await card.prepare()) some.push(card);
    if (some.length) await look(some);
  }
}

/** Bring the top of a card into the upper half of the screen, where its answer is seen with its photo. */
function intoView(card) {
  const { top } = card.getBoundingClientRect();
  if (scrollY === 0 && top < innerHeight / 2) return;
  if (top >= 0 && top < innerHeight / 4) return;
  card.scrollIntoView({ block: "start", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
}

// --- Photos are looked at ---------------------------------------------------------------------------------------------

/** The one way of photos to an answer. A photo that was on the page while the switch was on is sent only if the visitor says so. */
async function look(cards) {
  for (const card of cards) {
    asking.delete(card);
    card.stays ||= device.on;
    card.busy();
  }
  const some = cards.filter((card) => !card.stays);
  if (some.length < cards.length) await lookHere(cards.filter((card) => card.stays));
  if (some.length) await send(some);
}

async function send(cards) {
  for (let trial = 1; ; trial++) {
    if (cards.some((card) => card.stays)) {
      await look(cards); // it was switched on meanwhile
      return;
    }
    const stop = new AbortController();
    sending.add(stop);
    try {
      const kept = choices.keep && cards.every((card) => card.keep); // of when the photo was chosen, and not taken back since
      const shown = kept && choices.show && cards.every((card) => card.show);
      const { photos } = await recognise(cards.map((card) => card.blob), { keep: kept, show: shown, language: language(), signal: stop.signal });
      cards.forEach((card, number) => (photos[number].error ? card.failed(refusal(photos[number].error)) : card.answered(photos[number])));
      return;
    } catch (error) {
      if (cards.some((card) => card.stays)) continue;
      const again = error instanceof Refused && error.retryAfter && trial < TRIES ? Math.min(error.retryAfter, WAIT_S) : 0;
      if (!again) {
        for (const card of cards) card.failed(error);
        return;
      }
      await pause(again, (left) => cards.forEach((card) => card.waits(error, left)), () => cards.some((card) => card.stays));
      for (const card of cards) card.busy();
    } finally {
      sending.delete(stop);
    }
  }
}

/** Look at photos on this device; they wait for the model, and ask if there is none. */
async function lookHere(cards) {
  for (const card of cards) card.holds();
  for (const card of cards) {
    for (;;) {
      try {
        const model = await device.ready();
        card.busy();
        card.answered(await model.recognise(card.blob), { here: true });
      } catch (error) {
        if (device.loaded && error.code !== "left") card.failed(error);
        else if (!device.on || device.failed) card.asks();
        else continue; // it was switched off and on, or is loaded again
      }
      break;
    }
  }
}

/** What the switch changes at once: what is on its way is stopped, what waits stays here. */
function turned() {
  choices.turned();
  if (device.on) {
    for (const card of unanswered) card.stays = true;
    for (const stop of sending) stop.abort();
  }
  const cards = [...asking];
  if (device.on && !device.failed) {
    asking.clear();
    if (cards.length) look(cards);
  } else for (const card of cards) card.asks();
  if (!navigator.onLine) connection();
}

const refusal = ({ code, message }) => new Refused(code, message, { status: 422 });

async function pause(seconds, tell, enough) {
  for (let left = seconds; left > 0 && !enough(); left--) {
    tell(left);
    await new Promise((done) => setTimeout(done, 1000));
  }
}

/** A photo and what is said of it. */
class Card {
  constructor(file, sample = false) {
    this.file = file;
    this.sample = sample; // a picture of ours: nothing of it is kept, and nothing is asked
    this.remembered = null; // the answer's number in the history
    this.blob = null;
    this.keep = choices.keep && !sample;
    this.show = choices.show && !sample;
    this.stays = device.on; // on this device, whatever is switched later
    unanswered.add(this);
    count += 1;
    this.picture = element("img", { src: URL.createObjectURL(file), decoding: "async" });
    say(this.picture, "photo_number", { n: count }, "alt");
    this.picture.addEventListener("error", () => this.picture.classList.add("broken"));
    this.body = element("div.said-of-it");
    this.frame = element("div.picture", {}, this.picture);
    this.node = element("article.card", { "aria-busy": "true" }, this.frame, this.body);
    cardOf.set(this.node, this);
    this.busy();
  }

  async prepare() {
    try {
      this.shows(await shrink(this.file));
    } catch (error) {
      this.failed(error);
      return false;
    }
    // From here on the small photo is shown and the large one can go.
    URL.revokeObjectURL(this.picture.src);
    this.picture.src = URL.createObjectURL(this.blob);
    this.file = null;
    return true;
  }

  /** Take the small photo, and as much room for it as its shape needs. */
  shows(small) {
    this.small = small;
    this.blob = small.blob;
    this.frame.style.setProperty("--ratio", String(small.width / small.height));
  }

  busy() {
    this.node.setAttribute("aria-busy", "true");
    this.body.replaceChildren(element("p.looking", {}, element("span.spinner", { "aria-hidden": "true" }), say(element("span"), "looking")));
  }

  holds() {
    this.node.setAttribute("aria-busy", "true");
    this.body.replaceChildren(element("p.looking", {}, element("span.spinner", { "aria-hidden": "true" }), say(element("span"), "device_waits")));
  }

  /** Say why the photo was not looked at, and ask what to do with it. */
  asks() {
    this.done();
    asking.add(this);
    const message = say(element("p.problem"), device.on ? "device_asks" : "device_left");
    const again = () => {
      asking.delete(this);
      if (device.failed) device.open();
      look([this]);
    };
    const away = () => {
      asking.delete(this);
      if (device.on) device.turn(false);
      this.stays = false;
      look([this]);
    };
    const button = (key, click) => say(element("button.button.small", { type: "button", click }), key);
    const buttons = device.on ? [button("again", again), button("device_off_send", away)] : [button("device_send", away)];
    this.body.replaceChildren(message, element("p.buttons", {}, ...buttons));
  }

  answered(answer, { here = false } = {}) {
    this.done();
    unanswered.delete(this);
    this.answer = answer;
    const plain = here ? "on_device" : this.sample ? "of_ours" : null;
    const { first, more } = answerParts(answer, { asked: !plain });
    const foot = plain
      ? [element("p.fate.quiet", {}, say(element("span"), plain))]
      : feedbackParts(answer, { failed: (error, place) => explain(error, place), deleted: () => this.gone(answer.kept ? "deleted_kept" : "deleted") });
    const fate = foot.pop();
    const pass = async () => (await laterFor(fate, import("./share.js")))?.share(answer, this.blob);
    fate.append(say(element("button.link", { type: "button", click: pass }), "share"));
    this.body.replaceChildren(...first, ...foot, ...(answer.map ? [this.closer()] : []), ...more, fate);
    this.frame.querySelectorAll(".map, .map-toggle").forEach((one) => one.remove());
    this.frame.querySelectorAll(".parts-over, .parts-of").forEach((one) => one.remove());
    if (answer.map) this.frame.append(...new MapToggle(answer, this.small).nodes);
    announce(spokenLine(answer));
    this.remember();
  }

  /** Buttons that ask about parts of the photo; what they need is loaded when one is pressed. */
  closer() {
    let parts = null;
    const open = async (what) => {
      // Once there, it answers at once: a key that follows must find the box, not the button.
      const part = parts ?? (await laterFor(node, import("./regions.js")));
      if (!part) return;
      parts ??= new part.Parts({ frame: this.frame, body: this.body, size: this.small, look: (wish) => this.lookCloser(wish), announce, explain });
      if (!parts.node.isConnected) this.frame.append(parts.node);
      await parts[what]();
    };
    const button = (key, what) => say(element("button.button.small", { type: "button", click: () => open(what) }), key);
    const node = element("p.buttons.closer", {}, button("several", "find"), button("part", "mark"));
    return node;
  }

  /** The answers for the parts of the photo, or for one part: where the photo was looked at, and nowhere else while the switch is on. */
  async lookCloser({ regions = false, box = null }) {
    if (!this.stays && !device.on) {
      const stop = new AbortController();
      sending.add(stop);
      try {
        const { photos } = await recognise([this.blob], { keep: false, language: language(), signal: stop.signal, regions, box });
        if (photos[0].error) throw refusal(photos[0].error);
        return regions ? photos[0].regions : photos[0];
      } catch (error) {
        if (!device.on) throw error;
      } finally {
        sending.delete(stop);
      }
    }
    const model = device.on ? await device.ready() : await (await later(import("./camera.js"))).network();
    return regions ? model.regions(this.blob) : model.part(this.blob, box);
  }

  /** Put the answer into the history, once, if the visitor wants one. */
  async remember() {
    if (!history || !this.answer || this.sample || this.remembered !== null || this.node.classList.contains("gone")) return;
    this.remembered = 0; // under way
    const kept = await history;
    if (!kept) {
      this.remembered = null;
      return;
    }
    this.remembered = await kept.add(this.answer, this.blob);
    if (this.remembered && this.node.classList.contains("gone")) kept.forget(this.remembered); // deleted meanwhile
  }

  failed(error) {
    this.done();
    const message = element("p.problem");
    explain(error, message, "offline"); // it waits for a connection
    announce(message.textContent);
    const parts = [message];
    if (error instanceof Unreadable) {
      this.node.classList.add("unreadable"); // there is nothing to show of it but its name
      parts.push(element("p.quiet.small", {}, element("bdi", {}, this.file.name ?? "")));
    }
    if (!(error instanceof Unreadable) && ![413, 415, 422].includes(error.status)) {
      const again = () => {
        waiting.delete(again);
        look([this]);
      };
      if (error.code === "offline") waiting.add(again);
      parts.push(element("p.buttons", {}, say(element("button.button.small", { type: "button", click: again }), "again")));
    }
    this.body.replaceChildren(...parts);
  }

  waits(error, left) {
    const message = element("p.problem");
    explain(error, message);
    this.body.replaceChildren(message, say(element("p.quiet"), "waiting", { n: left }));
  }

  gone(words) {
    if (this.remembered) history.then((kept) => kept?.forget(this.remembered));
    this.body.replaceChildren(say(element("p.said", { tabindex: "-1" }), words));
    this.body.firstChild.focus({ preventScroll: true });
    this.node.classList.add("gone");
    URL.revokeObjectURL(this.picture.src);
    this.frame.replaceChildren();
    announce(words);
  }

  done() {
    this.node.removeAttribute("aria-busy");
  }
}

// --- What the page says about itself ------------------------------------------------------------------------------------

function explain(error, place, offline = "offline_notice") {
  if (error instanceof Unreadable) say(place, "unreadable");
  else if (error.code === "offline") say(place, offline);
  else if (error.code === "updated") say(place, "updated_notice");
  else say(place, error.said ?? "went_wrong");
}

function announce(what) {
  say($("status"), typeof what === "string" ? () => (has(what) ? text(what) : what) : what);
}

function notice(what, values) {
  $("notice").hidden = !what;
  if (what) say($("notice"), what, values);
}

function connection(tryAgain = true) {
  if (!navigator.onLine) notice(device.loaded ? "offline_device" : "offline_notice");
  else notice(null);
  if (navigator.onLine && tryAgain) for (const again of [...waiting]) again();
}
addEventListener("online", () => connection());
addEventListener("offline", () => connection());

if ("serviceWorker" in navigator) navigator.serviceWorker.register(at("/sw.js")).catch(() => {}); // without it the page works online only
connection();
