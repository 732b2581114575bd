/** `npm test`: the same images as gan_plugin's, and one sentence for what cannot be done. */

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { promisify } from "node:util";

import { decode } from "fast-png";
import * as ort from "onnxruntime-node";

import { between, Generator, latents, philox, readDescription, readRow, UserError } from "./gan.mjs";

const beside = (path) => new URL(path, import.meta.url);
const json = async (path) => JSON.parse(await readFile(beside(path), "utf8"));
const MODEL = beside("../digits.onnx");

let generator;
let folder;

// In the file a key of the metadata is followed by two bytes, of which the second is the length of its value.
const valueAt = (bytes, key) => bytes.indexOf(key) + key.length + 2;
const valueOf = (bytes, key) => bytes.toString("utf8", valueAt(bytes, key), valueAt(bytes, key) + bytes[valueAt(bytes, key) - 1]);

/** The file with another value of the same length for a key of its metadata. */
function withValue(bytes, key, value) {
  assert.equal(value.length, valueOf(bytes, key).length);
  const changed = Buffer.from(bytes);
  changed.write(value, valueAt(bytes, key));
  return changed;
}

/** The file with another key in place of a key. */
function withoutKey(bytes, key) {
  const changed = Buffer.from(bytes);
  changed.write("other", bytes.indexOf(key));
  return changed;
}

before(async () => {
  generator = await Generator.open(ort, await readFile(MODEL));
  folder = await mkdtemp(join(tmpdir(), "gan-"));
});
after(() => rm(folder, { recursive: true }));

const apart = (a, b) => {
  assert.equal(a.length, b.length);
  return Math.max(...a.map((value, i) => Math.abs(value - b[i])));
};

