import {
  breadthFirst,
  depthFirst,
  monteCarlo,
  type SearchEvent,
  type SearchResult,
  type Strategy,
} from "@deftree/search";
import { END, type LangGraphRunnableConfig, MemorySaver, START, StateGraph, StateSchema } from "@langchain/langgraph";
import { describe, expect, it } from "vitest";
import { z } from "zod";
import { collect } from "../test/collect.js";
import { type DigitsState, digitsProblem, sorted, sortingEngine } from "../test/digits-problem.js";
import type { FakeEngine } from "../test/fake-engine.js";
import { type ThoughtsChunk, thoughtSearchNode, thoughtsTransformer } from "./graph.js";
import { searchInGraph } from "./graph-search.js";
import { ChatDeftree } from "./index.js";

type Result = SearchResult<DigitsState, string>;
const State = new StateSchema({ digits: z.string(), result: z.custom<Result>().optional() });
const digits = "927465918273546372819405";
const breadth = breadthFirst({ grow: "continue", width: 6, keep: 2, depth: 9 });

function graphOf(engine: FakeEngine, strategy: Strategy = breadth, checkpointer = new MemorySaver()) {
  const think = thoughtSearchNode({
    model: new ChatDeftree({ engine }),
    problem: (state: { digits: string }) => digitsProblem(state.digits),
    update: (result) => ({ result }),
    ...{ strategy, seed: 4 },
  });
  return new StateGraph(State)
    .addNode("think", think)
    .addEdge(START, "think")
    .addEdge("think", END)
    .compile({ checkpointer, transformers: [thoughtsTransformer<DigitsState, string>] });
}

const thread = (name: string) => ({ configurable: { thread_id: name } });
const slow = () => sortingEngine(() => new Promise((resolve) => setTimeout(resolve, 1)));

describe("a search as a node", () => {
  it("writes its result into the graph's state", async () => {
    const engine = sortingEngine();
    const { result } = await graphOf(engine).invoke({ digits }, thread("a"));
    expect(result).toMatchObject({ answer: sorted(digits), solved: true });
    expect(engine.openBranches).toBe(0);
  });

  it("streams its events while it runs", async () => {
    const graph = graphOf(sortingEngine());
    const chunks = await collect(await graph.stream({ digits }, { ...thread("a"), streamMode: "custom" }));
    const types = (chunks as ThoughtsChunk[]).map(({ payload }) => payload.type);
    expect([types[0], types.at(-1)]).toEqual(["search:started", "done"]);
    const run = await graph.streamEvents({ digits }, { ...thread("b"), version: "v3" });
    const thoughts = await collect(run.extensions.thoughts);
    expect(thoughts.map(({ type }) => type)).toEqual(types);
  });

  it("runs without a checkpointer", async () => {
    const think = thoughtSearchNode({
      model: new ChatDeftree({ engine: sortingEngine() }),
      problem: (state: { digits: string }) => digitsProblem(state.digits),
      update: ({ answer }) => ({ digits: answer ?? "" }),
    });
    const graph = new StateGraph(State).addNode("think", think).addEdge(START, "think").compile();
    expect(await graph.invoke({ digits: "321" })).toEqual({ digits: "123" });
  });
});

describe.each<[string, Strategy]>([
  ["breadth-first", breadth],
  ["depth-first", depthFirst({ width: 4, depth: 9 })],
  ["Monte-Carlo", monteCarlo({ iterations: 8, width: 4, depth: 9 })],
])("a %s search that was cut off", (_, strategy) => {
  it.each([0.3, 0.7])(
    "goes on from the checkpoint, after %d of its tokens, and generates no saved thought again",
    async (cutAt) => {
      const whole = await graphOf(sortingEngine(), strategy).invoke({ digits }, thread("whole"));
      const engine = slow();
      const checkpointer = new MemorySaver();
      const controller = new AbortController();
      const running = graphOf(engine, strategy, checkpointer).invoke(
        { digits },
        { ...thread("cut"), signal: controller.signal },
      );
      while (engine.decodedTokens < cutAt * whole.result!.statistics.generatedTokens) await new Promise(setImmediate);
      controller.abort();
      await expect(running).rejects.toThrow();
      while (engine.openBranches > 0) await new Promise(setImmediate);
      const saved = await savedThoughts(checkpointer);
      expect(saved.length).toBeGreaterThan(0);

      // Another process: nothing is left but the checkpoint.
      const later = sortingEngine();
      const graph = graphOf(later, strategy, checkpointer);
      const generated = new Set<number>();
      for await (const { payload } of await graph.stream(null, { ...thread("cut"), streamMode: "custom" })) {
        if (payload.type === "thought:tokens") generated.add(payload.thought);
      }
      const { result } = (await graph.getState(thread("cut"))).values as { result: Result };
      expect(result.tree).toEqual(whole.result!.tree);
      expect(saved.filter(({ thought }) => generated.has(thought))).toEqual([]);
      const savedTokens = saved.reduce((sum, { tokens }) => sum + tokens, 0);
      expect(later.decodedTokens).toBeLessThanOrEqual(whole.result!.statistics.generatedTokens - savedTokens);
      expect(later.openBranches).toBe(0);
    },
  );
});

