import {
  bestOfN,
  breadthFirst,
  depthFirst,
  graphOfThoughts,
  monteCarlo,
  type SearchEvent,
  type Strategy,
  selfConsistency,
} from "@deftree/search";
import { RunCollectorCallbackHandler } from "@langchain/core/tracers/run_collector";
import { describe, expect, it } from "vitest";
import { type DigitsState, digitsProblem as problem, sortingEngine } from "../test/digits-problem.js";
import type { FakeEngine } from "../test/fake-engine.js";
import { ChatDeftree, thoughtSearch } from "./index.js";

const strategies: [string, Strategy][] = [
  ["breadthFirst", breadthFirst({ grow: "continue", width: 6, depth: 4 })],
  ["bestOfN", bestOfN({ n: 24 })],
  ["selfConsistency", selfConsistency({ n: 24 })],
  ["depthFirst", depthFirst({ width: 4, depth: 4 })],
  ["monteCarlo", monteCarlo({ iterations: 12, width: 4, depth: 4 })],
  ["graphOfThoughts", graphOfThoughts({ parts: 2, solve: 8, merge: 8, improve: 4 })],
];

describe.each(strategies)("thoughtSearch by %s", (_, strategy) => {
  const over = (engine: FakeEngine) => thoughtSearch({ model: new ChatDeftree({ engine }), problem, strategy });

  it("solves", async () => {
    const engine = sortingEngine();
    const { answer, solved } = await over(engine).invoke("927465");
    expect({ answer, solved }).toEqual({ answer: "245679", solved: true });
    expect(engine.openBranches).toBe(0);
  });

  it("streams events while it runs", async () => {
    let open = () => {};
    const gate = new Promise<void>((resolve) => {
      open = resolve;
    });
    const engine = sortingEngine(() => gate);
    const types: string[] = [];
    for await (const { type } of await over(engine).stream("927465")) {
      types.push(type);
      if (type === "thought:started") {
        if (types.indexOf("thought:started") === types.length - 1) expect(engine.decodedTokens).toBe(0);
        open();
      }
    }
    expect(types[0]).toBe("search:started");
    expect(types.at(-1)).toBe("done");
    expect(types.indexOf("thought:started")).toBeLessThan(types.indexOf("thought:finished"));
  });

  it("shows its events in streamEvents", async () => {
    const types: string[] = [];
    for await (const event of over(sortingEngine()).streamEvents("927465", { version: "v2" })) {
      if (event.event === "on_custom_event") types.push((event.data as SearchEvent<DigitsState, string>).type);
    }
    expect(types).toContain("thought:scored");
    expect(types.at(-1)).toBe("done");
  });

  it("runs a batch side by side", async () => {
    const engine = sortingEngine();
    const results = await over(engine).batch(["321", "54321"]);
    expect(results.map(({ answer }) => answer)).toEqual(["123", "12345"]);
    expect(engine.openBranches).toBe(0);
  });

  it("is traced under its name, a run for each thought", async () => {
    const collector = new RunCollectorCallbackHandler();
    const { tree } = await over(sortingEngine()).invoke("927465", { callbacks: [collector] });
    const [run] = collector.tracedRuns;
    expect(run!.name).toBe(`thoughtSearch(${strategy.name})`);
    expect(run!.child_runs).toHaveLength(tree.thoughts.length - 1);
  });

  it("releases everything before an abort rejects", async () => {
    const engine = sortingEngine(() => new Promise((resolve) => setTimeout(resolve, 1)));
    const controller = new AbortController();
    const call = over(engine).invoke("9274659274", { signal: controller.signal });
    while (engine.decodedTokens < 5) await new Promise(setImmediate);
    controller.abort(new Error("enough"));
    await expect(call).rejects.toThrow("enough");
    expect(engine.openBranches).toBe(0);
  });
});

describe("thoughtSearch", () => {
  it("picks a strategy for an input", async () => {
    const search = thoughtSearch({
      model: new ChatDeftree({ engine: sortingEngine() }),
      problem,
      strategy: (input: string) => (input.length > 3 ? graphOfThoughts({ parts: 2, solve: 5 }) : bestOfN({ n: 8 })),
    });
    const results = await search.batch(["321", "927465"]);
    expect(results.map(({ answer }) => answer)).toEqual(["123", "245679"]);
    expect(results.map(({ statistics }) => statistics.strategy)).toEqual(["best-of-8", "got-2"]);
  });
});
