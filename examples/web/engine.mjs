/** The page's side of the worker: requests out, promises of answers back. */

import { UserError } from "../node/gan.mjs";

/** Starts a worker from the URL of its script; resolves to {ask, close} once it listens. */
export function startEngine(url) {
  const worker = new Worker(url);
  const pending = new Map();
  let requests = 0;

  const ask = (name, payload, onProgress) =>
    new Promise((resolve, reject) => {
      const id = requests++;
      pending.set(id, { resolve, reject, onProgress });
      worker.postMessage({ id, name, payload });
    });

  const close = () => {
    worker.terminate();
    for (const { resolve } of pending.values()) resolve(null); // or they would wait forever
  };

  return new Promise((resolve, reject) => {
    const fail = (cause) => {
      worker.terminate();
      reject(new UserError(`This browser does not start the page's worker: ${cause}.`));
    };
    worker.onerror = (event) => fail(event.message ?? "it refuses the script");
    worker.onmessage = ({ data: { id, answer, progress, refusal } }) => {
      if (id === "ready") return resolve({ ask, close });
      if (id === "failed") return fail(refusal);
      if (progress !== undefined) return pending.get(id).onProgress(progress);
      const request = pending.get(id);
      pending.delete(id);
      if (refusal === undefined) request.resolve(answer);
      else request.reject(new UserError(refusal));
    };
  });
}
