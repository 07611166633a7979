import { bestOfN, breadthFirst, graphOfThoughts, monteCarlo, type SearchEvent, type Strategy } from "@deftree/search";
import { BaseTracer, type Run } from "@langchain/core/tracers/base";
import { describe, expect, it } from "vitest";
import { type DigitsState, digitsProblem as problem, sortingEngine } from "../test/digits-problem.js";
import { ChatDeftree, thoughtSearch } from "./index.js";

class Tracer extends BaseTracer {
  name = "test_tracer";
  roots: Run[] = [];

  protected override async persistRun(run: Run): Promise<void> {
    this.roots.push(run);
  }
}

const digits = "927465918273";
const strategies: [string, Strategy][] = [
  ["breadthFirst", breadthFirst({ grow: "continue", width: 6, keep: 2, depth: 5 })],
  ["bestOfN", bestOfN({ n: 12 })],
  ["monteCarlo", monteCarlo({ iterations: 8, width: 4, depth: 5 })],
  ["graphOfThoughts", graphOfThoughts({ parts: 2, solve: 8, merge: 8, improve: 4 })],
];

async function traced(strategy: Strategy, more: { tracePayloads?: boolean } = {}) {
  const tracer = new Tracer();
  const search = thoughtSearch({
    ...{ model: new ChatDeftree({ engine: sortingEngine() }), problem, strategy, seed: 2 },
    ...more,
  });
  const result = await search.invoke(digits, { callbacks: [tracer] });
  expect(tracer.roots).toHaveLength(1);
  return { result, root: tracer.roots[0]! };
}

describe.each(strategies)("the trace of %s", (_, strategy) => {
  it("has a run for each thought below the search's, with its place, text and score", async () => {
    const { result, root } = await traced(strategy);
    expect(root).toMatchObject({ inputs: { input: digits }, outputs: { answer: result.answer, tree: result.tree } });
    const thoughts = result.tree.thoughts.slice(1);
    expect(root.child_runs.map(({ name }) => name)).toEqual(thoughts.map(({ id }) => `thought ${id}`));
    for (const { id, parent, depth, text, score } of thoughts) {
      const run = root.child_runs[id - 1]!;
      expect(run).toMatchObject({ parent_run_id: root.id, inputs: { parent, depth }, outputs: { text } });
      expect(run.outputs!.score).toBe(score);
      expect(run.error).toBeUndefined();
      expect(run.end_time!).toBeGreaterThanOrEqual(run.start_time!);
    }
  });

  it("holds figures alone without payloads", async () => {
    const { result, root } = await traced(strategy, { tracePayloads: false });
    const full = (await traced(strategy)).root;
    expect(root.child_runs).toHaveLength(full.child_runs.length);
    expect(root.outputs).toEqual({
      ...{ score: result.score, solved: result.solved, stopReason: result.stopReason },
      statistics: result.statistics,
    });
    expect(root.inputs).toEqual({});
    for (const [i, { outputs }] of root.child_runs.entries()) {
      const { text: _, ...figures } = full.child_runs[i]!.outputs!;
      expect(outputs).toEqual(figures);
    }
    expect(result.tree.thoughts.length).toBe(root.child_runs.length + 1);
  });
});

describe("a search's listener", () => {
  const heard = (
    onEvent: (event: SearchEvent<DigitsState, string>, input: string) => void,
    engine = sortingEngine(),
  ) => ({
    engine,
    search: thoughtSearch({ model: new ChatDeftree({ engine }), problem, strategy: bestOfN({ n: 8 }), onEvent }),
  });

  it("hears every event, with the input that it belongs to", async () => {
    const events: [string, string][] = [];
    const { search } = heard(({ type }, input) => events.push([input, type]));
    await search.batch(["321", "54321"]);
    for (const input of ["321", "54321"]) {
      const types = events.filter(([of]) => of === input).map(([, type]) => type);
      expect([types[0], types.at(-1)]).toEqual(["search:started", "done"]);
    }
    const streamed: string[] = [];
    events.length = 0;
    for await (const { type } of await search.stream("321")) streamed.push(type);
    expect(events.map(([, type]) => type)).toEqual(streamed);
  });

  it("ends the search by what it throws, all branches released", async () => {
    const { engine, search } = heard(({ type }) => {
      if (type === "thought:finished") throw new Error("the disk is full");
    });
    await expect(search.invoke("927465")).rejects.toThrow("the disk is full");
    expect(engine.openBranches).toBe(0);
  });
});
