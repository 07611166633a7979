/** Budgets of room, cancelling, early pruning, and that siblings do not wait for each other. */
import { getEventListeners } from "node:events";
import { describe, expect, it } from "vitest";
import { altered, digits, digitsProblem } from "../test/digits.js";
import { checkEventOrder } from "../test/event-order.js";
import { ScriptedModel } from "../test/scripted-model.js";
import {
  bestOfN,
  breadthFirst,
  depthFirst,
  graphOfThoughts,
  llmValue,
  monteCarlo,
  type SearchEvent,
  search,
  selfConsistency,
} from "./index.js";

const input = digits(24, 3);
const strategies = [
  bestOfN({ n: 12 }),
  selfConsistency({ n: 12 }),
  breadthFirst({ grow: "continue", width: 10, keep: 3, depth: 8 }),
  breadthFirst({ grow: "reprompt", width: 8, depth: 3 }),
  depthFirst({ width: 4, depth: 8 }),
  monteCarlo({ iterations: 8, width: 4, depth: 6 }),
  graphOfThoughts({ parts: 4, solve: 4, merge: 4, improve: 2 }),
];

describe.each(strategies)("room for $name", (strategy) => {
  it.each([2, 3, 6, 12])("never opens more than %i branches", async (nodes) => {
    const model = new ScriptedModel({ errorRate: 0.2 });
    // Graph of Thoughts opens the prompts of its parts, and depth-first its waiting thoughts, whatever comes.
    const events: SearchEvent[] = [];
    const running = search(digitsProblem(input), strategy, model, { budget: { nodes } });
    for await (const event of running) events.push(event);
    checkEventOrder(events);
    const prompts = strategy.name.startsWith("got") ? 5 : strategy.name === "tot-reprompt" ? 2 : 1;
    expect(model.mostOpen).toBeLessThanOrEqual(Math.max(nodes, prompts));
    expect(model.openBranches).toBe(0);
    if (nodes === 12) expect((await running).answer).toBeDefined();
  });

  it.each([100, 200, 400])("never holds more KV than %i bytes", async (kvBytes) => {
    const model = new ScriptedModel({ errorRate: 0.2 });
    const { answer } = await search(digitsProblem(input), strategy, model, { budget: { kvBytes } });
    const promptTokens = strategy.name.startsWith("got") ? 4 * 24 : strategy.name === "tot-reprompt" ? 60 : 24;
    expect(model.mostHeld * model.kvBytesPerToken).toBeLessThanOrEqual(Math.max(kvBytes, 2 * promptTokens));
    expect(model.openBranches).toBe(0);
    if (kvBytes === 400) expect(answer).toBeDefined();
  });
});

it("refuses a budget of KV bytes on a model that tells none", () => {
  const model = Object.defineProperty(new ScriptedModel({ errorRate: 0 }), "kvBytesPerToken", { value: undefined });
  expect(() => search(digitsProblem(input), bestOfN({ n: 2 }), model, { budget: { kvBytes: 100 } })).toThrow(
    "budget.kvBytes needs a model",
  );
});

