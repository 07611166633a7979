import { bestOfN, breadthFirst, cachedAnswers, llmValue, type SearchEvent } from "@deftree/search";
import { ContextOverflowError, getRetryable } from "@langchain/core/errors";
import type { BaseChatModel } from "@langchain/core/language_models/chat_models";
import { AIMessage, type BaseMessage } from "@langchain/core/messages";
import { RunnableLambda } from "@langchain/core/runnables";
import { fakeModel } from "@langchain/core/testing";
import { RunCollectorCallbackHandler } from "@langchain/core/tracers/run_collector";
import { describe, expect, it } from "vitest";
import { collect } from "../test/collect.js";
import { digitsProblem as problem, sortingEngine } from "../test/digits-problem.js";
import { FakeEngine } from "../test/fake-engine.js";
import { ChatDeftree, ChatThoughtModel, treeOfThoughts } from "./index.js";

describe("over the engine", () => {
  it("solves by search what one sample does not", async () => {
    const engine = sortingEngine();
    const tot = treeOfThoughts({ model: new ChatDeftree({ engine }), problem, budget: { tokens: 5000 } });
    const result = await tot.invoke("927465");
    expect(result).toMatchObject({ answer: "245679", score: 0, solved: true, stopReason: "solved" });
    expect(result.statistics.reusedTokens).toBeGreaterThan(result.statistics.promptTokens / 2);
    expect(engine.openBranches).toBe(0);
  });

  it("streams the events of a search", async () => {
    const tot = treeOfThoughts({ model: new ChatDeftree({ engine: sortingEngine() }), problem });
    const types: string[] = [];
    for await (const event of await tot.stream("927465")) types.push(event.type);
    expect(types[0]).toBe("search:started");
    expect(types.slice(-2)).toEqual(["solution", "done"]);
  });

  it("releases its branches when the consumer of a stream leaves", async () => {
    const engine = sortingEngine();
    const tot = treeOfThoughts({ model: new ChatDeftree({ engine }), problem });
    for await (const event of await tot.stream("927465")) if (event.type === "thought:finished") break;
    for (let i = 0; i < 10; i++) await new Promise(setImmediate);
    expect(engine.openBranches).toBe(0);
  });

  it("rejects with the signal's reason after releasing its branches", async () => {
    const engine = sortingEngine(() => new Promise((resolve) => setTimeout(resolve, 2)));
    const tot = treeOfThoughts({ model: new ChatDeftree({ engine }), problem });
    const controller = new AbortController();
    const call = tot.invoke("927465", { signal: controller.signal });
    setTimeout(() => controller.abort(new Error("enough")), 10);
    await expect(call).rejects.toThrow("enough");
    expect(engine.openBranches).toBe(0);
    await expect(tot.invoke("927465", { timeout: 10 })).rejects.toThrow();
    expect(engine.openBranches).toBe(0);
    await expect(tot.stream("927465", { signal: controller.signal })).rejects.toThrow("enough");
  });

  it("says ContextOverflowError for a prompt that is too long, as the chat model does", async () => {
    const engine = new FakeEngine({ reply: () => "", contextLength: 10 });
    const tot = treeOfThoughts({ model: new ChatDeftree({ engine }), problem });
    for (const call of [tot.invoke("927465"), tot.stream("927465").then(collect)]) {
      const error = await call.catch((error: unknown) => error);
      expect(ContextOverflowError.isInstance(error)).toBe(true);
      expect(getRetryable(error)).toBe(false);
    }
    expect(engine.openBranches).toBe(0);
  });

  it("runs a batch, and as part of a chain", async () => {
    const tot = treeOfThoughts({ model: new ChatDeftree({ engine: sortingEngine() }), problem });
    const results = await tot.batch(["321", "4321"]);
    expect(results.map(({ answer }) => answer)).toEqual(["123", "1234"]);
    const chain = RunnableLambda.from((input: number) => String(input)).pipe(tot);
    expect(await chain.invoke(132)).toMatchObject({ answer: "123" });
  });

  it("resumes a search from its events", async () => {
    const engine = sortingEngine();
    const events: SearchEvent<unknown, unknown>[] = [];
    const fields = { model: new ChatDeftree({ engine }), problem, seed: 3 };
    for await (const event of await treeOfThoughts(fields).stream("927465918273")) events.push(event);
    const whole = await treeOfThoughts(fields).invoke("927465918273");
    const decoded = engine.decodedTokens;
    const resume = () => events.slice(0, events.length - 30);
    const resumed = await treeOfThoughts({ ...fields, resume }).invoke("927465918273");
    expect(resumed.tree).toEqual(whole.tree);
    expect(engine.decodedTokens - decoded).toBeLessThan(whole.statistics.generatedTokens / 2);
    expect(engine.openBranches).toBe(0);
  });

  it("grows the same tree from the same seed beside other searches", async () => {
    const model = new ChatDeftree({ engine: sortingEngine() });
    const run = (seed: number) => treeOfThoughts({ model, problem, seed }).invoke("927465918273");
    const [a, b, c] = await Promise.all([run(3), run(3), run(4)]);
    expect(a.tree).toEqual(b.tree);
    expect(a.tree).not.toEqual(c.tree);
  });
});

