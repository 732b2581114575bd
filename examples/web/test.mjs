/** `npm test`: the built page in a real browser, opened as a file, without a network. */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, afterEach, before, beforeEach, describe, test } from "node:test";
import { fileURLToPath, pathToFileURL } from "node:url";

import * as ort from "onnxruntime-web/wasm";
import { chromium } from "playwright-core";

import { Generator, latents } from "../node/gan.mjs";
import { build, BUILT, unpacked } from "./build.mjs";
import { findDirections, makeProbes, principal } from "./directions.mjs";
import { aim, curl, requestRow } from "./request.mjs";

const path = (relative) => fileURLToPath(new URL(relative, import.meta.url));
const MODEL = path("../digits.onnx");
const { images: VECTORS } = JSON.parse(await readFile(path("../vectors.json"), "utf8"));

let browser;
let page;
let folder;
let requests;
let complaints;

before(async () => {
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: ["--no-sandbox"],
  });
  folder = await mkdtemp(join(tmpdir(), "gan-"));
});
after(async () => {
  await browser?.close();
  await rm(folder, { recursive: true });
});

// ---------------------------------------------------------------- hands and eyes

async function visit(file = BUILT) {
  const context = await browser.newContext({ permissions: ["clipboard-read", "clipboard-write"] });
  page = await context.newPage();
  page.setDefaultTimeout(20_000);
  [requests, complaints] = [[], []];
  page.on("request", (request) => requests.push(request.url()));
  page.on("console", (message) => complaints.push(message.text()));
  page.on("pageerror", (error) => complaints.push(error.message));
  await page.goto(pathToFileURL(file).href);
  await page.locator("body[data-ready]").waitFor({ state: "attached" });
}

async function open(file = MODEL) {
  await page.setInputFiles("#file", file);
  await settled();
}

const settled = () => page.locator('#explorer[aria-busy="false"]').waitFor();

async function directionsFound() {
  await page.locator("#directions input").first().waitFor();
  await settled();
}

/** Puts values into controls, as a hand does, and waits for the images. */
async function set(values) {
  for (const [selector, value] of Object.entries(values)) {
    const control = page.locator(selector);
    if (await control.evaluate((element) => element.tagName === "SELECT")) await control.selectOption(value);
    else await control.fill(String(value));
  }
  await settled();
}

/** Gray levels of a canvas, or its colors, without alpha. */
const look = (selector = "#image", nth = 0) =>
  page
    .locator(selector)
    .nth(nth)
    .evaluate((canvas) => {
      // a copy is read: reading the page's own would make Chromium complain of it
      const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d");
      copy.drawImage(canvas, 0, 0);
      const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
      const colors = [...data].filter((_, i) => i % 4 !== 3);
      const isGray = colors.every((value, i) => value === colors[i - (i % 3)]);
      return isGray ? colors.filter((_, i) => i % 3 === 0) : colors;
    });

function apart(a, b) {
  assert.equal(a.length, b.length);
  return Math.max(...Array.from(a, (value, i) => Math.abs(value - b[i])));
}

const message = () => page.locator("#message").textContent();
const request = async () => JSON.parse((await page.locator("#request").textContent()).match(/-d '(.*)'$/)[1]);

// ---------------------------------------------------------------- the page

test("the built page is what build.mjs makes of the sources", async () => {
  assert.ok(unpacked(await readFile(BUILT, "utf8")) === unpacked(await build()), "npm run build, and commit the page");
});

