import { Worker } from "node:worker_threads";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { loadAddon } from "../../src/addon-loader.js";
import type { NativeCommand, NativeFinished } from "../../src/native-addon.js";
import {
  AddonHarness,
  addonPath,
  codeOf,
  endlessDecode,
  promptOf,
  type RequestCommand,
  thrownCode,
} from "./harness.js";
import { type TinyModel, tinyModel } from "./tiny-model.js";

let model: TinyModel;
beforeAll(() => {
  model = tinyModel();
});
afterAll(() => model.remove());

/** Every command that is answered, on branch `branch`. */
const requests: Record<string, (branch: number) => RequestCommand> = {
  extend: (branch) => ({ op: "extend", branch, tokens: promptOf(20) }),
  fork: (branch) => ({ op: "fork", branch, children: [branch + 100, branch + 101], firstOrdinal: 0 }),
  decode: (branch) => ({ ...endlessDecode(branch), maxTokens: 3 }) as RequestCommand,
  score: (branch) => ({ op: "score", branch, tokens: promptOf(5) }),
  logits: (branch) => ({ op: "logits", branch }),
  truncate: (branch) => ({ op: "truncate", branch, length: 5 }),
};

/** Puts branch 1, of ten tokens, into a state. */
const states: Record<string, (harness: AddonHarness) => Promise<void>> = {
  idle: async (harness) => {
    harness.engine.submit([{ op: "create", branch: 1 }]);
    await harness.request({ op: "extend", branch: 1, tokens: promptOf(10) });
  },
  stepping: async (harness) => {
    await states.idle!(harness);
    harness.engine.submit([{ op: "create", branch: 2 }]);
    harness.request({ op: "extend", branch: 2, tokens: promptOf(30) });
    harness.request(endlessDecode(2));
    await harness.nextMessage();
  },
  pruned: async (harness) => {
    await states.idle!(harness);
    harness.engine.submit([{ op: "prune", branch: 1, keepCached: false }]);
  },
  disposed: async (harness) => {
    await states.idle!(harness);
    await harness.engine.dispose();
  },
};

describe.each(Object.keys(states))("with the engine or branch %s", (state) => {
  test.each(Object.keys(requests))("%s", async (name) => {
    const harness = await AddonHarness.load(model.spec);
    await states[state]!(harness);
    if (state === "disposed") {
      expect(thrownCode(() => harness.request(requests[name]!(1)))).toBe("E_DISPOSED");
      return;
    }
    const answer = await harness.request(requests[name]!(1));
    if (state === "pruned") {
      expect(answer).toMatchObject({ reason: "error", error: { code: "E_DISPOSED" } });
    } else {
      expect(answer.reason).toBe(name === "decode" ? "length" : "done");
      await harness.engine.checkInvariants();
    }
    await harness.engine.dispose();
  });

  test("create, prune, cancel, setAttention, stats, info, checkInvariants, dispose", async () => {
    const harness = await AddonHarness.load(model.spec);
    await states[state]!(harness);
    const { engine } = harness;
    const commands: NativeCommand[] = [
      { op: "create", branch: 50 },
      { op: "prune", branch: 1, keepCached: true },
      { op: "cancel", request: 12345 },
      { op: "setAttention", attention: "radix" },
    ];
    expect(engine.info()).toMatchObject({ device: "cpu", numPages: 512, numThreads: 1 });
    if (state === "disposed") {
      for (const command of commands) expect(thrownCode(() => engine.submit([command]))).toBe("E_DISPOSED");
      expect(thrownCode(() => engine.stats())).toBe("E_DISPOSED");
      expect(codeOf(await engine.checkInvariants().catch((error) => error))).toBe("E_DISPOSED");
    } else {
      engine.submit(commands);
      await engine.checkInvariants();
      expect(engine.stats().branches).toBe(state === "stepping" ? 2 : 1);
    }
    await engine.dispose();
    await engine.dispose();
  });
});

describe("in two workers at once", () => {
  test("every request, stats, info, checkInvariants, dispose", async () => {
    const commands = [requests.extend!, ...Object.values(requests)].map((command) => command(1));
    const answersOfWorker = () => {
      const worker = new Worker(new URL("./answers-worker.mjs", import.meta.url), {
        workerData: { addonPath, spec: model.spec, commands },
      });
      return new Promise<{ answers: NativeFinished[]; branches: number; device: string }>((resolve, reject) =>
        worker.once("message", resolve).once("error", reject),
      );
    };
    for (const { answers, branches, device } of await Promise.all([answersOfWorker(), answersOfWorker()])) {
      expect(answers.map(({ reason }) => reason)).toEqual(["done", "done", "done", "length", "done", "done", "done"]);
      expect(branches).toBe(3);
      expect(device).toBe("cpu");
    }
  });
});

