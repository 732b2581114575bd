/**
 * A gan_plugin generator in JavaScript: seeds in, images out, from the ONNX file alone.
 *
 * The same module runs in Node.js and in a browser: the caller passes the `ort` module, onnxruntime-node or
 * onnxruntime-web. A seed gives the same image as on the MLflow server, at most one gray level apart. The rules of
 * seed -> z are those of gan_plugin/seeds.py.
 */

export const MAX_SEED = Number.MAX_SAFE_INTEGER; // 2^53 - 1
export const MIN_TRUNCATION = 0.1; // below it nearly every value has to be drawn again hundreds of times
const MIN_SINE = 1e-6; // two z of nearly one direction have no arc between them
const MAX_BATCH = 64; // bounds the memory of one run; beyond it a batch gains no speed
const KIND = "image";
const MAX_NAME = 40; // characters of a name in a sentence
const FIELDS = ["seed", "to_seed", "position", "z", "label", "truncation"];

/** An error of the user's, in one sentence that says what would be right. */
export class UserError extends Error {}

// ---------------------------------------------------------------- the generator

export class Generator {
  /** Opens the bytes (Uint8Array) of an ONNX file; throws UserError if they are not a generator of images. */
  static async open(ort, bytes) {
    const description = readDescription(bytes);
    try {
      return new Generator(ort, await ort.InferenceSession.create(bytes, { logSeverityLevel: 3 }), description);
    } catch (error) {
      const cause = String(error.message ?? error)
        .split("\n")[0]
        .replace(/\.$/, "");
      throw new UserError(`ONNX Runtime cannot open this generator: ${cause}.`);
    }
  }

  constructor(ort, session, description) {
    this.ort = ort;
    this.session = session;
    this.description = description;
  }

  /**
   * Images of rows like those of a request to the MLflow server: {seed, label, truncation, to_seed, position} or
   * {z, label}. Each is a Uint8Array of height x width x channels gray levels.
   */
  images(rows) {
    const inputs = rows.map((row) => readRow(row, this.description));
    return this.generate(
      inputs.map(({ z }) => z),
      inputs.map(({ label }) => label),
    );
  }

