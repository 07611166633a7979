/** Searches on the real engine, with the embedded model: what only an engine can show. */
import { Engine } from "@deftree/engine";
import {
  bestOfN,
  breadthFirst,
  choiceLogprobs,
  depthFirst,
  formatEvent,
  llmValue,
  type Problem,
  readEventLog,
  type SearchEvent,
  type Strategy,
  search,
} from "@deftree/search";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { EngineThoughtModel } from "../src/index.js";
import { expectAllFree } from "./engine-counters.js";
import { digits, type SortingState, sortingProblem, sortPrompt } from "./sorting.js";

let engine: Engine;
let model: EngineThoughtModel;

beforeAll(async () => {
  engine = await Engine.load("mini");
  model = new EngineThoughtModel(engine);
});
afterEach(() => engine.checkInvariants());
afterAll(() => engine.dispose());

const expectFree = () => expectAllFree(engine);

async function eventsOf<State, Answer>(
  problem: Problem<State, Answer>,
  strategy: Strategy,
  options: Parameters<typeof search>[3],
): Promise<{ events: SearchEvent<State, Answer>[]; texts: string[] }> {
  const events: SearchEvent<State, Answer>[] = [];
  const running = search(problem, strategy, model, options);
  for await (const event of running) events.push(event);
  const { tree } = await running;
  return { events, texts: tree.thoughts.map(({ text }) => text) };
}

it("decodes at least 8 branches per step on average in a search of width 20", async () => {
  const strategy = breadthFirst({ grow: "continue", width: 20, keep: 3, depth: 10, attempts: 80 });
  for (const seed of [1, 2, 3]) {
    const before = engine.stats();
    const { statistics } = await search(sortingProblem(digits(64, seed)), strategy, model, { seed });
    const after = engine.stats();
    const steps = after.steps - before.steps;
    expect((after.decodedTokens - before.decodedTokens) / steps).toBeGreaterThan(8);
    // The prompt is computed once, and nothing else is.
    const prompt = engine.encodeChat(sortingProblem(digits(64, seed)).prompt(), { addGenerationPrompt: true });
    expect(after.prefilledTokens - before.prefilledTokens).toBeLessThanOrEqual(prompt.length);
    expect(statistics.generatedTokens).toBe(after.decodedTokens - before.decodedTokens);
    await expectFree();
  }
});

describe("resuming on the engine", () => {
  it("grows the tree that it would have grown, token by token, after any cut", async () => {
    const problem = { ...sortingProblem(digits(48, 4)), hopeless: undefined };
    // Hot and uncut, so that thoughts differ and depend on their random numbers.
    const settings = { width: 6, keep: 3, depth: 6, attempts: 24, cutHopeless: false, stopWhenSolved: false };
    const strategy = breadthFirst({ grow: "continue", ...settings, sampling: { temperature: 2.5 } });
    const whole = await eventsOf(problem, strategy, { seed: 5 });
    const selected = whole.events.flatMap((event, i) => (event.type === "level:selected" ? [i + 1] : []));
    for (const cut of [...selected, 30, 100, whole.events.length]) {
      const resume = readEventLog(whole.events.slice(0, cut).map(formatEvent).join(""));
      const resumed = await eventsOf(problem, strategy, { seed: 5, resume });
      expect(resumed.texts).toEqual(whole.texts);
      await expectFree();
    }
    expect(new Set(whole.texts).size).toBeGreaterThan(20);
  });

  it("computes the kept path once, and decodes only what the log does not hold", async () => {
    const problem = sortingProblem(digits(64, 6));
    const strategy = breadthFirst({ grow: "continue", width: 8, keep: 1, depth: 9, attempts: 32 });
    const whole = await eventsOf(problem, strategy, { seed: 1 });
    const cut = whole.events.findIndex((event) => event.type === "level:selected" && event.depth === 4) + 1;
    const later = whole.events.slice(cut);
    const before = engine.stats();
    await eventsOf(problem, strategy, { seed: 1, resume: whole.events.slice(0, cut) as SearchEvent[] });
    const after = engine.stats();
    const added = later.reduce((sum, event) => sum + (event.type === "thought:finished" ? event.tokens : 0), 0);
    const decoded = after.decodedTokens - before.decodedTokens;
    // A cut thought may have decoded a few tokens more by the time it was cut.
    expect(decoded).toBeGreaterThanOrEqual(added);
    expect(decoded).toBeLessThan(added * 1.3 + 20);
    const prompt = engine.encodeChat(problem.prompt(), { addGenerationPrompt: true }).length;
    const path = 4 * problem.thought.maxTokens;
    expect(after.prefilledTokens - before.prefilledTokens).toBeLessThanOrEqual(prompt + path);
  });

  it("refuses the log of another model", async () => {
    const problem = sortingProblem(digits(8, 1));
    const { events } = await eventsOf(problem, bestOfN({ n: 2 }), {});
    const [first, ...rest] = events as SearchEvent[];
    const resume = [{ ...first, model: "llama" } as SearchEvent, ...rest];
    await expect(search(problem, bestOfN({ n: 2 }), model, { resume }).result).rejects.toThrow(
      `the log's model is "llama", this search's is "${engine.info.modelName}"`,
    );
  });
});

