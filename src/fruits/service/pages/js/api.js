// The service, asked over HTTP: its answers, and its errors as one kind of exception.

import { at } from "./place.js";

const PATIENCE_S = 60;

/** What went wrong, in every language; `retryAfter` in seconds where trying again makes sense. */
export class Refused extends Error {
  constructor(code, message, { status = 0, retryAfter = null } = {}) {
    super(code);
    this.code = code;
    this.message = code;
    this.said = message;
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

/** Recognise up to 8 photos; `signal` stops them from being sent. Of a single one also a part (`box`), or each part (`regions`). */
export async function recognise(blobs, { keep, show = false, language, signal = null, regions = false, box = null }) {
  const form = new FormData();
  // No file names: they are nobody's business.
  blobs.forEach((blob, number) => form.append("photo", blob, `${number + 1}.jpg`));
  form.append("keep", String(keep));
  form.append("show", String(show));
  form.append("explain", "true"); // the answer with its activation map
  if (regions) {
    form.append("regions", "true");
    form.append("again", "true"); // the page offers them beside an answer: the photo is no new one
  }
  if (box) form.append("box", box.map((side) => side.toFixed(4)).join(","));
  form.append("lang", language);
  return (await ask("/v1/recognise", { method: "POST", body: form, signal })).json();
}

export async function giveFeedback(said) {
  await ask("/v1/feedback", { method: "POST", body: JSON.stringify(said), headers: { "Content-Type": "application/json" } });
}

/** What is stored of a photo, and the photo itself or null. */
export async function storedOf(id, secret) {
  const headers = { "X-Fruits-Secret": secret };
  const found = await (await ask(`/v1/submissions/${encodeURIComponent(id)}`, { headers })).json();
  const photo = found.has_photo ? await (await ask(`/v1/submissions/${encodeURIComponent(id)}/photo`, { headers })).blob() : null;
  return { found, photo };
}

export async function deleteSubmission(id, secret) {
  await ask(`/v1/submissions/${encodeURIComponent(id)}`, { method: "DELETE", headers: { "X-Fruits-Secret": secret } });
}

let labels = null;

/** Everything that can be recognised; asked once. */
export function knownLabels() {
  labels ??= ask("/v1/labels").then((answer) => answer.json());
  labels.catch(() => (labels = null));
  return labels;
}

let page = null;

/** What this installation says of itself to its pages; asked once. */
export function pageInfo() {
  page ??= ask("/static/page.json").then((answer) => answer.json());
  page.catch(() => (page = null));
  return page;
}

export const modelInfo = async () => (await ask("/v1/model")).json();

/** Ask; an answer that is no success is an exception, and so is none at all. */
export async function ask(address, { signal = null, ...options } = {}) {
  let answer;
  const ending = new AbortController();
  const end = () => ending.abort();
  const patience = setTimeout(end, 1000 * PATIENCE_S);
  signal?.addEventListener("abort", end);
  try {
    answer = await fetch(at(address), { credentials: "omit", redirect: "error", signal: ending.signal, ...options });
  } catch {
    clearTimeout(patience);
    throw new Refused("offline", null);
  } finally {
    // Once there is an answer it is read: what it says of a photo that was kept must not get lost.
    signal?.removeEventListener("abort", end);
  }
  if (answer.ok) return answer;
  const header = Number(answer.headers.get("Retry-After"));
  const retryAfter = header > 0 && header < 3600 ? header : null;
  let error = null;
  try {
    ({ error } = await answer.json());
  } catch {
    // A proxy between may answer in its own way.
  }
  const told = typeof error?.message?.en === "string" ? error.message : null;
  throw new Refused(typeof error?.code === "string" ? error.code : "internal", told, { status: answer.status, retryAfter });
}
