import { describe, expect, it } from "vitest";
import { altered, digits, digitsProblem } from "../test/digits.js";
import { checkEventOrder } from "../test/event-order.js";
import { ScriptedModel } from "../test/scripted-model.js";
import {
  bestOfN,
  bestOfNAtEqualTokens,
  breadthFirst,
  depthFirst,
  emptyTree,
  graphOfThoughts,
  growTree,
  monteCarlo,
  pathTo,
  type Search,
  type SearchEvent,
  search,
  selfConsistency,
  selfConsistencyAtEqualTokens,
  singleShot,
} from "./index.js";

const continuing = breadthFirst({ grow: "continue", width: 8, keep: 2, depth: 8 });
const reprompting = breadthFirst({ grow: "reprompt", width: 6, depth: 3 });
const strategies = [
  singleShot(),
  bestOfN({ n: 10, width: 4 }),
  selfConsistency({ n: 7 }),
  continuing,
  reprompting,
  depthFirst({ width: 3, depth: 8 }),
  monteCarlo({ iterations: 12, width: 3, depth: 6 }),
  graphOfThoughts({ parts: 4, solve: 3, merge: 3, improve: 2 }),
];
const input = digits(16, 3);

async function eventsOf<State, Answer>(running: Search<State, Answer>): Promise<SearchEvent<State, Answer>[]> {
  const events: SearchEvent<State, Answer>[] = [];
  for await (const event of running) events.push(event);
  return events;
}

describe.each(strategies)("$name", (strategy) => {
  it("streams well-formed events that rebuild the result's tree, and leaves no branch open", async () => {
    const model = new ScriptedModel({ errorRate: 0.1 });
    const running = search(digitsProblem(input), strategy, model, { seed: 1 });
    const events = await eventsOf(running);
    const { tree, statistics } = await running;
    checkEventOrder(events);
    const rebuilt = emptyTree();
    for (const event of events) growTree(rebuilt, event);
    expect(rebuilt).toEqual(tree);
    expect(model.openBranches).toBe(0);
    expect(statistics.generatedTokens).toBe(model.generated);
    expect(statistics.thoughts).toBe(tree.thoughts.length - 1);
    expect(statistics.depth).toBe(Math.max(...tree.thoughts.map(({ depth }) => depth)));
    expect(statistics.kvBytesRead).toBe(model.kvBytesRead);
  });

  it("grows the same tree from the same seed whatever the order in which thoughts finish", async () => {
    const jitter = async () => {
      for (let turns = Math.floor(Math.random() * 4); turns > 0; turns--) await null;
    };
    const run = async (seed: number, wait?: () => Promise<void>) =>
      search(digitsProblem(input), strategy, new ScriptedModel({ errorRate: 0.2, jitter: wait }), { seed });
    const first = await run(7);
    for (let i = 0; i < 5; i++) {
      const again = await run(7, jitter);
      expect(again.tree).toEqual(first.tree);
      expect(again.text).toBe(first.text);
    }
    if (strategy.name !== "single") expect((await run(8)).tree).not.toEqual(first.tree);
  });

  it.each([1, 7, 16, 40, 100])("never generates more than a budget of %i tokens", async (tokens) => {
    const model = new ScriptedModel({ errorRate: 0.3 });
    const result = await search(digitsProblem(input), strategy, model, { budget: { tokens } });
    expect(model.generated).toBeLessThanOrEqual(tokens);
    expect(result.statistics.generatedTokens).toBe(model.generated);
    if (result.stopReason === "tokens") expect(model.generated).toBe(tokens);
    else expect(["finished", "solved"]).toContain(result.stopReason);
    expect(model.openBranches).toBe(0);
  });

  it("starts no more thoughts than its budget", async () => {
    const model = new ScriptedModel({ errorRate: 0.5 });
    const events = await eventsOf(search(digitsProblem(input), strategy, model, { budget: { thoughts: 3 } }));
    checkEventOrder(events);
    expect(events.filter(({ type }) => type === "thought:started").length).toBeLessThanOrEqual(3);
    expect(model.openBranches).toBe(0);
  });

  it("releases every branch when the consumer leaves, wherever it is", async () => {
    for (let leaveAt = 1; leaveAt < 30; leaveAt += 3) {
      const model = new ScriptedModel({ errorRate: 0.1, jitter: async () => {} });
      let seen = 0;
      for await (const _ of search(digitsProblem(input), strategy, model)) if (++seen === leaveAt) break;
      expect(model.openBranches).toBe(0);
    }
  });

  it("ends with the best so far when the caller aborts", async () => {
    const controller = new AbortController();
    const model = new ScriptedModel({ errorRate: 0.1, jitter: () => new Promise(setImmediate) });
    const running = search(digitsProblem(input), strategy, model, { signal: controller.signal });
    const events: SearchEvent<unknown, unknown>[] = [];
    for await (const event of running) {
      events.push(event);
      if (event.type === "thought:tokens") controller.abort();
    }
    checkEventOrder(events);
    const result = await running;
    expect(result.stopReason).toBe("aborted");
    expect(events.map(({ type }) => type)).toContain("search:aborted");
    expect(model.openBranches).toBe(0);
  });

  it("does nothing on a signal that is aborted already", async () => {
    const model = new ScriptedModel({ errorRate: 0.1 });
    const result = await search(digitsProblem(input), strategy, model, { signal: AbortSignal.abort() });
    expect(result).toMatchObject({ stopReason: "aborted", best: undefined, answer: undefined, solved: false });
    expect(model.opened).toBe(0);
  });

  it("ends cleanly when its time is over", async () => {
    const model = new ScriptedModel({ errorRate: 0.1, jitter: () => new Promise((r) => setTimeout(r, 5)) });
    const running = search(digitsProblem(input), strategy, model, { budget: { timeMs: 20 } });
    const events = await eventsOf(running);
    checkEventOrder(events);
    expect((await running).stopReason).toBe("time");
    expect(model.openBranches).toBe(0);
  });

  it("rejects with the model's error, after releasing every branch", async () => {
    const model = new ScriptedModel({ errorRate: 0.1, failAfter: 9 });
    const running = search(digitsProblem(input), strategy, model);
    await expect(eventsOf(running)).rejects.toThrow("the scripted model failed");
    await expect(running.result).rejects.toThrow("the scripted model failed");
    expect(model.openBranches).toBe(0);
  });

  it("rejects with the error of a problem's parser, after releasing every branch", async () => {
    const model = new ScriptedModel({ errorRate: 0.1 });
    const fail = () => {
      throw new Error("the parser failed");
    };
    const broken = altered(digitsProblem(input), { readAnswer: fail, readPartial: fail });
    await expect(search(broken, strategy, model).result).rejects.toThrow("the parser failed");
    expect(model.openBranches).toBe(0);
  });

  it("gives the failure score when a scorer throws or answers nonsense, and goes on", async () => {
    if (strategy.name.startsWith("self-consistency")) return;
    const fail = () => {
      throw new Error("no idea");
    };
    for (const score of [fail, () => Number.NaN, () => Number.POSITIVE_INFINITY]) {
      const model = new ScriptedModel({ errorRate: 0.1 });
      const members = { score, hopeless: fail, isSolved: fail, failureScore: -50 };
      const running = search(altered(digitsProblem(input), members), strategy, model);
      const events = await eventsOf(running);
      checkEventOrder(events);
      const result = await running;
      expect(result.answer).toBeDefined();
      expect(result.solved).toBe(false);
      for (const event of events) {
        if (event.type === "thought:scored") expect(event.failed).toMatch(/the scorer (threw: no idea|answered)/);
      }
      expect(model.openBranches).toBe(0);
    }
  });
});

