/** `npm test`: the built page in a real browser, opened as a file, without a network. */

import assert from "node:assert/strict";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, afterEach, before, beforeEach, describe, test } from "node:test";
import { fileURLToPath, pathToFileURL } from "node:url";

import * as ort from "onnxruntime-web/wasm";
import { chromium } from "playwright-core";

import { Generator, latents } from "../node/gan.mjs";
import { build, BUILT, unpacked } from "./build.mjs";

const PATIENCE_MS = 300_000; // for what may take a while on a busy machine: a test waits for the event, and no longer

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
    timeout: PATIENCE_MS,
  });
  folder = await mkdtemp(join(tmpdir(), "gan-"));
});
after(async () => {
  await browser?.close();
  await rm(folder, { recursive: true });
});

// ---------------------------------------------------------------- helpers

async function visit(file = BUILT) {
  const context = await browser.newContext({ permissions: ["clipboard-read", "clipboard-write"] });
  page = await context.newPage();
  page.setDefaultTimeout(PATIENCE_MS);
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

/** Closes the page, which asked nothing of a network and complained of nothing. */
async function leave() {
  const outward = requests.filter((url) => !/^(file|blob|data):/.test(url));
  await page.context().close();
  assert.deepEqual(outward, []);
  assert.ok(requests.length > 0);
  assert.deepEqual(complaints, []);
}

const settled = () => page.locator('#explorer[aria-busy="false"]').waitFor();

async function directionsFound() {
  await page.locator("#directions input").first().waitFor();
  await settled();
}

/** Puts values into controls, as a user does, and waits for the images. */
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
      return [...copy.getImageData(0, 0, canvas.width, canvas.height).data];
    })
    .then(levelsOf);

function levelsOf(data) {
  const colors = data.filter((_, i) => i % 4 !== 3);
  const isGray = colors.every((value, i) => value === colors[i - (i % 3)]);
  return isGray ? colors.filter((_, i) => i % 3 === 0) : colors;
}

function apart(a, b) {
  assert.equal(a.length, b.length);
  return Math.max(...Array.from(a, (value, i) => Math.abs(value - b[i])));
}

/** From here on the page's timers run in `page.clock.runFor` only, however slow this machine is. */
async function stopClock() {
  await page.clock.install({ time: 0 });
  await page.clock.pauseAt(10 * PATIENCE_MS); // a moment that cannot have passed
}

/** From here on the page's requests for `name` reach its workers only once `release()` is called. */
async function hold(name) {
  await page.evaluate((held) => {
    const [post, waiting] = [Worker.prototype.postMessage, []];
    Worker.prototype.postMessage = function (message) {
      if (message.name === held) waiting.push(() => post.call(this, message));
      else post.call(this, message);
    };
    window.release = () => {
      Worker.prototype.postMessage = post;
      for (const send of waiting) send();
    };
  }, name);
}
const release = () => page.evaluate(() => window.release());

/** Gray levels of the image that `save` downloads, or its colors, and the file's name. */
async function saved(save) {
  const [download] = await Promise.all([page.waitForEvent("download"), save()]);
  const png = (await readFile(await download.path())).toString("base64");
  const look = async (url) => {
    const image = await createImageBitmap(await (await fetch(url)).blob());
    const context = new OffscreenCanvas(image.width, image.height).getContext("2d");
    context.drawImage(image, 0, 0);
    return [...context.getImageData(0, 0, image.width, image.height).data];
  };
  const reader = await page.context().newPage(); // the page itself may read no address
  const data = await reader.evaluate(look, `data:image/png;base64,${png}`);
  await reader.close();
  return { name: download.suggestedFilename(), levels: levelsOf(data) };
}

async function copyRequest() {
  await page.locator("#copy").click();
  await page.locator("#copy", { hasText: "Copied" }).waitFor();
}

const message = () => page.locator("#message").textContent();
const request = async () => JSON.parse((await page.locator("#request").textContent()).match(/-d '(.*)'$/)[1]);

// ---------------------------------------------------------------- the page

test("the built page is what build.mjs makes of the sources", async () => {
  assert.ok(unpacked(await readFile(BUILT, "utf8")) === unpacked(await build()), "npm run build, and commit the page");
});

