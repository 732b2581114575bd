/** `npm test`: requests and directions, without a browser. */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { test } from "node:test";

import { latents } from "../node/gan.mjs";
import { findDirections, makeProbes, principal } from "./directions.mjs";
import { aim, curl, requestRow } from "./request.mjs";

function apart(a, b) {
  assert.equal(a.length, b.length);
  return Math.max(...Array.from(a, (value, i) => Math.abs(value - b[i])));
}

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

test("steps along directions that the file names stay steps in the request", () => {
  const shape = { latentSize: 2, classNames: [] };
  const directions = [
    { name: "age", vector: [0, 1] },
    { name: "1", vector: [1, 0] },
  ];
  assert.deepEqual(requestRow({ seed: 3 }, [2, 0], directions, shape), { seed: 3, edit: { age: 2 } });
  assert.deepEqual(requestRow({ seed: 3 }, [], directions, shape), { seed: 3 });
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