  /** Images of latents, each a Float32Array, and class indices, which an unconditional generator ignores. */
  async generate(zs, labels) {
    const images = [];
    for (let first = 0; first < zs.length; first += MAX_BATCH) {
      const end = first + MAX_BATCH;
      images.push(...(await this.#batch(zs.slice(first, end), labels.slice(first, end))));
    }
    return images;
  }

  async #batch(zs, labels) {
    const { latentSize, height, width, channels, classNames } = this.description;
    const z = new Float32Array(zs.length * latentSize);
    zs.forEach((values, i) => z.set(values, i * latentSize));
    const feeds = { z: new this.ort.Tensor("float32", z, [zs.length, latentSize]) };
    if (classNames.length) {
      feeds.label = new this.ort.Tensor("int64", BigInt64Array.from(labels, BigInt), [zs.length]);
    }
    const { image } = await this.session.run(feeds); // uint8 [batch, height, width, channels]
    const size = height * width * channels;
    return zs.map((_, i) => image.data.slice(i * size, (i + 1) * size));
  }
}

// ---------------------------------------------------------------- a row of a request

/** A row -> {z: Float32Array, label: class index, or null for an unconditional generator}. */
export function readRow(row, { latentSize, classNames }) {
  const unknown = Object.keys(row).filter((name) => !FIELDS.includes(name));
  if (unknown.length) throw new UserError(`Unknown field ${listed(unknown)}: a row may have ${listed(FIELDS)}.`);
  const { seed, z, label } = row;
  if (isMissing(seed) === isMissing(z)) {
    throw new UserError(`A row has ${isMissing(z) ? "neither seed nor z" : "both seed and z"}: give one of them.`);
  }
  return {
    z: isMissing(z) ? zOfSeed(row, latentSize) : zOfRow(row, latentSize),
    label: readLabel(label, seed, classNames),
  };
}

function zOfSeed({ seed, truncation, to_seed: toSeed, position }, latentSize) {
  if (isMissing(toSeed) !== isMissing(position)) {
    throw new UserError("A row has only one of to_seed and position: an image between two seeds needs both.");
  }
  const start = latents(seed, latentSize, truncation);
  return isMissing(toSeed) ? start : between(start, latents(toSeed, latentSize, truncation), position);
}

function zOfRow({ z, truncation, to_seed: toSeed, position }, latentSize) {
  if (![truncation, toSeed, position].every(isMissing)) {
    throw new UserError("A row has z beside truncation, to_seed or position: these apply to seeds only.");
  }
  const values = Float32Array.from(z);
  if (values.length !== latentSize || !values.every(Number.isFinite)) {
    throw new UserError(`A row has a z that does not fit: this generator takes ${latentSize} finite numbers.`);
  }
  return values;
}

function readLabel(label, seed, classNames) {
  if (!classNames.length) {
    if (!isMissing(label)) throw new UserError("This generator was trained without classes: leave out the label.");
    return null;
  }
  if (isMissing(label) && !isMissing(seed)) return seed % classNames.length; // consecutive seeds show all classes
  if (classNames.includes(label)) return classNames.indexOf(label);
  if (Number.isInteger(label) && label >= 0 && label < classNames.length) return label;
  const problem = isMissing(label) ? "z and no label" : `label=${JSON.stringify(cut(label))}`;
  throw new UserError(`A row has ${problem}: give a class, ${listed(classNames)}, or its index from 0.`);
}

const isMissing = (value) => value === null || value === undefined;
const isSeed = (value) => Number.isSafeInteger(value) && value >= 0;

const cut = (name) => (name.length > MAX_NAME ? `${name.slice(0, MAX_NAME)}…` : name); // a number has no length

/** The first names, and how many there are if those are not all; long names are cut. */
function listed(names, most = 20) {
  const text = names.slice(0, most).map(cut).join(", ");
  return names.length <= most ? text : `${text}, … (${names.length} in all)`;
}

// ---------------------------------------------------------------- seed -> z

/** z, a Float32Array of `latentSize` values, of a seed; none is beyond ±truncation if there is one. */
export function latents(seed, latentSize, truncation = null) {
  if (!isSeed(seed)) {
    throw new UserError(`seed=${seed}: a seed is a whole number from 0 to ${MAX_SEED}.`);
  }
  if (!isMissing(truncation) && !(Number.isFinite(truncation) && truncation >= MIN_TRUNCATION)) {
    throw new UserError(
      `truncation=${truncation}: truncation is a number of at least ${MIN_TRUNCATION}, in standard deviations.`,
    );
  }
  const bound = isMissing(truncation) ? Infinity : Math.fround(truncation);
  const key = [seed % 2 ** 32, Math.floor(seed / 2 ** 32)];
  const z = new Float32Array(latentSize);
  for (let first = 0; first < latentSize; first += 4) {
    const block = z.subarray(first, first + 4); // the last one may be shorter
    block.set(normals(first / 4, 0, key).subarray(0, block.length));
    for (let attempt = 1; block.some((value) => Math.abs(value) > bound); attempt++) {
      const again = normals(first / 4, attempt, key);
      block.forEach((value, i) => {
        if (Math.abs(value) > bound) block[i] = again[i];
      });
    }
  }
  return z;
}

/** z on the arc from `start` to `end`, at a position from 0 to 1. */
export function between(start, end, position) {
  if (!(Number.isFinite(position) && position >= 0 && position <= 1)) {
    throw new UserError(`position=${position}: a position is a number from 0 (the seed) to 1 (to_seed).`);
  }
  const cosine = dot(start, end) / Math.sqrt(dot(start, start)) / Math.sqrt(dot(end, end));
  const angle = Math.acos(Math.min(1, Math.max(-1, cosine)));
  const sine = Math.sin(angle);
  const straight = sine < MIN_SINE;
  const a = straight ? 1 - position : Math.sin((1 - position) * angle) / sine;
  const b = straight ? position : Math.sin(position * angle) / sine;
  return start.map((value, i) => a * value + b * end[i]);
}

function dot(a, b) {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}

/** Four standard normal values of one block of a seed, by Box and Muller's method. */
function normals(block, attempt, key) {
  const [u0, u1, u2, u3] = philox([block, attempt, 0, 0], key).map((word) => (word + 0.5) / 2 ** 32);
  const [r0, r1] = [Math.sqrt(-2 * Math.log(u0)), Math.sqrt(-2 * Math.log(u2))];
  const [a0, a1] = [2 * Math.PI * u1, 2 * Math.PI * u3];
  return Float32Array.of(r0 * Math.cos(a0), r0 * Math.sin(a0), r1 * Math.cos(a1), r1 * Math.sin(a1));
}

/** Philox4x32-10 (Salmon et al. 2011, doi:10.1145/2063384.2063405): 4 words of counter and 2 of key -> 4 words. */
export function philox([c0, c1, c2, c3], [k0, k1]) {
  for (let round = 0; round < 10; round++) {
    [c0, c1, c2, c3] = [
      highWord(0xcd9e8d57, c2) ^ c1 ^ k0,
      Math.imul(0xcd9e8d57, c2),
      highWord(0xd2511f53, c0) ^ c3 ^ k1,
      Math.imul(0xd2511f53, c0),
    ];
    k0 = (k0 + 0x9e3779b9) | 0;
    k1 = (k1 + 0xbb67ae85) | 0;
  }
  return [c0 >>> 0, c1 >>> 0, c2 >>> 0, c3 >>> 0];
}

/** The upper 32 bits of a product of two 32-bit words, in halves because a Number holds no more than 53 bits. */
function highWord(a, b) {
  const [aLow, aHigh, bLow, bHigh] = [a & 0xffff, a >>> 16, b & 0xffff, b >>> 16];
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16);
  const other = aLow * bHigh + (middle & 0xffff);
  return aHigh * bHigh + (middle >>> 16) + (other >>> 16);
}