describe("with a model from a file", () => {
  beforeEach(async () => {
    await visit();
    await open();
  });
  afterEach(async () => {
    const outward = requests.filter((url) => !/^(file|blob|data):/.test(url));
    await page.context().close();
    assert.deepEqual(outward, []);
    assert.ok(requests.length > 0);
    assert.deepEqual(complaints, []);
  });

  test("images are those of gan_plugin", async () => {
    for (const { image, seed, label, truncation, to_seed: toSeed, position } of VECTORS) {
      await set({
        "#seed": seed,
        "#class": label === null ? "" : String(label),
        "#truncation": truncation ?? 3,
        "#to-seed": toSeed ?? 0,
        "#position": position ?? 0,
      });
      assert.ok(apart(await look(), Buffer.from(image, "base64")) <= 1, `seed ${seed}`);
    }
  });

  test("the grid shows consecutive seeds, and a click or an arrow key chooses one", async () => {
    const vector = VECTORS.find(({ seed, label, truncation }) => seed === 7 && label === null && truncation === null);
    assert.ok(apart(await look("#grid canvas", 7), Buffer.from(vector.image, "base64")) <= 1);
    await page.locator("#grid button").nth(7).click();
    await settled();
    assert.equal(await page.locator("#seed").inputValue(), "7");
    assert.ok(apart(await look(), await look("#grid canvas", 7)) <= 1);
    await page.keyboard.press("ArrowRight");
    await page.keyboard.press("ArrowDown");
    assert.equal(await page.locator("#seed").inputValue(), "14");
    assert.equal(await page.locator('#grid [aria-pressed="true"]').getAttribute("aria-label"), "Seed 14, class 4");
    await page.keyboard.press("ArrowLeft");
    await page.keyboard.press("ArrowUp");
    assert.equal(await page.locator("#seed").inputValue(), "7");
  });

  test("pages of seeds turn, from 0 to the largest", async () => {
    const firstSeed = () => page.locator("#first").inputValue();
    const firstImage = await look("#grid canvas");
    await page.locator("#next").click();
    await settled();
    assert.equal(await firstSeed(), "48");
    assert.notDeepEqual(await look("#grid canvas"), firstImage);
    await page.locator("#previous").click();
    await page.locator("#previous").click();
    await settled();
    assert.equal(await firstSeed(), "0");
    assert.deepEqual(await look("#grid canvas"), firstImage);
    await set({ "#first": 2 ** 53 - 50 });
    await page.locator("#next").click();
    await settled();
    assert.equal(
      await page.locator("#grid button").last().getAttribute("aria-label"),
      "Seed 9007199254740991, class 1",
    );
  });

  test("every control changes the image, and reset brings it back", async () => {
    await directionsFound();
    const usual = await look();
    const controls = { "#class": "5", "#truncation": 0.3, "#position": 0.5 };
    assert.equal(await page.locator("#directions input").count(), 8);
    for (const i of [0, 1, 2]) controls[`#directions .way:nth-child(${i + 1}) input`] = 3;
    for (const [control, value] of Object.entries(controls)) {
      await set({ "#to-seed": 10, [control]: value });
      assert.ok(apart(await look(), usual) > 20, control);
      await page.locator("#reset").click();
      await settled();
      assert.deepEqual(await look(), usual, control);
    }
  });

  test("class and truncation are those of the grid, too", async () => {
    await set({ "#class": "5", "#truncation": 0.4 });
    const vector = VECTORS.find(({ seed, label, truncation }) => seed === 3 && label === 5 && truncation === 0.4);
    assert.ok(apart(await look("#grid canvas", 3), Buffer.from(vector.image, "base64")) <= 1);
    assert.equal(await page.locator("#class-shown").textContent(), "class 5");
  });

  test("the way between two seeds ends at both", async () => {
    await set({ "#class": "2", "#seed": 11 });
    const start = await look();
    await set({ "#seed": 12 });
    const end = await look();
    await set({ "#seed": 11, "#to-seed": 12, "#position": 0.5 });
    assert.ok(apart(await look(), start) > 20 && apart(await look(), end) > 20);
    await set({ "#position": 1 });
    assert.ok(apart(await look(), end) <= 1);
    await set({ "#position": 0 });
    assert.ok(apart(await look(), start) <= 1);
    assert.ok(apart(await look("#way canvas", 0), start) <= 1);
    assert.ok(apart(await look("#way canvas", 1), end) <= 1);
  });

  test("the images beside a direction are those at its ends", async () => {
    await directionsFound();
    const [left, right] = [await look("#directions canvas", 0), await look("#directions canvas", 1)];
    await set({ "#directions .way:first-child input": -4 });
    assert.ok(apart(await look(), left) <= 1);
    await set({ "#directions .way:first-child input": 4 });
    assert.ok(apart(await look(), right) <= 1);
    assert.ok(apart(left, right) > 20);
  });

  test("what is copied asks for the image that is shown", async () => {
    ort.env.wasm.numThreads = 1;
    const generator = await Generator.open(ort, await readFile(MODEL));
    const agrees = async () => {
      await page.locator("#copy").click();
      await page.locator("#copy", { hasText: "Copied" }).waitFor();
      const copied = await page.evaluate(() => navigator.clipboard.readText());
      assert.equal(copied, await page.locator("#request").textContent());
      assert.ok(
        copied.startsWith("curl -s http://127.0.0.1:5001/invocations -H 'Content-Type: application/json' -d '{"),
      );
      const { dataframe_records: rows } = await request();
      const [image] = await generator.images(rows);
      assert.ok(apart(await look(), image) <= 1);
      return rows;
    };
    assert.deepEqual(await agrees(), [{ seed: 0 }]);
    await set({ "#seed": 7, "#class": "3", "#truncation": 0.8, "#to-seed": 9, "#position": 0.25 });
    assert.deepEqual(await agrees(), [{ seed: 7, label: "3", truncation: 0.8, to_seed: 9, position: 0.25 }]);
    await directionsFound();
    await set({ "#class": "", "#directions .way:first-child input": 2 });
    const [row] = await agrees();
    assert.deepEqual([Object.keys(row), row.z.length, row.label], [["z", "label"], 64, "7"]);
  });

  test("the image is saved pixel by pixel", async () => {
    await set({ "#seed": 7 });
    const [download] = await Promise.all([page.waitForEvent("download"), page.locator("#save").click()]);
    assert.equal(download.suggestedFilename(), "seed-7.png");
    const png = await readFile(await download.path());
    assert.deepEqual([png.toString("latin1", 1, 4), png.readUInt32BE(16), png.readUInt32BE(20)], ["PNG", 28, 28]);
  });

  test("a seed that is none is refused in one sentence, and the image stays", async () => {
    const usual = await look();
    await page.locator("#seed").fill("-1");
    assert.equal(await message(), "A seed is a whole number from 0 to 9007199254740991.");
    assert.deepEqual(await look(), usual);
    await set({ "#seed": 4 });
    assert.equal(await message(), "");
  });

  test("a wrong file is refused in one sentence, and the model stays", async () => {
    await page.setInputFiles("#file", path("package.json"));
    await page.locator("#message", { hasText: "This is not an ONNX file." }).waitFor();
    await set({ "#seed": 7 });
    assert.equal(await message(), "");
  });

  test("another model takes the place of the first, even while it is still at work", async () => {
    const file = join(folder, "colors.onnx");
    await writeFile(file, colorModel());
    const turning = await page.evaluateHandle(() => setInterval(() => document.getElementById("next").click(), 2));
    await page.setInputFiles("#file", file);
    await page.locator("#about", { hasText: "colors.onnx · tiny · none · 2 × 2 · 12 latent numbers" }).waitFor();
    await turning.evaluate((timer) => clearInterval(timer));
    await page.locator("#found", { hasText: "8 of 12" }).waitFor();
    await set({ "#first": 0 });
    const expected = (seed) => Array.from(latents(seed, 12), (value) => Math.trunc(Math.abs(40 * value)));
    assert.deepEqual(await look(), expected(0));
    assert.deepEqual(await look("#grid canvas", 47), expected(47));
    assert.ok(await page.locator("#class-row").isHidden());
    assert.equal(await page.locator("#class-shown").textContent(), "");
    await set({ "#directions .way:first-child input": 1 });
    assert.deepEqual(Object.keys((await request()).dataframe_records[0]), ["z"]);
  });
});

