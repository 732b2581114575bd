/** The page's side of the worker: questions out, promises of answers back. */

import { UserError } from "../node/gan.mjs";

/** Starts a worker from the URL of its script; resolves to {ask, close} once it listens. */
export function startEngine(url) {
  const worker = new Worker(url);
  const open = new Map();
  let questions = 0;

  const ask = (name, payload, onProgress) =>
    new Promise((resolve, reject) => {
      const id = questions++;
      open.set(id, { resolve, reject, onProgress });
      worker.postMessage({ id, name, payload });
    });

  const close = () => {
    worker.terminate();
    for (const { resolve } of open.values()) resolve(null); // who still waits shall not wait forever
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
      if (progress !== undefined) return open.get(id).onProgress(progress);
      const question = open.get(id);
      open.delete(id);
      if (refusal === undefined) question.resolve(answer);
      else question.reject(new UserError(refusal));
    };
  });
}