// ---------------------------------------------------------------- the description in the file

/**
 * Reads the description of a generator of images from its ONNX file's metadata_props, keys "gan.…". A newer contract
 * only adds keys, so its version does not matter; files of contract 1, which have no gan.kind, hold images.
 *
 * ONNX Runtime's JavaScript interface does not give access to these, so they are read from the file: an ONNX file is a
 * ModelProto, and a protobuf message is a sequence of fields, each a key and a value. Only those of the outermost
 * message matter; the graph with its weights is one of them and is skipped.
 */
export function readDescription(bytes) {
  let metadata;
  try {
    metadata = readMetadata(bytes);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new UserError("This is not an ONNX file.");
  }
  if (!metadata.has("gan.contract")) {
    throw new UserError("This file is not a generator of gan_plugin: its metadata have no gan.contract.");
  }
  const kind = metadata.get("gan.kind") ?? KIND;
  if (kind !== KIND) {
    throw new UserError(`This file makes samples of the kind "${cut(kind)}", and this program knows only "${KIND}".`);
  }
  return {
    latentSize: readSize(metadata, "gan.latent_size"),
    height: readSize(metadata, "gan.height"),
    width: readSize(metadata, "gan.width"),
    channels: readSize(metadata, "gan.channels"),
    classNames: readClassNames(metadata.get("gan.class_names")),
    recipe: metadata.get("gan.recipe") ?? "",
    data: metadata.get("gan.data") ?? "",
    directions: readDirections(metadata.get("gan.directions") ?? "[]", readSize(metadata, "gan.latent_size")),
  };
}

const unreadable = (key) => new UserError(`This file's metadata have no possible ${key}: it is damaged.`);

function readSize(metadata, key) {
  const text = metadata.get(key) ?? "";
  if (!/^[1-9]\d*$/.test(text)) throw unreadable(key);
  return Number(text);
}

/** -> [{name, vector: Float32Array of unit length, low, high, accuracy or share}, …]. */
function readDirections(text, latentSize) {
  try {
    return JSON.parse(text).map(({ name, normal, low, high, accuracy, share }) => {
      const isPossible = normal.length === latentSize && [...normal, low, high].every(Number.isFinite) && low < high;
      if (typeof name !== "string" || !isPossible) throw new RangeError();
      return { name, vector: Float32Array.from(normal), low, high, accuracy, share };
    });
  } catch {
    throw unreadable("gan.directions");
  }
}

function readClassNames(text) {
  try {
    const names = JSON.parse(text);
    if (Array.isArray(names) && names.every((name) => typeof name === "string")) return names;
  } catch {
    // no JSON is as bad as other JSON
  }
  throw unreadable("gan.class_names");
}

const METADATA_PROPS = 14; // ModelProto.metadata_props, each an entry of key (field 1) and value (field 2)

function readMetadata(bytes) {
  const decoder = new TextDecoder();
  const metadata = new Map();
  for (const [field, entry] of fieldsOf(bytes)) {
    if (field !== METADATA_PROPS) continue;
    const { 1: key = "", 2: value = "" } = Object.fromEntries(
      [...fieldsOf(entry)].map(([number, text]) => [number, decoder.decode(text)]),
    );
    metadata.set(key, value);
  }
  return metadata;
}

/** [number, bytes] of each field of a protobuf message; a RangeError where the bytes are none. */
function* fieldsOf(bytes) {
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let i = 0; i < 10; i++) {
      if (at >= bytes.length) throw new RangeError("the message is cut off");
      const byte = bytes[at++];
      value += (byte & 0x7f) * 2 ** (7 * i); // no shifts: lengths go beyond 32 bits
      if (byte < 0x80) return value;
    }
    throw new RangeError("a number is too long");
  };
  while (at < bytes.length) {
    const key = varint();
    let start = at;
    switch (key % 8) {
      case 0:
        varint();
        break;
      case 1:
        at += 8;
        break;
      case 2: {
        const length = varint();
        start = at;
        at += length;
        break;
      }
      case 5:
        at += 4;
        break;
      default:
        throw new RangeError("no such kind of field");
    }
    if (at > bytes.length) throw new RangeError("the message is cut off");
    yield [Math.floor(key / 8), bytes.subarray(start, at)];
  }
}
