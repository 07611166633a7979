/**
 * One process that ends in a certain way while engines live: `process-scenario.ts NAME`. process-end.test.ts looks at
 * its exit code and output.
 */
import { readdirSync } from "node:fs";
import { Worker } from "node:worker_threads";
import { AddonHarness, addonPath, endlessDecode, promptOf } from "./harness.js";
import { tinyModel } from "./tiny-model.js";

const { spec, remove } = tinyModel({ numPages: 2048 }, 8);
process.on("exit", remove);

async function stepping(): Promise<AddonHarness> {
  const harness = await AddonHarness.load(spec);
  harness.engine.submit([{ op: "create", branch: 1 }]);
  harness.request({ op: "extend", branch: 1, tokens: promptOf(100) });
  harness.request(endlessDecode(1));
  await harness.nextMessage();
  return harness;
}

const tick = () => new Promise((resolve) => setTimeout(resolve, 10));
const numThreads = () => readdirSync("/proc/self/task").length;

let numCollected = 0;
const registry = new FinalizationRegistry(() => numCollected++);

/** Makes engines that only their own callbacks refer to. */
async function forgetEngines(count: number): Promise<void> {
  for (let i = 0; i < count; i++) {
    const harness = await AddonHarness.load(spec);
    harness.engine.submit([{ op: "create", branch: 1 }]);
    await harness.request({ op: "extend", branch: 1, tokens: promptOf(20) });
    registry.register(harness.engine, undefined);
  }
}

const scenarios: Record<string, () => Promise<void>> = {
  "exit in mid-step": async () => {
    await stepping();
    process.exit(7);
  },
  "exit while loading": async () => {
    AddonHarness.load(spec);
    process.exit(7);
  },
  "exit while a worker steps": async () => {
    const worker = new Worker(new URL("./endless-worker.mjs", import.meta.url), { workerData: { addonPath, spec } });
    await new Promise((resolve) => worker.once("message", resolve));
    process.exit(7);
  },
  "uncaught exception in mid-step": async () => {
    await stepping();
    setImmediate(() => {
      throw new Error("on purpose");
    });
  },
  "callback throws": async () => {
    const { loadAddon } = await import("../../src/addon-loader.js");
    process.on("uncaughtException", (error) => {
      console.log(`caught ${error.message}`);
      process.exit(5);
    });
    const engine = await loadAddon().load(spec, () => {
      throw new Error("on purpose");
    });
    engine.submit([
      { op: "create", branch: 1 },
      { op: "logits", request: 1, branch: 1 },
    ]);
  },
  "nothing open": async () => {
    const harness = await AddonHarness.load(spec);
    harness.engine.submit([{ op: "create", branch: 1 }]);
    await harness.request({ op: "extend", branch: 1, tokens: promptOf(20) });
    console.log("end of script");
  },
  "a request open": async () => {
    const harness = await AddonHarness.load(spec);
    harness.engine.submit([{ op: "create", branch: 1 }]);
    harness.request({ op: "extend", branch: 1, tokens: promptOf(20) }).then(() => console.log("answered"));
    console.log("end of script");
  },
  "engines collected": async () => {
    const before = numThreads();
    await forgetEngines(6);
    for (let i = 0; i < 200 && (numCollected < 6 || numThreads() > before); i++) {
      (globalThis as { gc?: () => void }).gc?.();
      await tick();
    }
    console.log(`${numCollected} engines collected, ${numThreads() - before} threads more`);
  },
  "engine not collected while a request is open": async () => {
    let answer: Promise<unknown> | undefined;
    await (async () => {
      const harness = await AddonHarness.load(spec);
      harness.engine.submit([{ op: "create", branch: 1 }]);
      answer = harness.request({ op: "extend", branch: 1, tokens: promptOf(2000) }).then(({ reason }) => reason);
    })();
    for (let i = 0; i < 20; i++) {
      (globalThis as { gc?: () => void }).gc?.();
      await tick();
    }
    console.log(await answer);
  },
};

await scenarios[process.argv[2] ?? ""]?.();