describe("breadth-first", () => {
  it("grows narrower, and goes on, where room is short", async () => {
    const strategy = breadthFirst({ grow: "continue", width: 10, keep: 2, depth: 8 });
    const result = await search(digitsProblem(input), strategy, new ScriptedModel({ errorRate: 0.1 }), {
      budget: { nodes: 6 },
    });
    expect(result).toMatchObject({ solved: true, stopReason: "solved" });
  });

  it("adapts its width so that a budget of tokens reaches the depth", async () => {
    const solvedOf = async (adaptWidth: boolean) => {
      let solved = 0;
      for (let seed = 0; seed < 20; seed++) {
        const strategy = breadthFirst({ grow: "continue", width: 12, depth: 7, adaptWidth });
        const problem = digitsProblem(digits(24, seed));
        const model = new ScriptedModel({ errorRate: 0.05 });
        const result = await search(problem, strategy, model, { seed, budget: { tokens: 90 } });
        expect(model.generated).toBeLessThanOrEqual(90);
        solved += Number(result.solved);
      }
      return solved;
    };
    const [adapted, fixed] = [await solvedOf(true), await solvedOf(false)];
    expect(adapted).toBeGreaterThan(12);
    expect(fixed).toBeLessThan(4);
  });

  it("replaces a dead thought while its siblings decode", async () => {
    const strategy = breadthFirst({ grow: "continue", width: 4, depth: 1, attempts: 12 });
    const jitter = () => new Promise<void>(setImmediate);
    const events: SearchEvent[] = [];
    const problem = digitsProblem(input, 20);
    const running = search(problem, strategy, new ScriptedModel({ errorRate: 0.08, jitter }), { seed: 1 });
    for await (const event of running) events.push(event);
    const replaced = events.findIndex((event) => event.type === "thought:started" && event.thought === 5);
    const running4 = new Set([1, 2, 3, 4]);
    for (const event of events.slice(0, replaced))
      if (event.type === "thought:finished") running4.delete(event.thought);
    expect(replaced).toBeGreaterThan(0);
    expect(running4.size).toBe(3);
    const decoding = new Set<number>();
    for (const event of events.slice(replaced)) if (event.type === "thought:tokens") decoding.add(event.thought);
    expect([...running4].some((id) => decoding.has(id))).toBe(true);
  });

  it("scores a thought by a model while its siblings decode", async () => {
    const problem = {
      ...digitsProblem(input),
      thought: { maxTokens: 20, stop: ["2"] },
      value: {
        prompt: ({ text }: { text: string }) => [{ role: "user" as const, content: `value ${text}` }],
        read: () => [1],
        failureScore: 0,
      },
    };
    const reply = (prompt: string) => (prompt.startsWith("value") ? "good" : undefined);
    const model = new ScriptedModel({ errorRate: 0.3, reply, jitter: () => new Promise<void>(setImmediate) });
    const strategy = breadthFirst({ grow: "continue", width: 8, depth: 1 });
    const events: SearchEvent[] = [];
    for await (const event of search(problem, strategy, model, { evaluate: llmValue({ samples: 1 }), seed: 3 })) {
      events.push(event);
    }
    const firstScored = events.findIndex(({ type }) => type === "thought:scored");
    const laterTokens = events.slice(firstScored).some(({ type }) => type === "thought:tokens");
    expect(laterTokens).toBe(true);
  });

  it("saves at least a fifth of the tokens by early pruning, at equal accuracy", async () => {
    // Parts of which few are hopeless, as 4 digits are, are saved where thoughts agree; long ones by cutting.
    for (const [partLen, least] of [
      [8, { cut: 0.2, both: 0.25 }],
      [4, { cut: 0, both: 0.3 }],
    ] as const) {
      const sums = { whole: { tokens: 0, solved: 0 }, cut: { tokens: 0, solved: 0 }, both: { tokens: 0, solved: 0 } };
      for (let seed = 0; seed < 40; seed++) {
        for (const kind of ["whole", "cut", "both"] as const) {
          const strategy = breadthFirst({
            ...{ grow: "continue", width: 8, depth: 24 / partLen + 1, attempts: 60 },
            ...{ cutHopeless: kind !== "whole", narrowAgreed: kind === "both" },
          });
          const problem = digitsProblem(digits(24, seed), partLen);
          const result = await search(problem, strategy, new ScriptedModel({ errorRate: 0.15 }), { seed });
          sums[kind].tokens += result.statistics.generatedTokens;
          sums[kind].solved += Number(result.solved);
        }
      }
      for (const kind of ["cut", "both"] as const) {
        expect(sums[kind].solved).toBeGreaterThanOrEqual(sums.whole.solved);
        expect(sums[kind].tokens).toBeLessThan((1 - least[kind]) * sums.whole.tokens);
      }
    }
  });
});

it("leaves no branch open in 1,000 searches cancelled at random moments", async () => {
  let state = 12345;
  const random = (below: number) => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    return (state >>> 8) % below;
  };
  const problem = altered(digitsProblem(digits(12, 1)), {
    value: { prompt: ({ text }) => [{ role: "user", content: `value ${text}` }], read: () => [1], failureScore: 0 },
  });
  const reply = (prompt: string) => (prompt.startsWith("value") ? "good" : undefined);
  for (let i = 0; i < 1000; i++) {
    const model = new ScriptedModel({
      ...{ errorRate: 0.2, reply },
      jitter: async () => {
        for (let turns = random(3); turns > 0; turns--) await null;
      },
    });
    const controller = new AbortController();
    const strategy = strategies[random(strategies.length)]!;
    const evaluate = random(3) === 0 ? llmValue({ samples: 2 }) : undefined;
    const running = search(problem, strategy, model, { seed: i, signal: controller.signal, evaluate });
    const { result } = running;
    for (let turns = random(400); turns > 0; turns--) await null;
    if (random(2) === 0) controller.abort();
    else for await (const _ of running) break;
    await result;
    // A call that was under way may still open a branch after the end; it is dropped at once.
    await new Promise(setImmediate);
    expect(model.openBranches).toBe(0);
  }
});

it("ends all searches on one signal without a listener on it for each", async () => {
  const controller = new AbortController();
  const { signal } = controller;
  const jitter = () => new Promise<void>(setImmediate);
  const running = Array.from(
    { length: 30 },
    (_, seed) =>
      search(digitsProblem(input), strategies[2]!, new ScriptedModel({ errorRate: 0.1, jitter }), { signal, seed })
        .result,
  );
  await new Promise((resolve) => setTimeout(resolve, 5));
  expect(getEventListeners(signal, "abort")).toHaveLength(0);
  controller.abort();
  const results = await Promise.all(running);
  expect(new Set(results.map(({ stopReason }) => stopReason))).toEqual(new Set(["aborted"]));
});
