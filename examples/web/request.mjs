/** What is shown, in the words of a request to the MLflow server. */

import { readRow } from "../node/gan.mjs";

/** The row of a seed and the settings beside it; what is not set is left out. */
export function rowOf({ seed, label, truncation, toSeed, position }) {
  const way = position > 0 ? { to_seed: toSeed, position } : {};
  return {
    seed,
    ...(label === null ? {} : { label }),
    ...(truncation === null ? {} : { truncation }),
    ...way,
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

/** The request's row: the seed's where that says it all, else z itself. */
export function requestRow(row, steps, directions, description) {
  if (steps.every((step) => step === 0)) return row;
  const { z, label } = aim(row, steps, directions, description);
  const named = label === null ? {} : { label: description.classNames[label] };
  return { z: Array.from(z, (value) => Number(value.toPrecision(9))), ...named }; // nine digits hold a float32
}

/** A command for a shell that asks `mlflow models serve` for the row's image. */
export function curl(row) {
  const body = JSON.stringify({ dataframe_records: [row] }).replaceAll("'", "'\\''");
  return `curl -s http://127.0.0.1:5001/invocations -H 'Content-Type: application/json' -d '${body}'`;
}
