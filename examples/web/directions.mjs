/**
 * The directions of latent space along which a generator's images change most, from the generator alone.
 *
 * How far images move for a small step in z is measured by the matrix JᵀJ, J being the Jacobian of gray levels by z.
 * Few of its eigenvalues are large, and their directions are much the same everywhere in latent space, so that an average
 * over a few z finds them (Wang and Ponce 2021, "The geometry of deep generative image models and its applications",
 * arXiv:2101.06006). J comes from differences of images; ONNX Runtime has no gradients in a browser.
 */

import { latents } from "../node/gan.mjs";

export const MAX_DIRECTIONS = 8;
const MAX_PROBES = 128; // columns of J: all axes of z up to here, fixed random directions beyond
const IMAGES = 1024; // a few seconds for a small generator
const STEP = 0.5; // standard deviations: changes far above the rounding to whole gray levels
const CHUNK = 4; // images at a time, between which other requests are answered
const MAX_LEVELS = 16384; // gray levels of an image that are compared
const PROBE_SEEDS = 2 ** 52; // far from the seeds that people choose

/**
 * -> [{vector: Float32Array of unit length, share: of all change}, …], the largest share first, to brighter images.
 *
 * `generate(zs, labels)` resolves to images; `onProgress` is called with numbers from 0 to 1. The same
 * file gives the same directions.
 */
export async function findDirections(generate, { latentSize, classNames }, onProgress) {
  const probes = makeProbes(latentSize);
  const points = Math.max(2, Math.floor(IMAGES / 2 / probes.length));
  const gram = probes.map(() => new Float64Array(probes.length));
  const brighter = new Float64Array(probes.length);
  for (let point = 0; point < points; point++) {
    const label = point % Math.max(1, classNames.length);
    const columns = [];
    for (let first = 0; first < probes.length; first += CHUNK / 2) {
      const chunk = probes.slice(first, first + CHUNK / 2);
      columns.push(...(await differences(generate, latents(point, latentSize), label, chunk)));
      onProgress((point + columns.length / probes.length) / points);
    }
    addProducts(gram, columns);
    columns.forEach((column, i) => (brighter[i] += column.reduce((sum, value) => sum + value, 0)));
  }
  return principal(gram)
    .slice(0, Math.min(MAX_DIRECTIONS, latentSize))
    .map(({ vector, share }) => {
      const sign = dot(vector, brighter) < 0 ? -1 : 1; // an eigenvector has no sign of its own
      return {
        vector: combine(
          probes,
          vector.map((value) => sign * value),
        ),
        share,
      };
    });
}

/** Orthonormal directions in which z is moved. */
export function makeProbes(latentSize) {
  if (latentSize <= MAX_PROBES) {
    return Array.from({ length: latentSize }, (_, i) => new Float32Array(latentSize).fill(1, i, i + 1));
  }
  const probes = [];
  for (let i = 0; i < MAX_PROBES; i++) {
    const probe = latents(PROBE_SEEDS + i, latentSize);
    for (const earlier of probes) addScaled(probe, earlier, -dot(probe, earlier)); // Gram and Schmidt
    const length = Math.sqrt(dot(probe, probe));
    probes.push(probe.map((value) => value / length));
  }
  return probes;
}

/** Columns of J at z: the change of every gray level per unit along each probe. */
async function differences(generate, z, label, probes) {
  const moved = probes.flatMap((probe) => [STEP, -STEP].map((step) => z.map((value, i) => value + step * probe[i])));
  const images = await generate(
    moved,
    moved.map(() => label),
  );
  const stride = Math.ceil(images[0].length / MAX_LEVELS);
  return probes.map((_, i) => {
    const [ahead, behind] = [images[2 * i], images[2 * i + 1]];
    return Float32Array.from({ length: Math.floor(ahead.length / stride) }, (_, at) => {
      return (ahead[at * stride] - behind[at * stride]) / (2 * STEP);
    });
  });
}

function addProducts(gram, columns) {
  for (let i = 0; i < columns.length; i++) {
    for (let j = 0; j <= i; j++) {
      const product = dot(columns[i], columns[j]);
      gram[i][j] += product;
      if (i !== j) gram[j][i] += product;
    }
  }
}

/** [{vector, share}] of a symmetric matrix, the largest share of the trace first, by Jacobi's rotations. */
export function principal(matrix) {
  const size = matrix.length;
  const a = matrix.map((row) => Float64Array.from(row));
  const vectors = a.map((_, i) => new Float64Array(size).fill(1, i, i + 1)); // a row for each eigenvector
  const trace = a.reduce((sum, row, i) => sum + row[i], 0);
  const isDiagonal = () => a.every((row, i) => row.every((value, j) => i === j || Math.abs(value) <= 1e-9 * trace));
  for (let sweep = 0; sweep < 30 && !isDiagonal(); sweep++) {
    for (let p = 0; p < size; p++) for (let q = p + 1; q < size; q++) rotate(a, vectors, p, q);
  }
  return vectors
    .map((vector, i) => ({ vector, share: trace > 0 ? a[i][i] / trace : 0 }))
    .sort((one, other) => other.share - one.share);
}

/** One rotation in the plane of axes p and q, which makes a[p][q] zero. */
function rotate(a, vectors, p, q) {
  if (a[p][q] === 0) return;
  const ratio = (a[q][q] - a[p][p]) / (2 * a[p][q]);
  const tangent = (ratio < 0 ? -1 : 1) / (Math.abs(ratio) + Math.sqrt(ratio * ratio + 1));
  const cosine = 1 / Math.sqrt(tangent * tangent + 1);
  const sine = tangent * cosine;
  for (const row of a) [row[p], row[q]] = [cosine * row[p] - sine * row[q], sine * row[p] + cosine * row[q]];
  for (const rows of [a, vectors]) {
    const [one, other] = [rows[p], rows[q]];
    for (let k = 0; k < one.length; k++) {
      [one[k], other[k]] = [cosine * one[k] - sine * other[k], sine * one[k] + cosine * other[k]];
    }
  }
}

function combine(vectors, weights) {
  const sum = new Float32Array(vectors[0].length);
  vectors.forEach((vector, i) => addScaled(sum, vector, weights[i]));
  return sum;
}

function addScaled(target, vector, factor) {
  for (let i = 0; i < target.length; i++) target[i] += factor * vector[i];
}

function dot(a, b) {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}
