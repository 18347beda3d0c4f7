// Lets the page open without a connection, and keeps what the on-device mode needs. KNOWN (version, shell) is put before this line
// by pages.py and changes with every file, so that a browser notices each update.
//
// Of the shell the network's word counts, with the kept copy after a few seconds; what never changes under its address comes from
// the cache first. Photos, answers, feedback and everything of the owner's pass by untouched.

const SHELL = `fruits-shell-${KNOWN.version}`;
const DEVICE = "fruits-device";
const PATIENCE_MS = 4000;
const ROOT = new URL("./", location).pathname; // of the service: this script lies there
const PART = /^static\/linked\/.+\.[0-9a-f]{8}\.js$/; // of a page, of one version only
const FOR_EVER = /^(static\/vendor\/.+|v1\/model\/[0-9a-f]+\/recognizer\.onnx|v1\/gallery\/.+)$/;

addEventListener("install", (event) => {
  const all = KNOWN.shell.map((address) => new Request(ROOT + address, { cache: "no-cache" }));
  event.waitUntil(caches.open(SHELL).then((store) => store.addAll(all)).then(() => skipWaiting()));
});

addEventListener("activate", (event) => {
  event.waitUntil(
    (async () => {
      for (const name of await caches.keys()) {
        if (name.startsWith("fruits-shell-") && name !== SHELL) await caches.delete(name);
      }
      await clients.claim();
    })(),
  );
});

addEventListener("fetch", (event) => {
  const { request } = event;
  const { origin, pathname } = new URL(request.url);
  if (request.method !== "GET" || origin !== location.origin || !pathname.startsWith(ROOT)) return;
  const address = pathname.slice(ROOT.length);
  if (FOR_EVER.test(address)) event.respondWith(cacheFirst(request));
  else if (PART.test(address)) event.respondWith(caches.match(request, { ignoreVary: true }).then((kept) => kept ?? fetch(request)));
  else if (address === "v1/model") event.respondWith(networkFirst(request, DEVICE, true));
  else if (KNOWN.shell.includes(address)) event.respondWith(networkFirst(request, SHELL, false));
});

async function cacheFirst(request) {
  const kept = await caches.match(request, { cacheName: DEVICE, ignoreVary: true });
  if (kept) return kept;
  const answer = await fetch(request);
  // Kept only for those who chose the on-device mode: their page made this store.
  if (answer.ok && answer.headers.get("Cache-Control") !== "no-store" && (await caches.has(DEVICE))) {
    try {
      await (await caches.open(DEVICE)).put(request, answer.clone());
    } catch {
      // No room: then it works online only.
    }
  }
  return answer;
}

async function networkFirst(request, name, keep) {
  const kept = caches.match(request, { cacheName: name, ignoreVary: true, ignoreSearch: true });
  const asked = fetch(request).then(async (answer) => {
    if (keep && answer.ok && (await caches.has(name))) await (await caches.open(name)).put(request, answer.clone()).catch(() => {});
    return answer;
  });
  const late = new Promise((done) => setTimeout(done, PATIENCE_MS)).then(() => kept).then((found) => found ?? asked);
  try {
    return await Promise.race([asked, late]);
  } catch (error) {
    const found = await kept;
    if (found) return found;
    throw error;
  }
}
