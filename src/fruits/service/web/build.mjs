// Puts what the pages take from npm where the service finds it: pages/vendor, ignored by git. Of swagger-ui-dist the page /docs is
// made: a script and a style.
//
// Of onnxruntime-web the build for the processor alone, one thread: a module and a WebAssembly file (14 MB, 3.7 MB compressed,
// which is how it is stored and sent). The version is in their names, so that browsers may keep them for ever.
import { createHash } from "node:crypto";
import { copyFileSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

const here = dirname(fileURLToPath(import.meta.url));
const vendor = join(here, "..", "pages", "vendor");
const from = join(here, "node_modules", "onnxruntime-web");
const { version, license } = JSON.parse(readFileSync(join(from, "package.json"), "utf8"));

const parts = {
  module: ["ort.wasm.bundle.min.mjs", `ort-${version}.mjs`],
  wasm: ["ort-wasm-simd-threaded.wasm", `ort-${version}.wasm`],
};

rmSync(vendor, { recursive: true, force: true });
mkdirSync(vendor, { recursive: true });
const runtime = { name: "onnxruntime-web", version, license, files: [], sha256: {}, packed: {}, unpacked: {}, bytes: 0 };
for (const [part, [source, target]] of Object.entries(parts)) {
  let content = readFileSync(join(from, "dist", source));
  // The source map is not served; without its line no browser asks for it.
  if (part === "module") content = Buffer.from(content.toString("utf8").replace(/\n?\/\/# sourceMappingURL=.*\s*$/, "\n"));
  const packed = gzipSync(content, { level: 9 });
  writeFileSync(join(vendor, `${target}.gz`), packed);
  runtime[part] = `/static/vendor/${target}`;
  runtime.files.push(`vendor/${target}`);
  runtime.sha256[part] = createHash("sha256").update(content).digest("hex");
  runtime.packed[part] = packed.length;
  runtime.unpacked[part] = content.length;
  runtime.bytes += packed.length;
}
const ui = join(here, "node_modules", "swagger-ui-dist");
const about = JSON.parse(readFileSync(join(ui, "package.json"), "utf8"));
const docs = { name: "swagger-ui-dist", version: about.version, license: about.license, files: [] };
for (const [part, source, target] of [
  ["script", "swagger-ui-bundle.js", `swagger-ui-${about.version}.js`],
  ["style", "swagger-ui.css", `swagger-ui-${about.version}.css`],
]) {
  const content = readFileSync(join(ui, source), "utf8").replace(/\n?(\/\/|\/\*)# sourceMappingURL=.*\s*$/, "\n");
  writeFileSync(join(vendor, `${target}.gz`), gzipSync(content, { level: 9 }));
  docs[part] = `static/vendor/${target}`;
  docs.files.push(`vendor/${target}`);
}
for (const name of ["LICENSE", "NOTICE", "swagger-ui-bundle.js.LICENSE.txt"]) copyFileSync(join(ui, name), join(vendor, `swagger-ui.${name}`));
writeFileSync(join(vendor, "docs.json"), JSON.stringify(docs, null, 1) + "\n");
copyFileSync(join(here, "onnxruntime-web.LICENSE.txt"), join(vendor, "LICENSE.txt"));
// Last, so that a build that was cut short counts as none.
writeFileSync(join(vendor, "runtime.json"), JSON.stringify(runtime, null, 1) + "\n");
console.log(`onnxruntime-web ${version} and swagger-ui-dist ${about.version} in pages/vendor, ${(runtime.bytes / 1e6).toFixed(1)} MB compressed of the former`);