describe("traces", () => {
  it("show one nested run per thought, with its text and score", async () => {
    const collector = new RunCollectorCallbackHandler();
    const tot = treeOfThoughts({ model: new ChatDeftree({ engine: sortingEngine() }), problem });
    const { tree, statistics } = await tot.invoke("927465", { callbacks: [collector] });
    const [run] = collector.tracedRuns;
    expect(run!.name).toBe("TreeOfThoughts");
    expect(run!.child_runs).toHaveLength(statistics.thoughts);
    for (const thought of tree.thoughts.slice(1)) {
      const child = run!.child_runs![thought.id - 1]!;
      expect(child.name).toBe(`thought ${thought.id}`);
      expect(child.inputs).toEqual({ parent: thought.parent, depth: thought.depth });
      expect(child.outputs).toMatchObject({ text: thought.text });
      expect(child.outputs!.score).toBe(thought.score);
      expect(child.end_time).toBeDefined();
    }
  });

  it("end in an error, with every nested run ended, when the search fails", async () => {
    const collector = new RunCollectorCallbackHandler();
    const broken = (input: string) => ({
      ...problem(input),
      readPartial: () => {
        throw new Error("the parser failed");
      },
    });
    const tot = treeOfThoughts({ model: new ChatDeftree({ engine: sortingEngine() }), problem: broken });
    await expect(tot.invoke("927465", { callbacks: [collector] })).rejects.toThrow("the parser failed");
    expect(collector.tracedRuns[0]!.error).toContain("the parser failed");
    for (const child of collector.tracedRuns[0]!.child_runs!) expect(child.end_time).toBeDefined();
  });

  it("end every run of an aborted search, of thoughts that were not scored too", async () => {
    const collector = new RunCollectorCallbackHandler();
    const controller = new AbortController();
    const judged = (input: string) => ({
      ...problem(input),
      value: {
        prompt: () => [{ role: "user" as const, content: "999999999999" }],
        read: () => [1],
        failureScore: 0,
      },
    });
    const model = new ChatDeftree({ engine: sortingEngine(() => new Promise((resolve) => setTimeout(resolve, 1))) });
    const tot = treeOfThoughts({ model, problem: judged, evaluate: llmValue() });
    const read = async () => {
      for await (const event of await tot.stream("927465", { callbacks: [collector], signal: controller.signal })) {
        if (event.type === "thought:finished") setTimeout(() => controller.abort(), 2);
      }
    };
    await expect(read()).rejects.toThrow();
    // The stream rejects at once; the run ends when the branches are released.
    while (collector.tracedRuns.length === 0) await new Promise((resolve) => setTimeout(resolve, 1));
    const [run] = collector.tracedRuns;
    expect(run!.child_runs!.length).toBeGreaterThan(0);
    for (const child of run!.child_runs!) expect(child.end_time).toBeDefined();
  });

  it("carry every event as a custom event", async () => {
    const tot = treeOfThoughts({ model: new ChatDeftree({ engine: sortingEngine() }), problem, seed: 9 });
    const direct: SearchEvent[] = [];
    for await (const event of await tot.stream("927465")) direct.push(event);
    const custom: SearchEvent[] = [];
    for await (const event of tot.streamEvents("927465", { version: "v2" })) {
      if (event.event === "on_custom_event" && event.name === "deftree:search") custom.push(event.data as SearchEvent);
    }
    const types = (events: SearchEvent[]) => events.map(({ type }) => type);
    expect(types(custom)).toEqual(types(direct));
  });
});

describe("over any chat model", () => {
  const reply = (text: string, output_tokens = text.length) =>
    new AIMessage({
      content: text,
      usage_metadata: { input_tokens: 10, output_tokens, total_tokens: 10 + output_tokens },
    });

  it("asks for whole answers and keeps the best", async () => {
    const model = fakeModel().respond(reply("231")).respond(reply("123")).respond(reply("1"));
    const result = await treeOfThoughts({
      model: model as BaseChatModel,
      problem,
      strategy: bestOfN({ n: 3 }),
    }).invoke("321");
    expect(result).toMatchObject({ answer: "123", solved: true });
    expect(result.statistics).toMatchObject({ generatedTokens: 7, promptTokens: 30, reusedTokens: 0, kvBytesRead: 0 });
    expect(model.calls[0]!.messages[0]!.text).toBe("321");
  });

  it("sends the answer so far when it continues a thought", async () => {
    const seen: string[][] = [];
    const record = (text: string) => (messages: BaseMessage[]) => {
      seen.push(messages.map((message) => `${message.type}: ${message.text}`));
      return new AIMessage({ content: text, response_metadata: { finish_reason: text === "3" ? "stop" : "length" } });
    };
    const model = fakeModel().respond(record("12")).respond(record("3"));
    const strategy = breadthFirst({ grow: "continue", width: 1, depth: 3 });
    const result = await treeOfThoughts({ model: model as BaseChatModel, problem, strategy }).invoke("321");
    expect(result.answer).toBe("123");
    expect(seen).toEqual([["human: 321"], ["human: 321", "ai: 12"]]);
  });

  it("takes a model of the search's own", async () => {
    const model = cachedAnswers(
      new ChatThoughtModel(fakeModel().respond(reply("132")).respond(reply("1")) as BaseChatModel),
    );
    const tot = treeOfThoughts({ model, problem, strategy: bestOfN({ n: 2 }) });
    const first = await tot.invoke("321");
    expect((await tot.invoke("321")).tree).toEqual(first.tree);
  });

  it("rejects with the chat model's error", async () => {
    const model = fakeModel().alwaysThrow(new Error("no credit"));
    const tot = treeOfThoughts({ model: model as BaseChatModel, problem });
    await expect(tot.invoke("321")).rejects.toThrow("no credit");
  });
});