it("ends thoughts at a program's word, and continues them as if they had never ended", async () => {
  const problem = sortingProblem(digits(32, 3));
  const root = await model.open(problem.prompt());
  const [whole, parts] = root.fork(2);
  const { text } = await whole!.decode({ maxTokens: 200 });
  let joined = "";
  for (let ended = false; !ended; ) {
    let own = "";
    const part = await parts!.decode({
      maxTokens: 200,
      onText: (piece) => {
        own += piece;
        return own.split(",").length > 3 ? "end" : true;
      },
    });
    expect(own.split(",").length).toBeLessThanOrEqual(4);
    joined += part.text + (part.stopString ?? "");
    ended = part.ended;
  }
  expect(joined).toBe(text);
  for (const branch of [root, whole!, parts!]) branch.release();
  await expectFree();
});

it("keeps to a budget of KV bytes, and still solves", async () => {
  const problem = sortingProblem(digits(48, 2));
  const strategy = breadthFirst({ grow: "continue", width: 16, keep: 3, depth: 8, attempts: 64 });
  const prompt = engine.encodeChat(problem.prompt(), { addGenerationPrompt: true }).length;
  const kvBytes = (prompt + 150) * engine.info.kvBytesPerToken;
  let most = 0;
  const running = search(problem, strategy, model, { budget: { kvBytes } });
  for await (const event of running) {
    if (event.type === "thought:tokens") {
      const { numPages, freePages, cachedPages } = engine.stats();
      most = Math.max(most, numPages - freePages - cachedPages);
    }
  }
  expect((await running).solved).toBe(true);
  const branches = Math.ceil(150 / problem.thought.maxTokens) + 2;
  // Each branch may leave its last page partly empty.
  expect(most * 16).toBeLessThanOrEqual(prompt + 150 + 16 * branches);
  await expectFree();
});

it("saves at least a fifth of the tokens by pruning early, at equal accuracy", async () => {
  const sums = { early: { tokens: 0, solved: 0 }, late: { tokens: 0, solved: 0 } };
  for (let seed = 0; seed < 6; seed++) {
    for (const kind of ["early", "late"] as const) {
      const strategy = breadthFirst({
        ...{ grow: "continue", width: 6, keep: 2, depth: 17, attempts: 36 },
        ...{ cutHopeless: kind === "early", narrowAgreed: kind === "early" },
      });
      const { statistics } = await search(sortingProblem(digits(128, 40 + seed)), strategy, model, { seed });
      sums[kind].tokens += statistics.generatedTokens;
      sums[kind].solved += Number(statistics.solved);
    }
  }
  expect(sums.early.solved).toBeGreaterThanOrEqual(sums.late.solved);
  expect(sums.early.tokens).toBeLessThan(0.8 * sums.late.tokens);
});

it.each([0, 3])("frees the KV of a hopeless thought within one step, beside %i that decode on", async (numOthers) => {
  const root = await model.open(sortingProblem(digits(64, 3)).prompt());
  const [hopeless, ...others] = root.fork(1 + numOthers);
  const decoding = others.map((other) => other.decode({ maxTokens: 200 }));
  let freed: Promise<{ branches: number; steps: number }> | undefined;
  const { finishReason } = await hopeless!.decode({
    maxTokens: 200,
    onText: (_, tokens) => {
      if (tokens < 20) return true;
      const { steps } = engine.stats();
      // A check behind the prune, in the same batch of commands: what the engine counts when it comes to it.
      freed = Promise.resolve()
        .then(() => engine.checkInvariants())
        .then(() => ({ branches: engine.stats().branches, steps: engine.stats().steps - steps }));
      return false;
    },
  });
  expect(finishReason).toBe("cut");
  const { branches, steps } = await freed!;
  expect(branches).toBe(1 + numOthers);
  if (numOthers === 0) expect(steps).toBeLessThanOrEqual(1);
  await Promise.all(decoding);
  for (const branch of [root, ...others]) branch.release();
  await expectFree();
});

it.each([
  breadthFirst({ grow: "continue", width: 6, keep: 2, depth: 5 }),
  bestOfN({ n: 6, stopWhenSolved: false }),
  depthFirst({ width: 3, depth: 5 }),
])("grows the same tree with speculation as without: $name", async (strategy) => {
  // One by one, so that the engine's counters tell of one search.
  for (const seed of [1, 2, 3]) {
    const problem = sortingProblem(digits(64, seed));
    const before = engine.stats();
    const plain = await search(problem, strategy, model, { seed, speculation: "off" });
    const between = engine.stats();
    const drafted = await search(problem, strategy, model, { seed, speculation: { mode: "always" } });
    const after = engine.stats();
    expect(between.draftTrees).toBe(before.draftTrees);
    expect(after.acceptedDraftTokens).toBeGreaterThan(between.acceptedDraftTokens);
    expect(drafted.tree).toEqual(plain.tree);
    await expectFree();
  }
});

