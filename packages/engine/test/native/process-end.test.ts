import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { AddonHarness, addonPath, promptOf } from "./harness.js";
import { type TinyModel, tinyModel } from "./tiny-model.js";

interface Ending {
  code: number | null;
  signal: NodeJS.Signals | null;
  output: string;
}

function runScenario(name: string): Promise<Ending> {
  const script = fileURLToPath(new URL("./process-scenario.ts", import.meta.url));
  const args = ["--expose-gc", "--import", "tsx", "--conditions", "@deftree/source", script, name];
  const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "pipe"] });
  let output = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (chunk) => (output += chunk));
  return new Promise((resolve) => child.on("close", (code, signal) => resolve({ code, signal, output })));
}

// The decodes in these processes never end by themselves: that the process ends at all is the test.
describe("a process with a live engine", () => {
  test.each([
    ["exit in mid-step", 7, ""],
    ["exit while loading", 7, ""],
    ["exit while a worker steps", 7, ""],
    ["uncaught exception in mid-step", 1, "on purpose"],
    ["callback throws", 5, "caught on purpose"],
    ["nothing open", 0, "end of script"],
    ["a request open", 0, "answered"],
    ["engine not collected while a request is open", 0, "done"],
  ])("%s: code %i", async (name, code, output) => {
    const ending = await runScenario(name);
    expect(ending).toMatchObject({ code, signal: null });
    expect(ending.output).toContain(output);
  });

  test.skipIf(process.platform !== "linux")("engines without a reference are collected, threads and all", async () => {
    expect((await runScenario("engines collected")).output).toContain("6 engines collected, 0 threads more");
  });
});

describe("workers", () => {
  let model: TinyModel;
  beforeAll(() => {
    model = tinyModel({ numPages: 2048 }, 8);
  });
  afterAll(() => model.remove());

  const endlessWorker = async () => {
    const worker = new Worker(new URL("./endless-worker.mjs", import.meta.url), {
      workerData: { addonPath, spec: model.spec },
    });
    await new Promise((resolve, reject) => worker.once("message", resolve).once("error", reject));
    return worker;
  };

  test("terminated in mid-step, twenty times in a row, beside an engine of the main thread", async () => {
    const harness = await AddonHarness.load(model.spec);
    for (let i = 0; i < 20; i++) {
      const worker = await endlessWorker();
      expect(await worker.terminate()).toBe(1);
    }
    harness.engine.submit([{ op: "create", branch: 1 }]);
    expect((await harness.request({ op: "extend", branch: 1, tokens: promptOf(10) })).reason).toBe("done");
    await harness.engine.dispose();
  });

  test("several at once, terminated together", async () => {
    const workers = await Promise.all([endlessWorker(), endlessWorker(), endlessWorker()]);
    expect(await Promise.all(workers.map((worker) => worker.terminate()))).toEqual([1, 1, 1]);
  });

  test("terminated while loading", async () => {
    for (let i = 0; i < 5; i++) {
      const worker = new Worker(new URL("./endless-worker.mjs", import.meta.url), {
        workerData: { addonPath, spec: model.spec },
      });
      await new Promise((resolve) => worker.once("online", resolve));
      await worker.terminate();
    }
  });
});