describe("a search", () => {
  it("starts only when somebody reads or awaits it", async () => {
    const model = new ScriptedModel({ errorRate: 0 });
    search(digitsProblem(input), singleShot(), model);
    await new Promise(setImmediate);
    expect(model.opened).toBe(0);
  });

  it("gives every reader all events", async () => {
    const running = search(digitsProblem(input), continuing, new ScriptedModel({ errorRate: 0.1 }));
    const [one, other] = await Promise.all([eventsOf(running), eventsOf(running)]);
    expect(one).toEqual(other);
    expect(await eventsOf(running)).toEqual(one);
  });

  it("refuses a budget that is no positive number", () => {
    const model = new ScriptedModel({ errorRate: 0 });
    expect(() => search(digitsProblem(input), continuing, model, { budget: { tokens: 0 } })).toThrow(RangeError);
    expect(() => search(digitsProblem(input), continuing, model, { budget: { timeMs: Number.NaN } })).toThrow(
      RangeError,
    );
  });

  it("counts what a server without shared prefixes would compute as prompt, and what was shared as reused", async () => {
    const model = new ScriptedModel({ errorRate: 0 });
    const { statistics } = await search(digitsProblem(input), bestOfN({ n: 5 }), model);
    expect(statistics.promptTokens).toBe(5 * input.length);
    expect(statistics.reusedTokens).toBe(4 * input.length);
  });
});

describe("Tree of Thoughts", () => {
  it("beats best-of-n and self-consistency at equal generated tokens when errors are independent", async () => {
    let tree = 0;
    let samples = 0;
    let votes = 0;
    for (let i = 0; i < 40; i++) {
      const problem = digitsProblem(digits(24, i));
      const model = new ScriptedModel({ errorRate: 0.12 });
      const result = await search(problem, breadthFirst({ grow: "continue", width: 6, depth: 6 }), model, { seed: i });
      const { generatedTokens } = result.statistics;
      const baseline = await bestOfNAtEqualTokens(problem, model, generatedTokens, { seed: i });
      expect(baseline.statistics.generatedTokens).toBeLessThanOrEqual(generatedTokens);
      const majority = await selfConsistencyAtEqualTokens(problem, model, generatedTokens, { seed: i });
      expect(majority.statistics.generatedTokens).toBe(generatedTokens);
      tree += Number(result.solved);
      samples += Number(baseline.solved);
      votes += Number(majority.solved);
    }
    expect(tree).toBeGreaterThan(35);
    expect(samples).toBeLessThan(25);
    expect(votes).toBeLessThan(samples);
  });

  it("shows the answer along the path to the solution", async () => {
    const { best, text, tree, answer } = await search(
      digitsProblem(input),
      continuing,
      new ScriptedModel({ errorRate: 0.1 }),
    );
    const path = pathTo(tree, best!.id);
    expect(path.map((thought) => thought.text).join("")).toBe(text);
    expect(answer).toBe([...input].sort().join(""));
    expect(best!.status).toBe("solution");
  });
});
