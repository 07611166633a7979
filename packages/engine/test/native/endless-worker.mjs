// Decodes without end in a worker thread, from before its first message until somebody terminates it. Plain JavaScript:
// a worker has no loader for TypeScript.
import { createRequire } from "node:module";
import { parentPort, workerData } from "node:worker_threads";

const { addonPath, spec } = workerData;
const addon = createRequire(import.meta.url)(addonPath);
let started = false;
const engine = await addon.load(spec, () => {
  if (!started) parentPort.postMessage("stepping");
  started = true;
});
const sampling = { temperature: 1 };
engine.submit([
  { op: "create", branch: 1 },
  { op: "extend", request: 1, branch: 1, tokens: Int32Array.from({ length: 40 }, (_, i) => i) },
  ...Array.from({ length: 4 }, (_, i) => [
    { op: "fork", request: 10 + i, branch: 1, children: [10 + i], firstOrdinal: i },
    { op: "decode", request: 20 + i, branch: 10 + i, maxTokens: 100_000, stopTokens: [], stopStrings: [], sampling },
  ]).flat(),
]);