/** The thoughts in the checkpoint that the graph was cut off in. */
async function savedThoughts(checkpointer: MemorySaver) {
  const { pendingWrites = [] } = (await checkpointer.getTuple(thread("cut")))!;
  const events = pendingWrites.flatMap(([, channel, value]) =>
    channel === "__return__" ? (value as SearchEvent[]) : [],
  );
  return events.filter((event) => event.type === "thought:finished");
}

it("tells the searches of one node apart, when the first failed and the second was cut off", async () => {
  const checkpointer = new MemorySaver();
  const graphOver = (engine: FakeEngine, heard: string[] = []) => {
    const model = new ChatDeftree({ engine });
    const failing = (event: SearchEvent<DigitsState, string>) => {
      if (event.type !== "thought:finished") return;
      heard[event.thought] = event.text;
      if (event.thought === 4) throw new Error("no more of this");
    };
    const think = async (state: { digits: string }, config: LangGraphRunnableConfig) => {
      const other = digitsProblem(state.digits.replace(/[0-4]/g, "5"));
      const first = searchInGraph({ strategy: breadth, onEvent: failing }, model, other, state, config);
      await expect(first).rejects.toThrow(/no more|abort/);
      const { digits } = state;
      return { result: await searchInGraph({ strategy: breadth }, model, digitsProblem(digits), state, config) };
    };
    return new StateGraph(State).addNode("think", think).addEdge(START, "think").compile({ checkpointer });
  };
  const heard: string[] = [];
  const whole = await graphOver(sortingEngine(), heard).invoke({ digits }, thread("whole"));
  const engine = slow();
  const controller = new AbortController();
  const running = graphOver(engine).invoke({ digits }, { ...thread("cut"), signal: controller.signal });
  while (engine.decodedTokens < 80) await new Promise(setImmediate);
  controller.abort();
  await expect(running).rejects.toThrow();
  while (engine.openBranches > 0) await new Promise(setImmediate);
  const later = sortingEngine();
  const heardLater: string[] = [];
  const { result } = await graphOver(later, heardLater).invoke(null, thread("cut"));
  for (const [thought, text] of Object.entries(heard)) expect(heardLater[Number(thought)]).toBe(text);
  expect(result!.tree).toEqual(whole.result!.tree);
  expect(later.openBranches).toBe(0);
});

it("saves nothing when it is told so", async () => {
  const think = thoughtSearchNode({
    model: new ChatDeftree({ engine: sortingEngine() }),
    problem: (state: { digits: string }) => digitsProblem(state.digits),
    update: ({ answer }) => ({ digits: answer ?? "" }),
    checkpoint: false,
  });
  const graph = new StateGraph(State)
    .addNode("think", think)
    .addEdge(START, "think")
    .compile({ checkpointer: new MemorySaver() });
  const updates = await collect(await graph.stream({ digits: "321" }, { ...thread("a"), streamMode: "updates" }));
  expect(updates).toEqual([{ think: { digits: "123" } }]);
});

it("starts anew when a graph is forked from before the search", async () => {
  const engine = sortingEngine();
  const graph = graphOf(engine);
  const first = await graph.invoke({ digits }, thread("a"));
  const decoded = engine.decodedTokens;
  const states = await collect(graph.getStateHistory(thread("a")));
  const before = states.find(({ next }) => next.includes("think"))!;
  const again = await graph.invoke(null, before.config);
  expect(again.result!.tree).toEqual(first.result!.tree);
  expect(engine.decodedTokens).toBe(2 * decoded);
});
