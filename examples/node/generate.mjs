#!/usr/bin/env node
/** Images from a generator's ONNX file as one PNG: `node generate.mjs --help`. */

import { readFile, writeFile } from "node:fs/promises";
import { parseArgs } from "node:util";

import { encode } from "fast-png";
import * as ort from "onnxruntime-node";

import { Generator, UserError } from "./gan.mjs";

const HELP = `node generate.mjs MODEL.onnx --seed N [--seed N …] [options]

Writes the seeds' images to one PNG, side by side where there are several.

  --seed N          a whole number from 0 to 2^53 - 1; the same seed gives the same image
  --label NAME      a class name, or its index from 0, of a generator trained with classes
  --truncation T    bound of |z| in standard deviations, at least 0.1: smaller is safer and less varied
  --to-seed N       with --position: on the way from each seed to this one
  --position P      from 0 (the seed) to 1 (--to-seed)
  --out FILE        default image.png
`;

const OPTIONS = {
  seed: { type: "string", multiple: true },
  label: { type: "string" },
  truncation: { type: "string" },
  "to-seed": { type: "string" },
  position: { type: "string" },
  out: { type: "string", default: "image.png" },
  help: { type: "boolean" },
};

async function main() {
  const { values, positionals } = readCommand();
  if (values.help) return console.log(HELP);
  if (positionals.length !== 1) throw new UserError("Give one ONNX file; --help explains the rest.");
  if (!values.seed) throw new UserError("Give at least one --seed.");
  const generator = await Generator.open(ort, await readFile(positionals[0]));
  const rows = values.seed.map((seed) => ({
    seed: number(seed),
    label: asLabel(values.label, generator.description.classNames),
    truncation: number(values.truncation),
    to_seed: number(values["to-seed"]),
    position: number(values.position),
  }));
  await writeFile(values.out, encode(sheet(await generator.images(rows), generator.description)));
  console.log(`${values.out}: ${rows.length === 1 ? "1 image" : `${rows.length} images`}`);
}

function readCommand() {
  try {
    return parseArgs({ options: OPTIONS, allowPositionals: true });
  } catch (error) {
    throw new UserError(error.message.split("\n")[0]);
  }
}

/** A Number, null where nothing was given, and the text itself where it is none, so that the refusal quotes it. */
const number = (text) => (text === undefined ? null : text.trim() === "" || isNaN(text) ? text : Number(text));

/** Names go before indices: a class may be called "3". */
const asLabel = (text, names) => (names.includes(text) ? text : number(text));

/** Images in reading order on one canvas, as nearly square as their number allows. */
function sheet(images, { height, width, channels }) {
  const columns = Math.ceil(Math.sqrt(images.length));
  const rows = Math.ceil(images.length / columns);
  const data = new Uint8Array(rows * height * columns * width * channels);
  images.forEach((image, i) => {
    const [top, left] = [Math.floor(i / columns) * height, (i % columns) * width];
    for (let y = 0; y < height; y++) {
      const line = image.subarray(y * width * channels, (y + 1) * width * channels);
      data.set(line, ((top + y) * columns * width + left) * channels);
    }
  });
  return { width: columns * width, height: rows * height, data, channels };
}

try {
  await main();
} catch (error) {
  if (!(error instanceof UserError) && !error.syscall) throw error; // a file's fault names the file itself
  console.error(`generate.mjs: ${error.message}`);
  process.exitCode = 2;
}
