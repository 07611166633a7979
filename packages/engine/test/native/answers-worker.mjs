// Loads the addon in a worker thread, sends the given commands one after another, and posts their answers.
import { createRequire } from "node:module";
import { parentPort, workerData } from "node:worker_threads";

const { addonPath, spec, commands } = workerData;
const addon = createRequire(import.meta.url)(addonPath);
const waiting = new Map();
const engine = await addon.load(spec, (message) => {
  for (const finished of message.finished) waiting.get(finished.request)(finished);
});
engine.submit([{ op: "create", branch: 1 }]);
const answers = [];
for (const [i, command] of commands.entries()) {
  const answer = new Promise((resolve) => waiting.set(i, resolve));
  engine.submit([{ ...command, request: i }]);
  answers.push(await answer);
}
await engine.checkInvariants();
const { branches } = engine.stats();
const { device } = engine.info();
await engine.dispose();
parentPort.postMessage({ answers, branches, device });
