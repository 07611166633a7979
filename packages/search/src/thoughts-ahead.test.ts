/** Children grown while their parent is being scored: the same tree as without them, and what was in vain is counted. */
import { describe, expect, it } from "vitest";
import { altered, type Digits, digits, digitsProblem } from "../test/digits.js";
import { checkEventOrder } from "../test/event-order.js";
import { ScriptedModel } from "../test/scripted-model.js";
import {
  bestOfN,
  breadthFirst,
  depthFirst,
  type Evaluator,
  graphOfThoughts,
  llmValue,
  llmVote,
  monteCarlo,
  type Problem,
  pathTo,
  type SearchEvent,
  type SearchOptions,
  type Strategy,
  search,
} from "./index.js";
import { textHash } from "./seeds.js";

/** Verdicts from 0 to 9, by the state and now and then wrong. */
const judged = (input: string, partLen: number): Problem<Digits, string> =>
  altered(digitsProblem(input, partLen), {
    value: {
      prompt: ({ text }) => [{ role: "user", content: `value ${text}` }],
      read: (text) => (/\d/.test(text) ? [Number(text)] : undefined),
      failureScore: -1,
    },
    vote: {
      prompt: (states) => [{ role: "user", content: `vote ${states.map(({ text }) => text).join(" ")}` }],
      read: (text, count) => Number(text) % count,
    },
  });
const reply = (prompt: string, seed: number) =>
  /^(value|vote)/.test(prompt) ? String((textHash(prompt) ^ (seed % 3)) % 10) : undefined;

/** Pseudo-random numbers below a limit. */
function randomFrom(seed: number): (below: number) => number {
  let state = seed + 12345;
  return (below) => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    return (state >>> 8) % below;
  };
}

async function run(strategy: Strategy, problem: Problem<Digits, string>, model: ScriptedModel, options: SearchOptions) {
  const events: SearchEvent<Digits, string>[] = [];
  const running = search(problem, strategy, model, options);
  for await (const event of running) events.push(event);
  checkEventOrder(events);
  expect(model.openBranches).toBe(0);
  const { tree, text, answer, score, solved, stopReason, statistics } = await running;
  const started = sumOf(events, "ahead:started");
  return { events, statistics, result: { tree, text, answer, score, solved, stopReason }, started };
}

function sumOf(events: readonly SearchEvent[], type: "ahead:started" | "ahead:dropped"): number {
  return events.reduce((sum, event) => sum + (event.type === type ? event.thoughts : 0), 0);
}

const strategies: ((random: (below: number) => number) => Strategy)[] = [
  (random) => {
    const width = 1 + random(6);
    const options = { width, keep: 1 + random(4), depth: 1 + random(5), attempts: width + random(6) };
    return breadthFirst({ grow: "continue", ...options, cutHopeless: random(2) === 0 });
  },
  (random) => depthFirst({ width: 1 + random(4), depth: 1 + random(5), keep: 1 + random(3) }),
  (random) => monteCarlo({ iterations: 1 + random(8), width: 1 + random(4), depth: 1 + random(4) }),
  (random) => breadthFirst({ grow: "continue", width: 2 + random(3), depth: 3, propose: "list" }),
  (random) => breadthFirst({ grow: "reprompt", width: 1 + random(4), depth: 1 + random(3) }),
  (random) => bestOfN({ n: 1 + random(5) }),
  () => graphOfThoughts({ parts: 2, solve: 2, merge: 2, improve: 1 }),
];

it("grows the same tree as without, over random strategies, evaluations, seeds and room", async () => {
  const sums = { started: 0, kept: 0, dropped: 0 };
  for (let i = 0; i < 400; i++) {
    const random = randomFrom(i);
    const strategy = strategies[random(10) < 6 ? random(3) : random(strategies.length)]!(random);
    const problem = {
      ...judged(digits(8 + random(8), i), 2 + random(3)),
      proposals: { prompt: () => [{ role: "user" as const, content: "list 12" }], read: () => ["0", "1", "01"] },
    };
    const usesProgram = random(2) === 0;
    const evaluate = [llmValue, llmVote][random(2)]!({ samples: 1 + random(2), usesProgram });
    const errorRate = random(4) / 10;
    const room = [{}, { nodes: 3 + random(12) }, { kvBytes: 100 + random(300) }][random(3)]!;
    const jitter = async () => {
      for (let turns = random(4); turns > 0; turns--) await null;
    };
    const options = { seed: i, evaluate, budget: room };
    const plain = await run(strategy, problem, new ScriptedModel({ errorRate, reply }), options);
    const model = new ScriptedModel({ errorRate, reply, jitter });
    const ahead = await run(strategy, problem, model, { ...options, proposeAhead: 1 + random(4) });
    expect(ahead.result).toEqual(plain.result);
    expect(ahead.statistics.generatedTokens).toBe(model.generated);
    expect(ahead.statistics.generatedTokens - ahead.statistics.wastedTokens).toBe(plain.statistics.generatedTokens);
    expect(plain.statistics.wastedTokens).toBe(0);
    const dropped = sumOf(ahead.events, "ahead:dropped");
    sums.started += ahead.started;
    sums.dropped += dropped;
    sums.kept += ahead.started - dropped;
  }
  expect(sums.kept).toBeGreaterThan(100);
  expect(sums.dropped).toBeGreaterThan(100);
});

