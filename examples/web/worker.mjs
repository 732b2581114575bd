/** The generator in a worker, so that the page stays responsive while images are generated. */

import * as ort from "onnxruntime-web/wasm";
import { Generator, UserError } from "../node/gan.mjs";
import { findDirections } from "./directions.mjs";

let generator;
let turn = Promise.resolve();

/** ONNX Runtime runs a session for one caller at a time. */
function inTurn(job) {
  turn = turn.then(job, job);
  return turn;
}

const generate = (zs, labels) => inTurn(() => generator.generate(zs, labels));

const answers = {
  async open({ wasm, model }) {
    ort.env.wasm.numThreads = 1; // more would need HTTP headers, which a file does not have
    ort.env.wasm.wasmBinary = wasm;
    generator = await Generator.open(ort, model);
    return generator.description;
  },

  images: ({ zs, labels }) => generate(zs, labels),

  directions(_, onProgress) {
    const patiently = async (zs, labels) => {
      await new Promise((resolve) => setTimeout(resolve)); // requests that the page made meanwhile come first
      return generate(zs, labels);
    };
    return findDirections(patiently, generator.description, onProgress);
  },
};

self.onmessage = async ({ data: { id, name, payload } }) => {
  try {
    self.postMessage({ id, answer: await answers[name](payload, (progress) => self.postMessage({ id, progress })) });
  } catch (error) {
    self.postMessage({
      id,
      refusal: error instanceof UserError ? error.message : `The generator failed: ${error.message}`,
    });
  }
};
self.postMessage({ id: "ready" });
