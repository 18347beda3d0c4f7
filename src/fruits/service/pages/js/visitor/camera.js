// The live camera: a viewfinder that names what it sees, on this device. Nothing is sent, and nothing is kept without the shutter.
//
// It works no more than it must: the next look begins after a rest as long as the last one took, frames that show nothing new are
// not looked at, a hidden tab gives the camera back, and so does a picture that has stood still for a minute.

import { isCertain, nameOf } from "./answer.js";
import { Device, WHY } from "../device/device.js";
import { element, icon } from "../elements.js";
import { percent, say, text } from "../localisation.js";
import { LONGEST, QUALITY } from "../device/photo.js";

const WANTED = { facingMode: "environment", width: { ideal: 1024 }, height: { ideal: 768 }, frameRate: { ideal: 15, max: 30 } };
const LOOK_MS = 150; // from one look to the next, at least
const COMPARE_MS = 200; // from one comparison of frames to the next, while nothing moves
const LOOKED_AT = 448; // pixels of the longer side that are looked at: twice the network's
const THUMB = [32, 24]; // pixels in which frames are compared
const MOVED = 5; // levels of 255 by which frames differ on average if something moved
const OTHER_SCENE = 40; // the same, if nothing of before counts any more
const ENOUGH = 4; // looks at a picture that stands still
const NEW_WEIGHT = 0.35; // of a look among those before it
const TWICE = 2; // looks that must agree before another name is shown
const SPOKEN_MS = 4000; // from one announcement to the next
const KEPT_MS = 60_000; // how long the network stays loaded after the camera was closed
export const IDLE_MS = 60_000;

let kept = null; // the network of the last time
let releaseTimer = 0;

/** The network without the camera, for more questions about what was kept; loaded again if it was let go. */
export async function network() {
  clearTimeout(releaseTimer);
  const device = (kept ??= new Device());
  releaseTimer = setTimeout(() => closeDevice(device), KEPT_MS);
  try {
    await device.open(() => {});
  } catch (error) {
    closeDevice(device);
    throw error;
  }
  return device;
}

function closeDevice(device) {
  device.close();
  if (kept === device) kept = null;
}

export class Viewfinder {
  #device = null;
  #lent; // a network that others use, too
  #keep;
  #idleMs;
  #stream = null;
  #open = true;
  #wished = 0; // of the newest wish for a camera; what an older one gets is released
  #taking = false; // the shutter was pressed
  #ready = false; // the network
  #paused = false;
  #facing = "environment";
  #before = null; // the last frame looked at, small
  #smooth = null; // numbers of the last looks
  #calm = 0; // looks since something moved
  #still = null; // since when frames are only compared
  #shown = null; // what is named
  #next = { name: null, times: 0 };
  #announced = -SPOKEN_MS; // when something was announced last
  #speaking = 0;
  #wake = () => {};
  #grabbed = document.createElement("canvas");
  #thumb = Object.assign(document.createElement("canvas"), { width: THUMB[0], height: THUMB[1] });

