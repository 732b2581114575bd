/** `npm run build`: everything that the page needs, in one HTML file that works from a double click. */

import { mkdir, readFile, writeFile } from "node:fs/promises";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";
import { gunzipSync, gzipSync } from "node:zlib";

export const BUILT = fileURLToPath(new URL("../../gan_plugin/explorer/explorer.html", import.meta.url));

const ORT = "node_modules/onnxruntime-web/dist/";
const MODULES = {
  "onnxruntime-web/wasm": `${ORT}ort.wasm.bundle.min.mjs`, // the build for the CPU alone
  "gan.mjs": "../node/gan.mjs",
  "directions.mjs": "directions.mjs",
  "request.mjs": "request.mjs",
  "engine.mjs": "engine.mjs",
  "worker.mjs": "worker.mjs",
  "explorer.mjs": "explorer.mjs",
};
const LICENSE = "onnxruntime-license.txt";

const read = (path) => readFile(new URL(path, import.meta.url));
const text = async (path) => (await read(path)).toString("utf8");

export async function build() {
  const modules = Object.entries(MODULES).map(async ([name, path]) => asScript(name, await text(path)));
  const wasm = gzipSync(await read(`${ORT}ort-wasm-simd-threaded.wasm`), { level: 9 }).toString("base64");
  const parts = {
    "<!-- license of ONNX Runtime -->": `<!--\n${await text(LICENSE)}-->`,
    "/* style.css */": await text("style.css"),
    "<!-- modules -->": (await Promise.all(modules)).join("\n"),
    'id="wasm"></script>': `id="wasm">${wasm}</script>`,
  };
  // a function as replacement: as text, its dollar signs would mean something
  return Object.entries(parts).reduce((page, [mark, part]) => page.replace(mark, () => part), await text("index.html"));
}

function asScript(name, source) {
  if (/<\/script|<!--/i.test(source)) throw new Error(`${name} has text in it that would end a script of HTML.`);
  return `<script type="text/plain" data-module="${name}">\n${source.replace(/^\/\/# sourceMappingURL=.*\n?/m, "")}</script>`;
}

/** The page with its wasm unpacked: the packed bytes depend on the version of zlib. */
export function unpacked(page) {
  return page.replace(/(?<=id="wasm">)[^<]*/, (packed) => gunzipSync(Buffer.from(packed, "base64")).toString("base64"));
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  await mkdir(dirname(BUILT), { recursive: true });
  await writeFile(BUILT, await build());
  console.log(BUILT);
}