test("a file can be dropped on the page, and one that is no generator gets one sentence", async () => {
  await visit();
  assert.ok(await page.locator("#welcome").isVisible());
  const drop = async (bytes) => {
    const transfer = await page.evaluateHandle((text) => {
      const transfer = new DataTransfer();
      transfer.items.add(new File([Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))], "dropped.onnx"));
      return transfer;
    }, bytes.toString("base64"));
    await page.dispatchEvent("body", "drop", { dataTransfer: transfer });
  };
  await drop(Buffer.from([0x72, 3, 0x0a, 1, 0x61])); // metadata of another program
  await page.locator("#message", { hasText: /^This file says no contract, not "1": it was not exported by/ }).waitFor();
  assert.ok(await page.locator("#welcome").isVisible());
  await drop(await readFile(MODEL));
  await page.locator("#about", { hasText: "dropped.onnx" }).waitFor();
  await settled();
  assert.ok(apart(await look(), Buffer.from(VECTORS[0].image, "base64")) <= 1);
  assert.deepEqual(complaints, []);
  await page.context().close();
});

test("of two files the one that was chosen last is shown, however long the first takes", async () => {
  await visit();
  const file = join(folder, "colors.onnx");
  await writeFile(file, colorModel());
  const firstIsRead = page.evaluate(() => {
    return new Promise((resolve) => {
      File.prototype.arrayBuffer = async function () {
        delete File.prototype.arrayBuffer; // of Blob again, for the second
        while (document.getElementById("about").textContent === "") await new Promise((wait) => setTimeout(wait, 10));
        resolve();
        return this.arrayBuffer();
      };
    });
  });
  await page.setInputFiles("#file", MODEL);
  await page.setInputFiles("#file", file);
  await firstIsRead;
  await page.waitForTimeout(1500); // time enough for the first to push itself forward
  assert.match(await page.locator("#about").textContent(), /^colors.onnx/);
  assert.ok(await page.locator("#explorer").isVisible());
  assert.deepEqual(complaints, []);
  await page.context().close();
});