describe("requests that are cut short", () => {
  test("dispose in mid-step fails them with E_DISPOSED", async () => {
    const harness = await AddonHarness.load(model.spec);
    harness.engine.submit([{ op: "create", branch: 1 }]);
    harness.request({ op: "extend", branch: 1, tokens: promptOf(30) });
    const decode = harness.request(endlessDecode(1));
    const queued = harness.request({ op: "logits", branch: 1 });
    await harness.nextMessage();
    const disposals = [harness.engine.dispose(), harness.engine.dispose()];
    expect(await decode).toMatchObject({ reason: "error", error: { code: "E_DISPOSED" } });
    expect(await queued).toMatchObject({ reason: "error", error: { code: "E_DISPOSED" } });
    await Promise.all(disposals);
  });

  test("cancel and prune end them and say what the branch has", async () => {
    const harness = await AddonHarness.load(model.spec);
    harness.engine.submit([{ op: "create", branch: 1 }]);
    harness.request({ op: "extend", branch: 1, tokens: promptOf(30) });
    const first = harness.request(endlessDecode(1));
    await harness.nextMessage();
    harness.engine.submit([{ op: "cancel", request: first.id }]);
    const aborted = await first;
    expect(aborted).toMatchObject({ reason: "aborted", branchLength: 30 + harness.tokens(first.id).length });
    const second = harness.request(endlessDecode(1));
    await harness.nextMessage();
    harness.engine.submit([{ op: "prune", branch: 1, keepCached: false }]);
    expect((await second).reason).toBe("pruned");
    await harness.engine.checkInvariants();
    expect(harness.engine.stats()).toMatchObject({ branches: 0, tokensInForest: 0, freePages: 512 });
    await harness.engine.dispose();
  });
});

describe("decoding through the addon", () => {
  test("same seed and path give the same tokens whatever else is decoded; logprobs and stops arrive", async () => {
    const harness = await AddonHarness.load(model.spec);
    const decode = (branch: number): RequestCommand =>
      ({
        ...endlessDecode(branch),
        maxTokens: 12,
        sampling: { temperature: 1, seed: 9, logprobs: 2 },
      }) as RequestCommand;
    harness.engine.submit([{ op: "create", branch: 1 }]);
    harness.request({ op: "extend", branch: 1, tokens: promptOf(40) });
    const alone = harness.request(decode(1));
    await alone;
    const mates = Array.from({ length: 7 }, (_, i) => {
      harness.engine.submit([{ op: "create", branch: 10 + i }]);
      harness.request({ op: "extend", branch: 10 + i, tokens: promptOf(40, i) });
      return harness.request(decode(10 + i));
    });
    await Promise.all(mates);
    expect(harness.tokens(mates[0]!.id)).toEqual(harness.tokens(alone.id));
    expect(harness.tokens(mates[1]!.id)).not.toEqual(harness.tokens(alone.id));

    const [first, second] = harness.tokens(alone.id) as [number, number];
    harness.engine.submit([{ op: "create", branch: 30 }]);
    harness.request({ op: "extend", branch: 30, tokens: promptOf(40) });
    const stopped = await harness.request({
      ...endlessDecode(30),
      stopStrings: [Uint8Array.of(first % 256, second % 256)],
      sampling: { temperature: 1, seed: 9 },
    } as RequestCommand);
    expect(stopped).toMatchObject({ reason: "stop-string", stopIndex: 0, branchLength: 42 });
    await harness.engine.dispose();
  });

  test("two engines in one process do not know of each other", async () => {
    const [a, b] = await Promise.all([AddonHarness.load(model.spec), AddonHarness.load(model.spec)]);
    a.engine.submit([{ op: "create", branch: 1 }]);
    const extended = await a.request({ op: "extend", branch: 1, tokens: promptOf(10) });
    expect(extended.branchLength).toBe(10);
    expect((await b.request({ op: "logits", branch: 1 })).error?.code).toBe("E_DISPOSED");
    await a.engine.dispose();
    b.engine.submit([{ op: "create", branch: 1 }]);
    expect((await b.request({ op: "extend", branch: 1, tokens: promptOf(10) })).reusedTokens).toBe(0);
    await b.engine.dispose();
  });
});

describe("load", () => {
  const addon = loadAddon();
  const ignore = () => {};

  test.skipIf(addon.cudaStatus().devices.length > 0)("on device cuda says why it cannot be used", async () => {
    const error = await addon.load({ ...model.spec, device: "cuda", kvType: "auto" }, ignore).catch((e) => e);
    expect(codeOf(error)).toBe("E_DEVICE");
    expect(error.message).toMatch(addon.cudaStatus().isBuilt ? /driver|GPU/ : /this build has no CUDA code/);
  });

  test("an aborted signal ends it", async () => {
    expect(codeOf(await addon.load(model.spec, ignore, AbortSignal.abort()).catch((e) => e))).toBe("E_ABORTED");
    const controller = new AbortController();
    const loading = addon.load(model.spec, ignore, controller.signal);
    controller.abort();
    expect(codeOf(await loading.catch((e) => e))).toBe("E_ABORTED");
    const later = new AbortController();
    const engine = await addon.load(model.spec, ignore, later.signal);
    later.abort();
    expect(engine.stats().steps).toBe(0);
    await engine.dispose();
  });

  test("bad files and options are typed errors", async () => {
    const code = (change: object) => addon.load({ ...model.spec, ...change }, ignore).then(() => "loaded", codeOf);
    expect(await code({ files: ["/nowhere/weights.bin"] })).toBe("E_BAD_MODEL");
    expect(await code({ tensors: model.spec.tensors.slice(1) })).toBe("E_BAD_MODEL");
    expect(await code({ pageSize: 7 })).toBe("E_BAD_ARGUMENT");
    expect(await code({ kvType: "bf16" })).toBe("E_BAD_ARGUMENT");
    expect(await code({ attention: "psychic" })).toBe("E_BAD_ARGUMENT");
  });
});
