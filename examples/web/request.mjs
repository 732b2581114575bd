/** The image on the page as a request to the MLflow server. */

import { readRow } from "../node/gan.mjs";

/** The row of a seed and its settings; what is not set is left out. */
export function rowOf({ seed, label, truncation, toSeed, position }) {
  const interpolation = position > 0 ? { to_seed: toSeed, position } : {};
  return {
    seed,
    ...(label === null ? {} : { label }),
    ...(truncation === null ? {} : { truncation }),
    ...interpolation,
  };
}

/** A row and steps along directions -> {z: Float32Array, label: class index or null}. */
export function aim(row, steps, directions, description) {
  const { z, label } = readRow(row, description);
  steps.forEach((step, i) => {
    if (step !== 0) directions[i].vector.forEach((value, k) => (z[k] += step * value));
  });
  return { z, label };
}

/** The request's row: the seed's if that and steps along directions of the file describe the image, else z itself. */
export function requestRow(row, steps, directions, description) {
  const taken = directions.map((direction, i) => [direction.name, steps[i]]).filter(([, step]) => step);
  if (taken.length === 0) return row;
  if (taken.every(([name]) => name !== undefined)) return { ...row, edit: Object.fromEntries(taken) };
  const { z, label } = aim(row, steps, directions, description);
  const labeled = label === null ? {} : { label: description.classNames[label] };
  return { z: Array.from(z, (value) => Number(value.toPrecision(9))), ...labeled }; // nine digits hold a float32
}

/** A shell command that requests the row's image from `mlflow models serve`. */
export function curl(row) {
  const body = JSON.stringify({ dataframe_records: [row] }).replaceAll("'", "'\\''");
  return `curl -s http://127.0.0.1:5001/invocations -H 'Content-Type: application/json' -d '${body}'`;
}
