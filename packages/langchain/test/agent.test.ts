/** Agents and graphs that think by search, on the real engine with the embedded model. */
import { Engine } from "@deftree/engine";
import { breadthFirst, type SearchEvent, type SearchResult, search } from "@deftree/search";
import { AIMessage, type BaseMessage } from "@langchain/core/messages";
import { fakeModel } from "@langchain/core/testing";
import { MemorySaver, START, StateGraph, StateSchema } from "@langchain/langgraph";
import { createAgent } from "langchain";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { z } from "zod";
import { treeOfThoughtsMiddleware } from "../src/agent.js";
import { type ThoughtsChunk, thoughtSearchNode } from "../src/graph.js";
import { ChatDeftree, EngineThoughtModel, treeOfThoughts, treeOfThoughtsTool } from "../src/index.js";
import { collect } from "./collect.js";
import { digits, type SortingState, sortingProblem, sortPrompt } from "./sorting.js";

let engine: Engine;
let chat: ChatDeftree;

beforeAll(async () => {
  engine = await Engine.load("mini", { device: "cpu" });
  chat = new ChatDeftree({ engine, maxTokens: 200 });
});
afterEach(async () => {
  await engine.checkInvariants();
  expect(engine.stats().branches).toBe(0);
});
afterAll(() => engine.dispose());

const strategy = breadthFirst({ grow: "continue", width: 4, attempts: 32, depth: 17 });
const list = digits(64, 3);
const asked = { messages: [{ role: "user", content: sortPrompt(list) }] };
const thread = (name: string) => ({ configurable: { thread_id: name } });

/** The list in a user's message, sorted as a search may do it. */
const problem = ({ messages }: { messages: BaseMessage[] }) =>
  sortingProblem((messages[0]!.text.split("Input:")[1]!.match(/\d/g) ?? []).map(Number));

const thinking = (more: object = {}) => treeOfThoughtsMiddleware({ problem, strategy, seed: 1, ...more });

async function everythingIsFree() {
  while (engine.stats().branches > 0) await new Promise(setImmediate);
  const { numPages, freePages, cachedPages, steps, decodedTokens } = engine.stats();
  expect(freePages + cachedPages).toBe(numPages);
  await new Promise((resolve) => setTimeout(resolve, 30));
  expect(engine.stats()).toMatchObject({ steps, decodedTokens });
}

describe("an agent with the middleware", () => {
  it("answers as the search does, and shows its thoughts apart from its messages", async () => {
    const agent = createAgent({ model: chat, tools: [], middleware: [thinking({ resultAs: "answer" })] });
    const run = await agent.streamEvents(asked, { version: "v3" });
    const texts: string[] = [];
    const readMessages = async () => {
      for await (const message of run.messages) texts.push(await message.text);
    };
    const [thoughts] = await Promise.all([collect(run.extensions.thoughts), readMessages()]);
    const result = await search(sortingProblem(list), strategy, new EngineThoughtModel(engine), { seed: 1 });
    expect(texts).toEqual([result.text]);
    expect(thoughts.find(({ type }) => type === "solution")).toMatchObject({ solved: result.solved });
  });

  it("streams the model's own answer, token by token, after its notes", async () => {
    const agent = createAgent({ model: chat, tools: [], middleware: [thinking()] });
    const pieces: string[] = [];
    const kinds: string[] = [];
    for await (const [mode, chunk] of await agent.stream(asked, { streamMode: ["messages", "custom"] })) {
      kinds.push(mode);
      if (mode === "messages") pieces.push(chunk[0].text);
    }
    expect(pieces.length).toBeGreaterThan(10);
    expect(kinds.indexOf("messages")).toBeGreaterThan(kinds.lastIndexOf("custom"));
  });

  it("goes on with the thoughts that it had when it was cut off", async () => {
    const checkpointer = new MemorySaver();
    const agent = createAgent({
      model: chat,
      tools: [],
      checkpointer,
      middleware: [thinking({ resultAs: "answer" })],
    });
    const whole = await agent.invoke(asked, thread("whole"));
    const controller = new AbortController();
    const config = { ...thread("cut"), streamMode: "custom" as const };
    let finished = 0;
    const read = async () => {
      const stream = await agent.stream(asked, { ...config, signal: controller.signal });
      for await (const { payload } of stream as AsyncIterable<ThoughtsChunk>) {
        if (payload.type === "thought:finished" && ++finished === 12) controller.abort();
      }
    };
    await expect(read()).rejects.toThrow();
    await everythingIsFree();
    const generated = new Set<number>();
    for await (const { payload } of (await agent.stream(null, config)) as AsyncIterable<ThoughtsChunk>) {
      if (payload.type === "thought:tokens") generated.add(payload.thought);
    }
    const { messages } = (await agent.graph.getState(thread("cut"))).values as { messages: BaseMessage[] };
    expect(messages.at(-1)!.text).toBe(whole.messages.at(-1)!.text);
    expect(Math.min(...generated)).toBeGreaterThan(1);
  });
});

