import type { DecodedThought, ThoughtBranch, ThoughtModel } from "@deftree/search";
import { TASKS } from "@deftree/tasks";
import { afterEach, describe, expect, it, vi } from "vitest";
import { EvalLog } from "./eval-log.js";
import { type EvaluateOptions, evaluate } from "./evaluate.js";
import type { EvalSample } from "./sample.js";

/** Says one thing, or fails, as often as it is told to. */
class ScriptedModel implements ThoughtModel {
  readonly name = "scripted";
  answers = 0;

  constructor(private readonly says: (answer: number) => string) {}

  async open(): Promise<ThoughtBranch> {
    return this.#branch();
  }

  usage() {
    return { kvBytesRead: 0, kvBytesUnshared: 0 };
  }

  #branch(): ThoughtBranch {
    const usage = { generatedTokens: 0, promptTokens: 0, prefilledTokens: 0 };
    return {
      usage,
      fork: (n) => Array.from({ length: n }, () => this.#branch()),
      extend: async () => {},
      decode: async (): Promise<DecodedThought> => {
        usage.generatedTokens += 10;
        return { text: this.says(++this.answers), tokens: 10, finishReason: "stop", ended: true };
      },
      release: () => {},
    };
  }
}

async function run(says: (answer: number) => string, more: Partial<EvaluateOptions> = {}) {
  const failed: string[] = [];
  using log = new EvalLog(undefined, {});
  const items = [1, 2, 3].map((item) => ({ item, input: [2, 1, item] }));
  const part = { task: "sorting" as const, size: 3, items, methods: ["io" as const], budgets: [{ tokens: 100 }] };
  const model = new ScriptedModel(says);
  const tree = { width: 2, keep: 1 };
  const onFail: EvaluateOptions["onFail"] = ({ item }, error) => failed.push(`${item}: ${error}`);
  const outcome = evaluate({ parts: [part], seeds: 2, model, tree, log, onFail, ...more });
  await outcome.catch(() => {});
  return { outcome, failed, samples: log.samples, answers: model.answers };
}

const broken = () => {
  throw new Error("the model broke");
};

afterEach(() => vi.restoreAllMocks());

describe("evaluate", () => {
  it("gives nonsense the failure score, and goes on", async () => {
    const { samples } = await run((answer) => (answer === 1 ? "nonsense" : "[1, 1, 2]"));
    expect(samples.map(({ item, seed }) => [item, seed])).toEqual(
      [1, 2, 3].flatMap((item) => [1, 2].map((s) => [item, s])),
    );
    expect(samples.map(({ errors }) => errors)).toEqual([300, 0, 2, 2, 2, 2]);
    expect(samples[0]).toMatchObject({ unreadable: true, solved: false });
    expect(samples[1]).toMatchObject({ unreadable: false, solved: true });
  });

  it("gives the failure score where the scorer throws", async () => {
    const { problem } = TASKS.sorting;
    vi.spyOn(TASKS.sorting, "problem").mockImplementation((input) => ({ ...problem(input), score: broken }));
    const { samples, failed } = await run(() => "[1, 1, 2]");
    expect(failed).toEqual([]);
    expect(samples.map(({ errors }) => errors)).toEqual(new Array(6).fill(300));
  });

  it("leaves out a search that the model breaks, and tries it again", async () => {
    const { samples, failed, outcome } = await run((answer) => (answer === 3 ? broken() : "[1, 1, 2]"));
    await expect(outcome).resolves.toBeUndefined();
    expect(failed).toEqual(["2: the model broke"]);
    expect(samples).toHaveLength(5);
  });

  it("gives up on a model that breaks every time", async () => {
    const { outcome, failed } = await run(broken);
    await expect(outcome).rejects.toThrow("the model broke");
    expect(failed).toHaveLength(5);
  });

  it("lets a tree that ends without a right answer begin anew while its budget lasts", async () => {
    const items = [{ item: 1, input: [2, 1, 3] }];
    const part = { task: "sorting" as const, size: 3, items, budgets: [{ tokens: 2000 }] };
    const methods = ["tot", "tot2", "got", "tot:continue"] as const;
    const { samples } = await run(() => "[9, 9, 9]", { parts: [{ ...part, methods }], seeds: 1 });
    for (const { method, generatedTokens } of samples) expect(generatedTokens, method).toBeGreaterThan(1900);
    const right = await run(() => "[1, 2, 3]", { parts: [{ ...part, methods }], seeds: 1 });
    for (const { method, solved, generatedTokens } of right.samples) {
      expect({ method, solved }).toEqual({ method, solved: true });
      expect(generatedTokens).toBeLessThan(500);
    }
  });

  it("makes no sample twice", async () => {
    using log = new EvalLog(undefined, {});
    expect((await run(() => "[]", { log })).answers).toBe(6);
    expect((await run(() => "[]", { log, seeds: 3 })).answers).toBe(3);
    expect(log.samples).toHaveLength(9);
  });

  it("ends without an error when it is stopped", async () => {
    const stop = new AbortController();
    using log = new EvalLog(undefined, {});
    const { outcome } = await run(() => "[]", { log, signal: stop.signal, onSample: () => stop.abort() });
    await expect(outcome).resolves.toBeUndefined();
    expect(log.samples).toHaveLength(1);
  });

  it("refuses a budget of nothing", async () => {
    const items = [{ item: 1, input: [1] }];
    const part = { task: "sorting" as const, items, methods: ["io" as const] };
    const { failed, samples } = await run(() => "[1]", { parts: [{ ...part, budgets: [{ tokens: 0 }] }], seeds: 1 });
    expect(failed).toEqual(["1: budget.tokens must be a positive number, got 0"]);
    expect(samples).toEqual([] satisfies EvalSample[]);
  });
});