  /**
   * Open it.
   *
   * @param {{lent: Device|null, keep: (photo: object, answer: Promise<object>) => void, idleMs?: number}} given  `lent`: a network that is
   *   loaded already; `keep`: takes the photo of the shutter, as photo.js makes them, and its answer.
   */
  constructor({ lent, keep, idleMs = IDLE_MS }) {
    this.#lent = lent;
    this.#keep = keep;
    this.#idleMs = idleMs;
    this.video = element("video", { autoplay: true, playsinline: true, muted: true, "aria-hidden": "true" });
    this.video.muted = true;
    this.name = element("p.live-name", { "aria-hidden": "true" });
    this.fill = element("span.fill");
    this.more = element("p.live-more", { "aria-hidden": "true" });
    this.status = element("p.unseen", { role: "status" });
    this.problem = element("p.live-problem", { role: "alert", hidden: true });
    this.goOn = say(element("button.button.first", { type: "button", hidden: true, click: () => this.#resume() }), "live_go_on");
    this.shutter = element("button.shutter", { type: "button", disabled: true, click: () => this.#take() });
    say(this.shutter, "live_shutter", undefined, "label");
    this.turn = element("button.live-button", { type: "button", hidden: true, click: () => this.#turn() }, icon("turn", 24));
    say(this.turn, "live_turn", undefined, "label");
    const close = element("button.live-button", { type: "button", autofocus: true, click: () => this.dialog.close() }, icon("no", 24));
    say(close, "live_close", undefined, "label");
    this.dialog = element(
      "dialog.viewfinder",
      { "data-answers": 0, "data-frames": 0 },
      this.video,
      element("div.live-said", {}, this.name, element("span.live-track", { "aria-hidden": "true" }, this.fill), this.more, this.problem, this.goOn),
      element("div.live-bar", {}, close, this.shutter, this.turn),
      say(element("p.live-fate"), "live_nothing_sent"),
      this.status,
    );
    say(this.dialog, "live", undefined, "label");
    this.dialog.addEventListener("close", () => this.#close());
    document.addEventListener("visibilitychange", this.#visible);
    document.body.append(this.dialog);
    this.dialog.showModal();
    this.#tell("live_starting");
    this.#start();
    this.#load();
    this.#run();
  }

  // --- The camera and the network ----------------------------------------------------------------------------------------

  async #start() {
    if (this.#stream || !this.#open) return;
    const wish = ++this.#wished;
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { ...WANTED, facingMode: this.#facing }, audio: false });
    } catch (error) {
      if (wish !== this.#wished) return;
      const why = { NotAllowedError: "live_denied", SecurityError: "live_denied", NotFoundError: "live_none", OverconstrainedError: "live_none", NotReadableError: "live_busy" };
      this.#fail(why[error.name] ?? "live_failed", { again: true });
      return;
    }
    if (wish !== this.#wished || document.hidden) {
      stop(stream); // closed, hidden or turned meanwhile
      return;
    }
    this.#stream = stream;
    stream.getVideoTracks()[0].addEventListener("ended", () => this.#stream === stream && this.#fail("live_ended", { again: true }));
    this.video.srcObject = stream;
    this.#before = this.#still = null;
    await this.video.play().catch(() => {});
    const cameras = (await navigator.mediaDevices.enumerateDevices()).filter((one) => one.kind === "videoinput");
    this.turn.hidden = cameras.length < 2;
    this.#wake();
  }

  #stop() {
    this.#wished += 1;
    if (this.#stream) stop(this.#stream);
    this.#stream = this.video.srcObject = null;
    this.shutter.disabled = true;
  }

  async #load() {
    clearTimeout(releaseTimer);
    this.#device = this.#lent ?? kept ?? new Device();
    if (!this.#lent) kept = this.#device;
    try {
      await this.#device.open((share) => !this.#ready && this.#open && this.#tell("live_loading", { get share() { return percent(share); } }));
    } catch (error) {
      this.#closeDevice();
      this.#fail(WHY[error.code] ?? "device_failed");
      return;
    }
    this.#ready = true;
    this.#tell("live_point");
    this.#wake();
  }

  #closeDevice() {
    if (!this.#lent && this.#device) closeDevice(this.#device);
  }

  #close() {
    this.#open = false;
    this.#stop();
    clearTimeout(this.#speaking);
    document.removeEventListener("visibilitychange", this.#visible);
    if (!this.#ready) this.#closeDevice();
    else releaseTimer = setTimeout(() => this.#closeDevice(), KEPT_MS);
    this.#wake();
    this.dialog.remove();
  }

  #visible = () => {
    if (document.hidden) this.#stop();
    else if (!this.#paused) this.#start();
    this.#wake();
  };

  /** Give the camera back until somebody wants it again. */
  #pause() {
    this.#paused = true;
    this.#stop();
    this.#tell("live_paused");
    say(this.goOn, "live_go_on").hidden = false;
  }

  #resume() {
    this.#paused = false;
    this.goOn.hidden = true;
    this.problem.hidden = true;
    this.#tell(this.#ready ? "live_point" : "live_starting");
    this.dialog.querySelector("[autofocus]").focus();
    this.#start();
  }

  #turn() {
    this.#facing = this.#facing === "environment" ? "user" : "environment";
    this.#stop();
    this.#start();
  }

  // --- Frames and looks ----------------------------------------------------------------------------------------------------

  async #run() {
    while (this.#open) {
      if (!this.#ready || !this.#stream || this.video.readyState < 2) {
        await this.#sleep(COMPARE_MS);
        continue;
      }
      const started = performance.now();
      this.shutter.disabled = false;
      this.dialog.dataset.frames = Number(this.dialog.dataset.frames) + 1;
      const change = this.#changed();
      if (change > MOVED) {
        this.#calm = 0;
        this.#still = null;
        if (change > OTHER_SCENE) this.#smooth = null;
      }
      if (this.#calm >= ENOUGH) {
        this.#still ??= started;
        if (started - this.#still > this.#idleMs) this.#pause();
        await this.#sleep(COMPARE_MS);
        continue;
      }
      this.#calm += 1;
      try {
        await this.#look();
      } catch (error) {
        if (this.#open) {
          this.#closeDevice();
          this.#fail("device_failed");
        }
        return;
      }
      const took = performance.now() - started;
      await this.#sleep(Math.max(took, LOOK_MS - took)); // half of the time at most
    }
  }

  /** How much the frame differs from the last one that was looked at, in levels of 255. */
  #changed() {
    const context = this.#thumb.getContext("2d", { willReadFrequently: true, alpha: false });
    context.drawImage(this.video, 0, 0, ...THUMB);
    const { data } = context.getImageData(0, 0, ...THUMB);
    if (!this.#before) {
      this.#before = data;
      return 255;
    }
    let sum = 0;
    for (let at = 0; at < data.length; at++) sum += Math.abs(data[at] - this.#before[at]);
    const change = (4 * sum) / (3 * data.length); // opacity never differs
    if (change > MOVED) this.#before = data;
    return change;
  }

  async #look() {
    const { videoWidth, videoHeight } = this.video;
    const scale = Math.min(1, LOOKED_AT / Math.max(videoWidth, videoHeight));
    const [width, height] = [Math.round(videoWidth * scale), Math.round(videoHeight * scale)];
    Object.assign(this.#grabbed, { width, height });
    const context = this.#grabbed.getContext("2d", { willReadFrequently: true, alpha: false });
    context.drawImage(this.video, 0, 0, width, height);
    const { data } = context.getImageData(0, 0, width, height);
    const rgb = new Uint8Array(3 * width * height);
    for (let from = 0, to = 0; to < rgb.length; from += 4, to += 3) {
      rgb[to] = data[from];
      rgb[to + 1] = data[from + 1];
      rgb[to + 2] = data[from + 2];
    }
    const numbers = await this.#device.numbers({ width, height, rgb });
    if (!this.#open) return;
    this.#smooth = this.#smooth ? blended(this.#smooth, numbers) : numbers;
    this.dialog.dataset.answers = Number(this.dialog.dataset.answers) + 1;
    this.#show(this.#device.answer(this.#smooth, Math.min(videoWidth, videoHeight)));
  }

  /** Show an answer; another name only once it has come twice, so that it does not flicker. */
  #show(answer) {
    const name = [answer.outcome, answer.kind, answer.variety].join();
    this.#next = { name, times: this.#next.name === name ? this.#next.times + 1 : 1 };
    if (this.#shown !== name && this.#shown !== null && this.#next.times < TWICE) return;
    if (this.#shown !== name) this.#say(nameOf(answer));
    this.#shown = name;
    const sure = isCertain(answer) || answer.outcome === "probable";
    say(this.name, () => nameOf(answer));
    say(this.more, () => (answer.outcome === "unsure" ? answer.kinds.map((kind) => text(kind)).join(", ") : ""));
    this.fill.style.width = `${sure ? 100 * answer.probability : 0}%`;
  }

  // --- What it says ----------------------------------------------------------------------------------------------------------

  /** Say something to screen readers: the newest, and not several times a second. */
  #say(what) {
    clearTimeout(this.#speaking);
    const wait = Math.max(0, this.#announced + SPOKEN_MS - performance.now());
    this.#speaking = setTimeout(() => {
      this.#announced = performance.now();
      this.status.textContent = what;
    }, wait);
  }

  /** Say what goes on instead of a name. */
  #tell(key, values) {
    this.#shown = null;
    this.fill.style.width = 0;
    say(this.name, key, values);
    say(this.more, () => "");
    if (key !== "live_loading") this.#say(text(key));
  }

  /** Say why nothing is seen; `again`: the visitor can do something about it, and try again. */
  #fail(key, { again = false } = {}) {
    this.#stop();
    this.#paused = true;
    this.name.textContent = this.more.textContent = "";
    this.name.removeAttribute("data-said");
    this.problem.hidden = false;
    say(this.problem, key);
    say(this.goOn, "again").hidden = !again;
  }

  /** Keep what is seen now: the photo and its answer become a card, and the viewfinder makes room for it. */
  async #take() {
    if (this.#taking) return; // a second press makes no second card
    this.#taking = true;
    const { videoWidth, videoHeight } = this.video;
    const scale = Math.min(1, LONGEST / Math.max(videoWidth, videoHeight));
    const canvas = Object.assign(document.createElement("canvas"), { width: Math.round(videoWidth * scale), height: Math.round(videoHeight * scale) });
    canvas.getContext("2d", { alpha: false }).drawImage(this.video, 0, 0, canvas.width, canvas.height);
    const blob = await new Promise((done) => canvas.toBlob(done, "image/jpeg", QUALITY));
    const device = this.#device;
    this.dialog.close();
    if (blob) this.#keep({ blob, width: canvas.width, height: canvas.height }, device.recognise(blob));
  }

  /** Wait, unless something happens before. */
  #sleep(time) {
    return new Promise((done) => {
      const timer = setTimeout(done, time);
      this.#wake = () => {
        clearTimeout(timer);
        done();
      };
    });
  }
}

function stop(stream) {
  for (const track of stream.getTracks()) track.stop();
}

/** Numbers of the last looks together, the newest with a weight of its own. */
function blended(old, now) {
  const mean = (a, b) => (1 - NEW_WEIGHT) * a + NEW_WEIGHT * b;
  return { ...now, ood_score: mean(old.ood_score, now.ood_score), probabilities: now.probabilities.map((p, label) => mean(old.probabilities[label], p)) };
}