describe("formats", () => {
  // Hot, so that nothing but the format keeps the text in order.
  const sampling = { temperature: 3 };
  const options = { ...sortingProblem(digits(16, 3)), hopeless: undefined };

  it("end each part where it is whole, and let the next go on from there", async () => {
    const problem = {
      ...options,
      thought: { maxTokens: 24, format: { regex: "\\[?\\d, \\d, \\d, " } },
      isComplete: ({ numbers }: SortingState) => numbers.length >= 12,
    };
    const strategy = breadthFirst({ grow: "continue", width: 3, keep: 2, depth: 4, sampling, stopWhenSolved: false });
    const { tree } = await search(problem, strategy, model, { seed: 1 });
    const parts = tree.thoughts.slice(1);
    expect(new Set(parts.map(({ text }) => text)).size).toBeGreaterThan(6);
    for (const { text, state } of parts) {
      expect(text).toMatch(/^\[?\d, \d, \d, $/);
      expect(state!.numbers.length % 3).toBe(0);
    }
    expect(Math.max(...parts.map(({ depth }) => depth))).toBe(4);
    await expectFree();
  });

  it("keep whole answers to a schema, and let a budget cut the last", async () => {
    const jsonSchema = { type: "array", items: { type: "integer", minimum: 0, maximum: 9 }, minItems: 4, maxItems: 9 };
    const problem = { ...options, answerMaxTokens: 40, answerFormat: { jsonSchema } };
    const strategy = bestOfN({ n: 12, sampling, stopWhenSolved: false });
    const { tree } = await search(problem, strategy, model, { seed: 1 });
    for (const { text } of tree.thoughts.slice(1)) {
      const numbers = JSON.parse(text) as number[];
      expect(numbers.length).toBeGreaterThanOrEqual(4);
      for (const number of numbers) expect(Math.abs(number - 4.5)).toBeLessThan(5);
    }
    const cut = await search(problem, strategy, model, { seed: 1, budget: { tokens: 43 } });
    expect(cut.stopReason).toBe("tokens");
    await expectFree();
  });

  it("reject where a thought has no room for its shortest text", async () => {
    const problem = { ...options, answerMaxTokens: 3, answerFormat: { regex: "\\d{40}" } };
    await expect(search(problem, bestOfN({ n: 1 }), model).result).rejects.toThrow(/constraint takes \d+ tokens/);
    await expectFree();
  });
});

describe("evaluation by the model itself", () => {
  const judged = (input: number[]): Problem<SortingState, number[]> => ({
    ...sortingProblem(input),
    value: {
      prompt: ({ numbers }) => [{ role: "user", content: `${sortPrompt(input)}\nIs [${numbers.join(", ")}] right?` }],
      read: (text) => (/\d/.test(text) ? [Number(/\d/.exec(text)![0])] : undefined),
      choices: { "[0": 1, "[9": 0 },
      failureScore: -1,
    },
  });

  it("scores choices without decoding", async () => {
    const before = engine.stats().decodedTokens;
    const result = await search(judged(digits(16, 3)), bestOfN({ n: 4 }), model, { evaluate: choiceLogprobs() });
    const thoughts = result.tree.thoughts.slice(1);
    for (const { score } of thoughts) {
      expect(score).toBeGreaterThan(0.5);
      expect(score).toBeLessThanOrEqual(1);
    }
    const own = thoughts.reduce((sum, { tokens }) => sum + tokens, 0);
    expect(engine.stats().decodedTokens - before).toBe(own);
    await expectFree();
  });

  it("grows children ahead of the verdicts, and the same tree", async () => {
    const strategy = breadthFirst({ grow: "continue", width: 4, keep: 2, depth: 4, sampling: { temperature: 2 } });
    const evaluate = llmValue({ samples: 1, maxTokens: 8 });
    const events: SearchEvent[] = [];
    const plain = await search(judged(digits(32, 3)), strategy, model, { evaluate, seed: 2 });
    const running = search(judged(digits(32, 3)), strategy, model, { evaluate, seed: 2, proposeAhead: 2 });
    for await (const event of running) events.push(event as SearchEvent);
    const ahead = await running;
    expect(ahead.tree).toEqual(plain.tree);
    expect(ahead.answer).toEqual(plain.answer);
    const { generatedTokens, wastedTokens } = ahead.statistics;
    expect(generatedTokens - wastedTokens).toBe(plain.statistics.generatedTokens);
    const dropped = events.reduce((sum, event) => sum + (event.type === "ahead:dropped" ? event.tokens : 0), 0);
    expect(dropped).toBe(wastedTokens);
    expect(events.map(({ type }) => type)).toContain("ahead:started");
    await expectFree();
  });

  it("samples verdicts, and repeats them by the seed", async () => {
    const strategy = breadthFirst({ grow: "continue", width: 4, keep: 2, depth: 3 });
    const evaluate = llmValue({ samples: 2, maxTokens: 8 });
    const run = () => search(judged(digits(16, 3)), strategy, model, { evaluate, seed: 2 });
    const [first, second] = [await run(), await run()];
    expect(second.tree).toEqual(first.tree);
    await expectFree();
  });
});