test("a page with a model in it shows it at once", async () => {
  const embedded = join(folder, "embedded.html");
  const model = (await readFile(MODEL)).toString("base64");
  await writeFile(
    embedded,
    (await readFile(BUILT, "utf8")).replace('id="model">', () => `id="model">${model}`),
  );
  await visit(embedded);
  await settled();
  assert.ok(apart(await look(), Buffer.from(VECTORS[0].image, "base64")) <= 1);
  assert.deepEqual(complaints, []);
  await page.context().close();
});

test("a browser that does not start the worker gets one sentence", async () => {
  const strict = join(folder, "strict.html");
  await writeFile(
    strict,
    (await readFile(BUILT, "utf8")).replace("'wasm-unsafe-eval' blob: data:", "'wasm-unsafe-eval' blob:"),
  );
  await visit(strict);
  await page.setInputFiles("#file", MODEL);
  await page.locator("#message", { hasText: /^This browser does not start the page's worker: .+\.$/ }).waitFor();
  assert.ok(await page.locator("#welcome").isVisible());
  await page.context().close();
});

// ---------------------------------------------------------------- requests

test("a step moves z along its direction, and the request then gives z and the class", () => {
  const shape = { latentSize: 2, classNames: ["cat", "owl's"] };
  const directions = [{ vector: [0, 1] }, { vector: [1, 0] }];
  const [x, y] = latents(3, 2);
  const { z, label } = aim({ seed: 3 }, [2, -0.5], directions, shape);
  assert.deepEqual([z, label], [Float32Array.of(x - 0.5, y + 2), 1]);
  assert.deepEqual(requestRow({ seed: 3 }, [0, 0], directions, shape), { seed: 3 });
  const row = requestRow({ seed: 3 }, [2, -0.5], directions, shape);
  assert.deepEqual([Float32Array.from(row.z), row.label], [z, "owl's"]);
});

test("a class name with a quotation mark does not end the shell's", () => {
  const words = execFileSync("sh", ["-c", `set -- ${curl({ seed: 0, label: "owl's" })}; printf %s "$7"`]);
  assert.deepEqual(JSON.parse(words), { dataframe_records: [{ seed: 0, label: "owl's" }] });
});

// ---------------------------------------------------------------- directions

/** "Images" of two gray levels that depend on z along two directions only, `first` more than `second`. */
const linear = (first, second) => async (zs) =>
  zs.map((z) => {
    const along = (direction) => z.reduce((sum, value, i) => sum + value * direction[i], 0);
    return Float32Array.of(100 - 20 * along(first), 100 + 5 * along(second));
  });

test("the directions of most change are found, to brighter images", async () => {
  const [first, second] = [
    [0.6, 0.8, 0],
    [-0.8, 0.6, 0],
  ];
  const progress = [];
  const shape = { latentSize: 3, classNames: [] };
  const found = await findDirections(linear(first, second), shape, (value) => progress.push(value));
  assert.equal(found.length, 3);
  assert.ok(
    apart(
      found[0].vector,
      first.map((value) => -value),
    ) < 1e-4,
  );
  assert.ok(apart(found[1].vector, second) < 1e-4);
  assert.ok(
    apart(
      found.map(({ share }) => share),
      [400 / 425, 25 / 425, 0],
    ) < 1e-4,
  );
  assert.equal(progress.at(-1), 1);
});

test("in many dimensions they lie among fixed directions, the same every time", async () => {
  const probes = makeProbes(200);
  const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);
  assert.equal(probes.length, 128);
  for (const i of [0, 1, 127])
    assert.ok(
      apart(
        probes.map((probe) => dot(probe, probes[i])),
        probes.map((_, j) => +(i === j)),
      ) < 1e-5,
    );
  const run = () => findDirections(linear(probes[5], probes[9]), { latentSize: 200, classNames: [] }, () => {});
  const found = await run();
  assert.equal(found.length, 8);
  assert.ok(
    apart(
      found[0].vector,
      probes[5].map((value) => -value),
    ) < 1e-3,
  );
  assert.deepEqual(await run(), found);
});

test("eigenvectors are those of the matrix", () => {
  const [top, ...rest] = principal([
    [2, 1, 0],
    [1, 2, 0],
    [0, 0, 0.5],
  ]);
  assert.ok(
    apart(
      top.vector.map((value) => value * Math.sign(top.vector[0])),
      [Math.SQRT1_2, Math.SQRT1_2, 0],
    ) < 1e-9,
  );
  assert.ok(
    apart(
      [top, ...rest].map(({ share }) => share),
      [3 / 4.5, 1 / 4.5, 0.5 / 4.5],
    ) < 1e-9,
  );
});

// ---------------------------------------------------------------- a model made by hand

/** An unconditional generator of 2 x 2 colors: image = uint8(|40 z|), as the bytes of a ModelProto. */
function colorModel() {
  const varint = (n) => (n < 128 ? [n] : [(n & 127) | 128, ...varint(n >> 7)]);
  const number = (field, value) => [...varint(field << 3), ...varint(value)];
  const bytes = (field, content) => {
    const body = typeof content === "string" ? [...Buffer.from(content)] : content;
    return [...varint((field << 3) | 2), ...varint(body.length), ...body];
  };
  const node = (type, inputs, output, attributes = []) =>
    bytes(1, [...inputs.flatMap((name) => bytes(1, name)), ...bytes(2, output), ...bytes(4, type), ...attributes]);
  const tensor = (name, dims, type, raw) =>
    bytes(5, [...dims.flatMap((dim) => number(1, dim)), ...number(2, type), ...bytes(8, name), ...bytes(9, [...raw])]);
  const value = (field, name, type, dims) => {
    const shape = dims.flatMap((dim) => bytes(1, dim === null ? bytes(2, "batch") : number(1, dim)));
    return bytes(field, [...bytes(1, name), ...bytes(2, bytes(1, [...number(1, type), ...bytes(2, shape)]))]);
  };
  const [FLOAT, UINT8, INT64] = [1, 2, 7];
  const graph = [
    ...node("Mul", ["z", "scale"], "scaled"),
    ...node("Abs", ["scaled"], "absolute"),
    ...node("Cast", ["absolute"], "levels", bytes(5, [...bytes(1, "to"), ...number(3, UINT8), ...number(20, 2)])),
    ...node("Reshape", ["levels", "shape"], "image"),
    ...bytes(2, "tiny"),
    ...tensor("scale", [1], FLOAT, new Uint8Array(Float32Array.of(40).buffer)),
    ...tensor("shape", [4], INT64, new Uint8Array(BigInt64Array.of(-1n, 2n, 2n, 3n).buffer)),
    ...value(11, "z", FLOAT, [null, 12]),
    ...value(12, "image", UINT8, [null, 2, 2, 3]),
  ];
  const said = {
    contract: 1,
    latent_size: 12,
    height: 2,
    width: 2,
    channels: 3,
    class_names: "[]",
    recipe: "none",
    data: "tiny",
  };
  const metadata = Object.entries(said).flatMap(([name, text]) =>
    bytes(14, [...bytes(1, `gan.${name}`), ...bytes(2, `${text}`)]),
  );
  return Uint8Array.from([...number(1, 8), ...bytes(7, graph), ...bytes(8, number(2, 17)), ...metadata]);
}