it("a tool searches for an agent", async () => {
  const args = { list: digits(16, 5) };
  const model = fakeModel()
    .respond(new AIMessage({ content: "", tool_calls: [{ name: "sort", args, id: "1" }] }))
    .respond(new AIMessage("done"));
  const sort = treeOfThoughtsTool({
    ...{ name: "sort", description: "Sorts digits", schema: z.object({ list: z.array(z.number()) }) },
    ...{ model: chat, problem: ({ list }: { list: number[] }) => sortingProblem(list), strategy },
  });
  const { messages } = await createAgent({ model, tools: [sort] }).invoke(asked);
  const { artifact } = messages[2] as unknown as { artifact: SearchResult<SortingState, number[]> };
  expect(messages[2]!.text).toContain(JSON.stringify(artifact.answer));
  expect(artifact.tree.thoughts.length).toBe(artifact.statistics.thoughts + 1);
});

it("a search in a graph, cut off, goes on from the checkpoint to the same tree", async () => {
  type Result = SearchResult<SortingState, number[]>;
  const State = new StateSchema({ list: z.array(z.number()), result: z.custom<Result>().optional() });
  const think = thoughtSearchNode({
    model: chat,
    problem: (state: { list: number[] }) => sortingProblem(state.list),
    update: (result) => ({ result }),
    ...{ strategy, seed: 1 },
  });
  const checkpointer = new MemorySaver();
  const graph = new StateGraph(State).addNode("think", think).addEdge(START, "think").compile({ checkpointer });
  const long = digits(128, 7);
  const whole = await graph.invoke({ list: long }, thread("whole"));

  const controller = new AbortController();
  const finished: number[] = [];
  const stream = await graph.stream(
    { list: long },
    { ...thread("cut"), streamMode: "custom", signal: controller.signal },
  );
  const read = async () => {
    for await (const { payload } of stream as AsyncIterable<ThoughtsChunk>) {
      if (payload.type !== "thought:finished" || finished.length === 20) continue;
      finished.push(payload.thought);
      // By the next turn of the event loop they are saved.
      if (finished.length === 20) setImmediate(() => controller.abort());
    }
  };
  await expect(read()).rejects.toThrow();
  await everythingIsFree();

  const again = new Set<number>();
  for await (const { payload } of await graph.stream(null, { ...thread("cut"), streamMode: "custom" })) {
    if (payload.type === "thought:tokens") again.add(payload.thought);
  }
  const { result } = (await graph.getState(thread("cut"))).values as { result: Result };
  expect(result.tree).toEqual(whole.result!.tree);
  expect(finished.filter((thought) => again.has(thought))).toEqual([]);
  expect(again.size).toBeGreaterThan(0);
});

describe("a search on its way", () => {
  it("tells of its first thought before that is complete", async () => {
    const events: SearchEvent<SortingState, number[]>[] = [];
    let decodedBefore = 0;
    const tot = treeOfThoughts({ model: chat, problem: () => sortingProblem(list), strategy });
    for await (const event of await tot.stream(list)) {
      if (event.type === "thought:tokens" && decodedBefore === 0) decodedBefore = event.tokens;
      events.push(event);
    }
    const types = events.map(({ type }) => type);
    expect(types.indexOf("thought:tokens")).toBeLessThan(types.indexOf("thought:finished"));
    expect(decodedBefore).toBe(1);
  });

  it("frees everything when it is aborted, or its reader leaves", async () => {
    const tot = treeOfThoughts({ model: chat, problem: () => sortingProblem(digits(128, 9)), strategy });
    const controller = new AbortController();
    const read = async () => {
      for await (const { type } of await tot.stream(list, { signal: controller.signal })) {
        if (type === "thought:finished") controller.abort();
      }
    };
    await expect(read()).rejects.toThrow();
    await everythingIsFree();
    for await (const { type } of await tot.stream(list)) if (type === "thought:tokens") break;
    await everythingIsFree();
  });
});
