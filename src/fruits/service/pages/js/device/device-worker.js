// Beside the page, so that it stays smooth: loads runtime and network, turns pixels into the numbers that an answer is made of.

import { cutOut, intoSquare, reduced, working } from "./pixels.js";
import { at } from "../place.js";

let session = null;
let ort = null;
let preprocessing = null;
let columnsFirst = false;

const WHAT = {
  open,
  recognise: ({ photo }) => recognise(photo),
  working: ({ photo, longest }) => working(photo, longest, preprocessing, columnsFirst),
  look: ({ picture, cuts }) => look(picture, cuts),
};

onmessage = async ({ data }) => {
  const { number, what } = data;
  try {
    const result = await WHAT[what](data);
    postMessage({ number, result });
  } catch (error) {
    postMessage({ number, error: String(error?.message ?? error), offline: error instanceof NoConnection });
  }
};

class NoConnection extends Error {}

async function open({ runtime, preprocessing: given, recognizer, sha256, bytes }) {
  preprocessing = given;
  columnsFirst = runtime.columns_first;
  const total = runtime.bytes + bytes;
  let come = 0;
  const more = (piece) => postMessage({ share: Math.min(0.99, (come += piece) / total) });
  const network = await loaded(recognizer, more);
  // What is run is what the service named, also when it comes out of a cache; only where the page may compute it (https).
  if (globalThis.crypto?.subtle && (await hex(network)) !== sha256) throw new Error("another network than announced");
  const wasm = await loaded(runtime.wasm, (piece) => more(piece * (runtime.packed.wasm / runtime.unpacked.wasm)));
  try {
    ort = await import(at(runtime.module));
  } catch {
    throw new NoConnection("no runtime");
  }
  ort.env.wasm.numThreads = 1; // more need headers that forbid what other sites may want
  ort.env.wasm.wasmBinary = wasm;
  session = await ort.InferenceSession.create(network, { executionProviders: ["wasm"], graphOptimizationLevel: "all" });
  // The first run allocates; a visitor should not wait for that.
  await run(new Uint8Array(3 * preprocessing.size ** 2).fill(255));
  return null;
}

async function recognise(photo) {
  const numbers = await run(intoSquare(reduced(photo, preprocessing), preprocessing, columnsFirst));
  if (![...numbers.features, ...numbers.probabilities].every(Number.isFinite)) throw new Error("no embedding"); // as the service
  return { numbers };
}

/** The numbers of parts of a picture, each as of a photo of its own; null where there are none. */
async function look(picture, cuts) {
  const found = [];
  for (const cut of cuts) {
    const numbers = await run(cutOut(picture, cut, preprocessing, columnsFirst));
    found.push([...numbers.features, ...numbers.probabilities].every(Number.isFinite) ? numbers : null);
  }
  return found;
}

async function run(pixels) {
  const { size } = preprocessing;
  const out = await session.run({ pixels: new ort.Tensor("uint8", pixels, [1, size, size, 3]) });
  const numbers = {
    probabilities: Float32Array.from(out.probabilities.data),
    features: Float32Array.from(out.features.data),
    evidence: out.evidence ? Float32Array.from(out.evidence.data) : null, // of each place of the map, if the network has one
    ood_score: (out.ood_score ?? out.strangeness).data[0], // strangeness: in bundles before format 6
    brightness: out.brightness.data[0],
    sharpness: out.sharpness.data[0],
  };
  for (const tensor of Object.values(out)) tensor.dispose?.();
  return numbers;
}

async function loaded(address, progress) {
  let answer;
  try {
    answer = await fetch(at(address), { credentials: "omit" });
  } catch {
    throw new NoConnection(address);
  }
  if (!answer.ok) throw new Error(`${address}: ${answer.status}`);
  const pieces = [];
  let length = 0;
  const reader = answer.body.getReader();
  try {
    for (let next = await reader.read(); !next.done; next = await reader.read()) {
      pieces.push(next.value);
      length += next.value.length;
      progress(next.value.length);
    }
  } catch {
    throw new NoConnection(address);
  }
  const whole = new Uint8Array(length);
  let filled = 0;
  for (const piece of pieces) {
    whole.set(piece, filled);
    filled += piece.length;
  }
  return whole;
}

async function hex(bytes) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