describe("with a model from a file, of which everything is known", () => {
  before(async () => {
    await visit();
    await open();
    await directionsFound();
  });
  beforeEach(async () => {
    await set({ "#first": 0, "#seed": 0, "#to-seed": 1 });
    await page.locator("#reset").click();
    await settled();
  });
  after(leave);

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
    const [left, right] = [await look("#directions canvas", 0), await look("#directions canvas", 1)];
    await set({ "#directions .way:first-child input": -4 });
    assert.ok(apart(await look(), left) <= 1);
    await set({ "#directions .way:first-child input": 4 });
    assert.ok(apart(await look(), right) <= 1);
    assert.ok(apart(left, right) > 20);
  });

  test("the copied request is for the image on the page", async () => {
    ort.env.wasm.numThreads = 1;
    const generator = await Generator.open(ort, await readFile(MODEL));
    const agrees = async () => {
      await page.evaluate(() => navigator.clipboard.writeText("")); // the copy before
      await page.locator("#copy").click();
      const handle = await page.waitForFunction(() => navigator.clipboard.readText()); // anything but ""
      const copied = await handle.jsonValue();
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
    await set({ "#class": "", "#directions .way:first-child input": 2 });
    const [row] = await agrees();
    assert.deepEqual([Object.keys(row), row.z.length, row.label], [["z", "label"], 64, "7"]);
  });

  test("the image is saved pixel by pixel", async () => {
    await set({ "#seed": 7 });
    assert.deepEqual(await saved(() => page.locator("#save").click()), { name: "seed-7.png", levels: await look() });
  });

  test("the image that was chosen at the click is saved, before it is drawn and after another was chosen", async () => {
    await set({ "#seed": 7 });
    const levels = await look();
    await set({ "#seed": 8 });
    await hold("images");
    await page.locator("#seed").fill("7");
    const file = await saved(async () => {
      await page.locator("#save").click();
      await page.locator("#seed").fill("9");
      await release();
    });
    assert.deepEqual(file, { name: "seed-7.png", levels });
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
});

describe("with a model from a file, just opened", () => {
  beforeEach(async () => {
    await visit();
    await open();
  });
  afterEach(leave);

  test("a copy is confirmed for a second and a half, whenever the one before was", async () => {
    await stopClock();
    await copyRequest();
    await page.clock.runFor(1400);
    await page.locator("#copy").evaluate((button) => (button.textContent = "")); // to see the second confirmation
    await copyRequest();
    await page.clock.runFor(1400);
    assert.equal(await page.locator("#copy").textContent(), "Copied");
    await page.clock.runFor(200);
    assert.equal(await page.locator("#copy").textContent(), "Copy request");
  });

  test("another model replaces the first, even while that is still at work", async () => {
    const file = join(folder, "colors.onnx");
    await writeFile(file, colorModel());
    const turning = await page.evaluateHandle(() => setInterval(() => document.getElementById("next").click(), 2));
    await page.setInputFiles("#file", file);
    await page.locator("#about", { hasText: "colors.onnx · tiny · none · 2 wide × 3 high · 18 latent numbers" }).waitFor();
    await turning.evaluate((timer) => clearInterval(timer));
    await page.locator("#summary", { hasText: "8 of 18" }).waitFor();
    await set({ "#first": 0 });
    const expected = (seed) => Array.from(latents(seed, 18), (value) => Math.trunc(Math.abs(40 * value)));
    assert.deepEqual(await look(), expected(0));
    assert.deepEqual(await look("#grid canvas", 47), expected(47));
    for (const selector of ["#image", "#grid canvas", "#way canvas", "#directions canvas"]) {
      const { width, height, clientWidth, clientHeight } = await page
        .locator(selector)
        .first()
        .evaluate(({ width, height, clientWidth, clientHeight }) => ({ width, height, clientWidth, clientHeight }));
      assert.deepEqual([width, height], [2, 3], selector);
      assert.ok(Math.abs(clientHeight - 1.5 * clientWidth) <= 1, selector); // and drawn in that shape
    }
    assert.ok(await page.locator("#class-row").isHidden());
    assert.equal(await page.locator("#class-shown").textContent(), "");
    await set({ "#directions .way:first-child input": 1 });
    assert.deepEqual(Object.keys((await request()).dataframe_records[0]), ["z"]);
  });

  test("an image that is higher than wide is saved upright", async () => {
    const file = join(folder, "colors.onnx");
    await writeFile(file, colorModel());
    await open(file);
    const [download] = await Promise.all([page.waitForEvent("download"), page.locator("#save").click()]);
    const png = await readFile(await download.path());
    assert.deepEqual([png.readUInt32BE(16), png.readUInt32BE(20)], [2, 3]); // width, height
  });

  test("files of contract 1 and of a later contract are opened", async () => {
    const expected = Array.from(latents(0, 18), (value) => Math.trunc(Math.abs(40 * value)));
    for (const [name, metadata] of Object.entries({
      "first.onnx": { contract: 1, kind: undefined, layout: undefined, range: undefined },
      "later.onnx": { contract: 3, colors: "sRGB" },
    })) {
      await writeFile(join(folder, name), colorModel({ metadata }));
      await open(join(folder, name));
      await page.locator("#about", { hasText: name }).waitFor();
      await settled();
      assert.deepEqual(await look(), expected);
    }
  });

  test("directions that the file names have sliders with its names and ends, and are asked for by these", async () => {
    const axis = (i) => Array.from({ length: 18 }, (_, k) => Number(k === i));
    const named = [
      { name: "redness", normal: axis(0), low: -1.27, high: 2.55, accuracy: 0.75 },
      { name: "1", normal: axis(4), low: -4, high: 4, share: 0.5 },
    ];
    await writeFile(join(folder, "named.onnx"), colorModel({ metadata: { contract: 4, directions: JSON.stringify(named) } }));
    await open(join(folder, "named.onnx"));
    await page.locator("#about", { hasText: "named.onnx" }).waitFor();
    await settled();
    const sliders = page.locator("#directions input");
    assert.equal(await sliders.count(), 2);
    assert.deepEqual(await sliders.first().evaluate(({ min, max, title }) => [min, max, title]), [
      "-1.2",
      "2.5",
      "redness, told with an accuracy of 75 %",
    ]);
    assert.equal(await page.locator("#directions .way").first().getAttribute("data-name"), "redness");
    await set({ "#directions .way:first-child input": 1.5 });
    await settled();
    const z = latents(0, 18);
    z[0] += 1.5;
    assert.deepEqual(await look(), Array.from(z, (value) => Math.trunc(Math.abs(40 * value))));
    assert.match(await page.locator("#request").textContent(), /"seed":0,"edit":\{"redness":1.5\}/);
  });

  test("one of a thousand classes with long names is chosen, and the page grows no wider", async () => {
    const names = Array.from({ length: 1000 }, (_, i) => `${i}_`.padEnd(200, "of_the_catalog_"));
    const file = join(folder, "classes.onnx");
    await writeFile(file, colorModel({ classNames: names }));
    await open(file);
    await page.locator("#about", { hasText: "1000 classes" }).waitFor();
    assert.equal(await page.locator("#class option").count(), 1001);
    const narrow = { width: 390, height: 800 };
    await page.setViewportSize(narrow);
    await set({ "#class": names[700] });
    assert.equal(await page.locator("#class-shown").textContent(), `class ${names[700]}`);
    assert.deepEqual((await request()).dataframe_records, [{ seed: 0, label: names[700] }]);
    assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), narrow.width);
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
  await page.locator("#message", { hasText: /^This file is not a generator of gan_plugin: / }).waitFor();
  assert.ok(await page.locator("#welcome").isVisible());
  await drop(await readFile(MODEL));
  await page.locator("#about", { hasText: "dropped.onnx" }).waitFor();
  await settled();
  assert.ok(apart(await look(), Buffer.from(VECTORS[0].image, "base64")) <= 1);
  assert.deepEqual(complaints, []);
  await page.context().close();
});

test("what a user is typing stays when the directions are found, and so does what was said of it", async () => {
  await visit();
  await hold("directions");
  await open();
  await page.locator("#seed").fill("-1");
  await release();
  await directionsFound();
  assert.equal(await message(), "A seed is a whole number from 0 to 9007199254740991.");
  assert.equal(await page.locator("#seed").inputValue(), "-1");
  await set({ "#seed": 4, "#directions .way:first-child input": 2 });
  assert.equal(await message(), "");
  await leave();
});

test("of two files the one that was chosen last is opened, however long the first takes", async () => {
  await visit();
  const file = join(folder, "colors.onnx");
  await writeFile(file, colorModel());
  await page.evaluate(() => {
    File.prototype.arrayBuffer = async function () {
      delete File.prototype.arrayBuffer; // of Blob again, for the second
      await new Promise((resolve) => (window.readOn = resolve));
      return this.arrayBuffer();
    };
    const terminate = Worker.prototype.terminate;
    window.oneIsClosed = new Promise((resolve) => {
      Worker.prototype.terminate = function () {
        terminate.call(this);
        resolve();
      };
    });
  });
  await page.setInputFiles("#file", MODEL);
  await page.waitForFunction(() => window.readOn);
  await page.setInputFiles("#file", file);
  await page.locator("#about", { hasText: "colors.onnx" }).waitFor();
  await page.evaluate(() => window.readOn());
  await page.evaluate(() => window.oneIsClosed); // the first, or the second if the first replaces it
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

// ---------------------------------------------------------------- a model made by hand

/**
 * A generator of images of 2 pixels' width and 3 pixels' height: image = uint8(|40 z|), as the bytes of a ModelProto. With
 * classes it takes a label, too, which changes nothing; `metadata` adds keys or, with undefined, leaves them out.
 */
function colorModel({ classNames = [], metadata = {} } = {}) {
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
    ...tensor("shape", [4], INT64, new Uint8Array(BigInt64Array.of(-1n, 3n, 2n, 3n).buffer)),
    ...value(11, "z", FLOAT, [null, 18]),
    ...(classNames.length ? value(11, "label", INT64, [null]) : []),
    ...value(12, "image", UINT8, [null, 3, 2, 3]),
  ];
  const values = {
    contract: 2,
    kind: "image",
    layout: "HWC",
    range: "0..255",
    latent_size: 18,
    height: 3,
    width: 2,
    channels: 3,
    class_names: JSON.stringify(classNames),
    recipe: "none",
    data: "tiny",
    ...metadata,
  };
  const entries = Object.entries(values)
    .filter(([, text]) => text !== undefined)
    .flatMap(([name, text]) => bytes(14, [...bytes(1, `gan.${name}`), ...bytes(2, `${text}`)]));
  return Uint8Array.from([...number(1, 8), ...bytes(7, graph), ...bytes(8, number(2, 17)), ...entries]);
}