it("is resumed to the same tree, wherever it was cut off", async () => {
  for (let i = 0; i < 12; i++) {
    const random = randomFrom(i);
    const strategy = strategies[i % 3]!(random);
    const problem = judged(digits(12, i), 3);
    const model = () => new ScriptedModel({ errorRate: 0.2, reply });
    const options = { seed: i, evaluate: llmValue({ samples: 1 }), proposeAhead: 2 };
    const whole = await run(strategy, problem, model(), options);
    for (let cut = 1; cut < whole.events.length; cut += 1 + random(60)) {
      const resumed = await run(strategy, problem, model(), { ...options, resume: whole.events.slice(0, cut) });
      expect(resumed.result).toEqual(whole.result);
    }
  }
});

describe("while a verdict is awaited", () => {
  const strategy = breadthFirst({ grow: "continue", width: 4, keep: 2, depth: 4 });
  const problem = judged(digits(16, 2), 4);

  /** Takes many turns for each verdict. */
  function slow(turns: number): Evaluator {
    const evaluator = llmValue({ samples: 1 });
    return {
      ...evaluator,
      async score(...args) {
        for (let i = 0; i < turns; i++) await new Promise(setImmediate);
        return evaluator.score(...args);
      },
    };
  }

  it("grows children, so that they are there when it comes", async () => {
    const options = { evaluate: slow(20), seed: 1 };
    const model = () => new ScriptedModel({ errorRate: 0.2, reply, jitter: () => new Promise(setImmediate) });
    const { events } = await run(strategy, problem, model(), { ...options, proposeAhead: 2 });
    const at = (wanted: (event: SearchEvent) => boolean) => events.findIndex(wanted);
    const started = at(({ type }) => type === "ahead:started");
    const scored = at(({ type }) => type === "thought:scored");
    expect(started).toBeGreaterThan(0);
    expect(started).toBeLessThan(scored);
    // A kept child has said all that it says by the time it gets its number.
    const adopted = events.findIndex((event) => event.type === "thought:started" && event.depth === 2);
    const thought = (events[adopted] as { thought: number }).thought;
    const next = events.slice(adopted + 1).filter((event) => "thought" in event && event.thought === thought);
    expect(next.slice(0, 4).map(({ type }) => type)).toEqual(new Array(4).fill("thought:tokens"));
    const between = events.slice(adopted + 1).indexOf(next[3]!);
    expect(between).toBeLessThan(24);
  });

  it("grows none unless asked to, and none below what the last level or a program decides", async () => {
    const model = () => new ScriptedModel({ errorRate: 0.2, reply });
    const evaluate = llmValue({ samples: 1 });
    expect((await run(strategy, problem, model(), { evaluate })).started).toBe(0);
    expect((await run(strategy, problem, model(), { proposeAhead: 2 })).started).toBe(0);
    const flat = breadthFirst({ grow: "continue", width: 4, depth: 1 });
    expect((await run(flat, problem, model(), { evaluate, proposeAhead: 2 })).started).toBe(0);
  });

  it("does not fail for a child that nobody wants, and does for one that is kept", async () => {
    const options = { evaluate: slow(3), seed: 1, proposeAhead: 2 };
    const { tree } = (await run(strategy, problem, new ScriptedModel({ errorRate: 0.3, reply }), options)).result;
    const textOf = (id: number) =>
      pathTo(tree, id)
        .map(({ text }) => text)
        .join("");
    const parents = new Set(tree.thoughts.map(({ parent }) => textOf(Math.max(0, parent))));
    const childless = tree.thoughts.filter(({ id, depth }) => depth > 0 && depth < 4 && !parents.has(textOf(id)));
    const unwanted = new Set(childless.map(({ id }) => textOf(id)));
    expect(unwanted.size).toBeGreaterThan(1);
    const failing = (texts: Set<string>) =>
      new ScriptedModel({ errorRate: 0.3, reply, failAt: (answer) => texts.has(answer) && answer !== "" });
    expect((await run(strategy, problem, failing(unwanted), options)).result.tree).toEqual(tree);
    const model = failing(parents);
    await expect(search(problem, strategy, model, options).result).rejects.toThrow("the scripted model failed");
    expect(model.openBranches).toBe(0);
  });

  it("leaves nothing behind when it is cancelled", async () => {
    for (let i = 0; i < 100; i++) {
      const random = randomFrom(i);
      const controller = new AbortController();
      const model = new ScriptedModel({ errorRate: 0.2, reply });
      const options = { evaluate: slow(random(3)), signal: controller.signal, proposeAhead: 3, seed: i };
      const running = search(problem, strategies[random(3)]!(random), model, options).result;
      for (let turns = random(200); turns > 0; turns--) await null;
      controller.abort();
      const { statistics } = await running;
      await new Promise(setImmediate);
      expect(model.openBranches).toBe(0);
      expect(statistics.wastedTokens).toBeLessThanOrEqual(statistics.generatedTokens);
    }
  });

  it("is refused with a budget of tokens, and where it is no count", () => {
    const model = new ScriptedModel({ errorRate: 0 });
    expect(() => search(problem, strategy, model, { proposeAhead: 2, budget: { tokens: 100 } })).toThrow(RangeError);
    expect(() => search(problem, strategy, model, { proposeAhead: -1 })).toThrow(RangeError);
  });
});
