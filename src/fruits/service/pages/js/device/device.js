// Recognition on the visitor's own device: offered where the runtime was built, loaded only when chosen.

import { Refused, ask, modelInfo, pageInfo } from "../api.js";
import { later } from "../later.js";
import { pixels } from "./photo.js";
import { at } from "../place.js";

const WORKER = "/static/js/device/device-worker.js"; // linking.py puts the file that belongs to this page here

/** What is said of a model that could not be loaded, by the code of the error; of any other: "device_failed". */
export const WHY = { offline: "device_offline", updated: "device_updated" };

/** Whether this browser and this service have what the mode needs. */
export async function canRunHere() {
  return typeof WebAssembly === "object" && typeof Worker === "function" && Boolean((await pageInfo()).device);
}

export class Device {
  #runtime = null;
  #model = null;
  #gallery = null;
  #deciding = null; // the module that makes answers of numbers
  #worker = null;
  #opening = null;
  #refuse = () => {};
  #gone = false;
  #asked = new Map();
  #number = 0;

  /** Return how many bytes the mode loads, or null where it cannot be had. */
  async available() {
    if (!(await canRunHere())) return null;
    this.#runtime = (await pageInfo()).device;
    const about = await modelInfo().catch(() => null);
    return about ? this.#runtime.bytes + about.bytes + 4 * about.gallery.photos * (1 + about.gallery.components) : null;
  }

  /**
   * Load everything.
   *
   * @param {(share: number) => void} progress  Told the share that has come.
   * @param {() => void} broken  Called if the worker stops after that.
   */
  open(progress, broken = () => {}) {
    this.#opening ??= new Promise((done, refuse) => {
      this.#refuse = refuse;
      this.#open(progress, broken).then(done, refuse);
    });
    return this.#opening;
  }

  /** End the worker and free its memory; what is still waited for is refused with the code "left". */
  close() {
    const left = new Refused("left", null);
    this.#gone = true;
    this.#worker?.terminate();
    this.#worker = null;
    this.#refuse(left);
    this.#refuseAll(left);
  }

  /** Recognise a JPEG that this page made; an answer of the service's shape. */
  async recognise(blob) {
    const photo = await pixels(blob);
    const shortSide = Math.min(photo.width, photo.height);
    const numbers = await this.numbers(photo);
    return { ...this.answer(numbers, shortSide), similar: this.#deciding.nearest(numbers.features, this.#gallery, this.#model) };
  }

  /**
   * What the network says of pixels.
   *
   * @param {{width: number, height: number, rgb: Uint8Array}} photo  Given away.
   */
  async numbers(photo) {
    return (await this.#ask("recognise", { photo }, [photo.rgb.buffer])).numbers;
  }

  /** The answer that numbers give, without similar photos. */
  answer(numbers, shortSide) {
    const answer = this.#deciding.decide(numbers, this.#model, shortSide);
    if (answer.map) answer.map.fit = this.#model.fit;
    return answer;
  }

  /** The regions of a photo, as the service finds them; null if this recogniser does not tell where answers come from. */
  async regions(blob) {
    return (await this.#parts(blob)).regions();
  }

  /** The answer for a part of a photo: left, top, right, bottom as fractions. */
  async part(blob, box) {
    return (await this.#parts(blob)).part(box);
  }

  async #parts(blob) {
    const { LONGEST, Finder } = await later(import("./find-regions.js"));
    const photo = await pixels(blob);
    const size = { width: photo.width, height: photo.height };
    const picture = await this.#ask("working", { photo, longest: LONGEST }, [photo.rgb.buffer]);
    return new Finder(picture, size, this.#model, (cuts) => this.#ask("look", { picture, cuts }));
  }

  async #open(progress, broken) {
    this.#runtime = (await pageInfo()).device;
    if (!this.#runtime) throw new Error("this service has no runtime for it");
    // The service worker keeps what passes through it, for use without a connection; it must be there first.
    if (navigator.serviceWorker) await Promise.race([navigator.serviceWorker.ready, new Promise((done) => setTimeout(done, 3000))]);
    if ("caches" in window) await caches.open("fruits-device");
    this.#deciding = await later(import("./decide.js"));
    this.#model = await modelInfo();
    this.#gallery = await gallery(this.#model);
    if (this.#gone) throw new Refused("left", null); // a worker made now would never end
    this.#worker = new Worker(at(WORKER), { type: "module" });
    let started = false;
    this.#worker.addEventListener("message", ({ data }) => {
      started = true;
      this.#heard(data, progress);
    });
    const stopped = async () => {
      if (!started) {
        this.#refuseAll(await notStarted()); // its opener is told
        return;
      }
      this.#refuseAll(new Error("the worker stopped"));
      broken();
    };
    this.#worker.addEventListener("error", stopped);
    this.#worker.addEventListener("messageerror", stopped);
    const { size, fit, kernel, recognizer, sha256, bytes } = this.#model;
    await this.#ask("open", { runtime: this.#runtime, preprocessing: { size, fit, kernel }, recognizer, sha256, bytes });
    await deleteOthers(recognizer, this.#runtime);
  }

  #ask(what, given, transfer = []) {
    if (!this.#worker) return Promise.reject(this.#gone ? new Refused("left", null) : new Error("not open"));
    const number = ++this.#number;
    return new Promise((resolve, reject) => {
      this.#asked.set(number, { resolve, reject });
      this.#worker.postMessage({ number, what, ...given }, transfer);
    });
  }

  #refuseAll(error) {
    for (const { reject } of this.#asked.values()) reject(error);
    this.#asked.clear();
  }

  #heard({ number, share, result, error, offline }, progress) {
    if (share !== undefined) {
      progress(share);
      return;
    }
    const asked = this.#asked.get(number);
    this.#asked.delete(number);
    if (error !== undefined) asked?.reject(offline ? new Refused("offline", null) : new Error(error));
    else asked?.resolve(result);
  }
}

/** Why the worker did not start: there is no connection, the service was updated since the page was opened, or it cannot run here. */
function notStarted() {
  return ask(WORKER).then(
    () => new Error("the worker did not start"),
    (error) => (error.status === 404 ? new Refused("updated", null) : error),
  );
}

async function gallery({ identity, gallery: { photos, components, features } }) {
  const buffer = await (await ask(features)).arrayBuffer();
  if (buffer.byteLength !== 4 * photos * (1 + components)) throw new Error("another gallery than announced");
  // Both are little-endian, as every device with a browser is.
  return { identity, labels: new Int32Array(buffer, 0, photos), features: new Float32Array(buffer, 4 * photos) };
}

/** Drop models and runtimes of other versions from what is kept for use without a connection. */
async function deleteOthers(recognizer, runtime) {
  if (!("caches" in window)) return;
  const store = await caches.open("fruits-device");
  const wanted = new Set([recognizer, runtime.module, runtime.wasm, "/v1/model"].map(at));
  const identity = recognizer.split("/").at(-2);
  for (const request of await store.keys()) {
    const { pathname } = new URL(request.url);
    if (!wanted.has(pathname) && !pathname.startsWith(at(`/v1/gallery/${identity}/`))) await store.delete(request);
  }
}