test("Philox gives the words that its authors publish", () => {
  // Random123's known answers, kat_vectors, for philox4x32 with 10 rounds
  const ones = 0xffffffff;
  assert.deepEqual(philox([0, 0, 0, 0], [0, 0]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
  assert.deepEqual(philox([ones, ones, ones, ones], [ones, ones]), [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
});

test("a seed's z is that of gan_plugin", async () => {
  for (const { seed, latent_size: size, truncation, z } of await json("../../tests/vectors/seeds.json")) {
    assert.ok(apart(latents(seed, size, truncation), z) < 1e-6, `seed ${seed}`);
  }
});

test("a seed's image is that of gan_plugin", async () => {
  const { images } = await json("../vectors.json");
  assert.ok(images.length > 0);
  for (const { image: expected, ...row } of images) {
    const [image] = await generator.images([row]);
    assert.ok(apart(image, Buffer.from(expected, "base64")) <= 1, JSON.stringify(row));
  }
});

test("an image does not depend on the others of its batch", async () => {
  const rows = Array.from({ length: 70 }, (_, seed) => ({ seed })); // more than fit one run
  const together = await generator.images(rows);
  for (const seed of [0, 1, 63, 64, 69]) {
    const [alone] = await generator.images([{ seed }]);
    assert.ok(apart(alone, together[seed]) <= 1, `seed ${seed}`);
  }
  assert.ok(apart(together[0], together[10]) > 50); // two seeds of one class
});

test("the arc between two seeds starts at one, ends at the other, and is straight where there is no arc", () => {
  const [start, end] = [latents(1, 64), latents(2, 64)];
  assert.ok(apart(between(start, end, 0), start) < 1e-6);
  assert.ok(apart(between(start, end, 1), end) < 1e-6);
  assert.deepEqual(between(start, start, 0.3), start);
  const length = (z) => Math.hypot(...z);
  assert.ok(length(between(start, end, 0.5)) > 0.9 * Math.min(length(start), length(end)));
});

test("the description in the file", async () => {
  const { latentSize, height, width, channels, classNames } = readDescription(await readFile(MODEL));
  const { images } = await json("../vectors.json");
  assert.equal(Buffer.from(images[0].image, "base64").length, height * width * channels);
  assert.equal(latents(0, latentSize).length, latentSize);
  assert.deepEqual(classNames, ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
});

test("a label is a name or an index, and a seed without one has its own", () => {
  const description = { latentSize: 4, classNames: ["cat", "dog", "2"] };
  const label = (row) => readRow(row, description).label;
  assert.equal(label({ seed: 4 }), 1);
  assert.equal(label({ seed: 2 ** 53 - 1 }), Number((2n ** 53n - 1n) % 3n));
  assert.equal(label({ seed: 0, label: "dog" }), 1);
  assert.equal(label({ seed: 0, label: 1 }), 1);
  assert.equal(label({ seed: 0, label: "2" }), 2);
  assert.equal(readRow({ seed: 0 }, { latentSize: 4, classNames: [] }).label, null);
});

const REFUSED = [
  [{}, "A row has neither seed nor z: give one of them."],
  [{ seed: 0, z: [1, 2] }, "A row has both seed and z: give one of them."],
  [{ sead: 0 }, "Unknown field sead: a row may have seed, to_seed, position, z, label, truncation."],
  [{ seed: -1 }, "seed=-1: a seed is a whole number from 0 to 9007199254740991."],
  [{ seed: 0.5 }, "seed=0.5: a seed is a whole number from 0 to 9007199254740991."],
  [{ seed: 2 ** 53 }, "seed=9007199254740992: a seed is a whole number from 0 to 9007199254740991."],
  [{ seed: "x" }, "seed=x: a seed is a whole number from 0 to 9007199254740991."],
  [{ seed: 0, truncation: 0.05 }, "truncation=0.05: truncation is a number of at least 0.1, in standard deviations."],
  [{ seed: 0, label: "owl" }, 'A row has label="owl": give a class, cat, dog, or its index from 0.'],
  [{ seed: 0, label: 2 }, "A row has label=2: give a class, cat, dog, or its index from 0."],
  [{ z: [1, 2] }, "A row has z and no label: give a class, cat, dog, or its index from 0."],
  [{ z: [1], label: 0 }, "A row has a z that does not fit: this generator takes 2 finite numbers."],
  [{ z: [1, NaN], label: 0 }, "A row has a z that does not fit: this generator takes 2 finite numbers."],
  [
    { z: [1, 2], label: 0, truncation: 1 },
    "A row has z beside truncation, to_seed or position: these apply to seeds only.",
  ],
  [{ seed: 0, to_seed: 1 }, "A row has only one of to_seed and position: an image between two seeds needs both."],
  [{ seed: 0, position: 1 }, "A row has only one of to_seed and position: an image between two seeds needs both."],
  [{ seed: 0, to_seed: 1, position: 2 }, "position=2: a position is a number from 0 (the seed) to 1 (to_seed)."],
];

for (const [row, sentence] of REFUSED) {
  test(`refused: ${JSON.stringify(row)}`, () => {
    const read = () => readRow(row, { latentSize: 2, classNames: ["cat", "dog"] });
    assert.throws(read, (error) => error instanceof UserError && error.message === sentence);
  });
}

test("refused: a label where there are no classes", () => {
  const read = () => readRow({ seed: 0, label: 0 }, { latentSize: 2, classNames: [] });
  assert.throws(read, new UserError("This generator was trained without classes: leave out the label."));
});

test("refused: files that are no generator", async () => {
  const bytes = await readFile(MODEL);
  const sentence = (file) => Generator.open(ort, file).then(assert.fail, (error) => [error.constructor, error.message]);
  assert.deepEqual(await sentence(await readFile(beside("package.json"))), [UserError, "This is not an ONNX file."]);
  assert.deepEqual(await sentence(bytes.subarray(0, 5000)), [UserError, "This is not an ONNX file."]);
  // field 14 (0x72), an entry of 4 bytes: key "a", value "" -- a model with metadata of another program
  const foreign = Uint8Array.of(0x72, 3, 0x0a, 1, 0x61);
  assert.match((await sentence(foreign))[1], /^This file is not a generator of gan_plugin: its metadata have no gan\./);
  const sound = `This file makes samples of the kind "sound", and this program knows only "image".`;
  assert.equal((await sentence(withValue(bytes, "gan.kind", "sound")))[1], sound);
  for (const key of ["latent_size", "height", "width", "channels", "class_names"].map((name) => `gan.${name}`)) {
    const damaged = `This file's metadata have no possible ${key}: it is damaged.`;
    assert.equal((await sentence(withoutKey(bytes, key)))[1], damaged);
    assert.equal((await sentence(withValue(bytes, key, "x".repeat(valueOf(bytes, key).length))))[1], damaged);
  }
  const broken = Buffer.from(bytes);
  broken.fill(0xff, 100, 2000); // the graph, which only ONNX Runtime reads
  const [kind, message] = await sentence(broken);
  assert.equal(kind, UserError);
  assert.match(message, /^ONNX Runtime cannot open this generator: .*[^.]\.$/);
});

test("files of contract 1, without the keys that contract 2 added, and of a later contract", async () => {
  const bytes = await readFile(MODEL);
  assert.equal(valueOf(bytes, "gan.contract"), "2");
  const first = ["gan.kind", "gan.layout", "gan.range"].reduce(withoutKey, withValue(bytes, "gan.contract", "1"));
  for (const file of [first, withValue(bytes, "gan.contract", "3")]) {
    const other = await Generator.open(ort, file);
    assert.deepEqual(other.description, generator.description);
    assert.deepEqual(await other.images([{ seed: 7 }]), await generator.images([{ seed: 7 }]));
  }
});

test("a thousand classes with long names", () => {
  const classNames = Array.from({ length: 1000 }, (_, i) => `${i}_`.padEnd(200, "x"));
  const description = { latentSize: 4, classNames };
  assert.equal(readRow({ seed: 0, label: classNames[700] }, description).label, 700);
  assert.throws(
    () => readRow({ seed: 0, label: "y".repeat(300) }, description),
    ({ message }) => message.endsWith("… (1000 in all), or its index from 0.") && message.length < 1100,
  );
});

const command = (...words) => promisify(execFile)(process.execPath, [beside("generate.mjs").pathname, ...words]);

test("the command writes the images that the module makes", async () => {
  const out = join(folder, "two.png");
  const options = [
    "--seed",
    "7",
    "--seed",
    "8",
    "--label",
    "3",
    "--truncation",
    "1",
    "--to-seed",
    "9",
    "--position",
    "0.5",
  ];
  await command(MODEL.pathname, ...options, "--out", out);
  const rows = [7, 8].map((seed) => ({ seed, label: 3, truncation: 1, to_seed: 9, position: 0.5 }));
  const { height, width: wide } = generator.description;
  const { data, width, ...png } = decode(await readFile(out));
  assert.deepEqual([png.height, width], [height, 2 * wide]);
  const half = (left) =>
    Array.from({ length: height }, (_, y) => [...data.slice(y * width + left).slice(0, wide)]).flat();
  const [first, second] = await generator.images(rows);
  assert.ok(apart(half(0), first) <= 1);
  assert.ok(apart(half(wide), second) <= 1);
});

test("the command refuses in one sentence", async () => {
  const refusal = async (...words) => {
    const { code, stderr } = await command(...words).then(assert.fail, (error) => error);
    assert.equal(code, 2);
    return stderr.trim();
  };
  assert.equal(await refusal(), "generate.mjs: Give one ONNX file; --help explains the rest.");
  assert.equal(await refusal(MODEL.pathname), "generate.mjs: Give at least one --seed.");
  assert.match(
    await refusal(MODEL.pathname, "--seed", "7e", "--out", join(folder, "no.png")),
    /^generate.mjs: seed=7e: a seed is/,
  );
  assert.match(await refusal(MODEL.pathname, "--sead", "7"), /^generate.mjs: Unknown option '--sead'/);
  assert.match(await refusal("nowhere.onnx", "--seed", "7"), /^generate.mjs: ENOENT: .*nowhere.onnx/);
});
