import { bestOfN, breadthFirst } from "@deftree/search";
import type { BaseChatModel } from "@langchain/core/language_models/chat_models";
import { AIMessage, type BaseMessage } from "@langchain/core/messages";
import { fakeModel } from "@langchain/core/testing";
import { RunCollectorCallbackHandler } from "@langchain/core/tracers/run_collector";
import { createAgent, initChatModel, tool, toolStrategy } from "langchain";
import { describe, expect, it } from "vitest";
import { z } from "zod";
import { collect } from "../test/collect.js";
import { digitsProblem, sortingEngine } from "../test/digits-problem.js";
import { FakeEngine } from "../test/fake-engine.js";
import { treeOfThoughtsMiddleware } from "./agent.js";
import type { ThoughtsChunk } from "./graph.js";
import { ChatDeftree } from "./index.js";

const asked = { messages: [{ role: "user", content: "927465" }] };
const problem = ({ messages }: { messages: BaseMessage[] }) => digitsProblem(messages[0]!.text);
const strategy = bestOfN({ n: 24 });
const lookUp = tool(() => "It is so.", { name: "look_up", description: "Looks up", schema: z.object({}) });
const call = { name: "look_up", args: {}, id: "1", type: "tool_call" as const };
const calling = new AIMessage({ content: "", tool_calls: [call] });

const texts = (messages: BaseMessage[]) => messages.map(({ type, text }) => `${type}: ${text}`);
const engineModel = () => new ChatDeftree({ engine: sortingEngine() });

describe("an agent that thinks before it answers", () => {
  it("answers with the best thought, the whole search as its usage", async () => {
    const engine = sortingEngine();
    const middleware = treeOfThoughtsMiddleware({ problem, strategy, resultAs: "answer" });
    const agent = createAgent({ model: new ChatDeftree({ engine }), tools: [], middleware: [middleware] });
    const { messages } = await agent.invoke(asked);
    expect(texts(messages)).toEqual(["human: 927465", "ai: 245679"]);
    expect(messages[1]).toMatchObject({ usage_metadata: { output_tokens: engine.decodedTokens } });
    expect(engine.openBranches).toBe(0);
  });

  it("lets the model write the answer from its notes, which do not stay", async () => {
    const model = fakeModel().respond(new AIMessage("It is done."));
    const thinker = engineModel();
    const agent = createAgent({
      model,
      tools: [],
      middleware: [treeOfThoughtsMiddleware({ problem, strategy, model: thinker })],
    });
    const { messages } = await agent.invoke(asked);
    expect(texts(messages)).toEqual(["human: 927465", "ai: It is done."]);
    expect(model.calls).toHaveLength(1);
    expect(model.calls[0]!.messages.at(-1)!.text).toMatch(/Notes.*\n245679$/);
  });

  it("thinks when no tool is called any more, and hides what the model wrote before", async () => {
    const model = fakeModel()
      .respond(calling)
      .respond(new AIMessage("hasty"))
      .respond(new AIMessage("thought through"));
    const middleware = treeOfThoughtsMiddleware({ problem, strategy, model: engineModel() });
    const agent = createAgent({ model, tools: [lookUp], middleware: [middleware] });
    const stream = await agent.stream(asked, { streamMode: ["messages", "custom"] });
    const seen: string[] = [];
    for await (const [mode, chunk] of stream) {
      if (mode === "messages") seen.push(chunk[0].type + chunk[0].text);
      else if ((chunk as ThoughtsChunk).payload.type === "search:started") seen.push("search");
    }
    expect(seen.filter((text) => text !== "ai")).toEqual(["toolIt is so.", "search", "aithought through"]);
    expect(model.calls).toHaveLength(3);
  });

  it("lets the model fill a response format, from its notes", async () => {
    const person = { name: "extract-1", args: { digits: "245679" }, id: "2", type: "tool_call" as const };
    const model = fakeModel()
      .respond(new AIMessage("hasty"))
      .respond(new AIMessage({ content: "", tool_calls: [person] }));
    const middleware = treeOfThoughtsMiddleware({ problem, strategy, model: engineModel(), resultAs: "answer" });
    const responseFormat = toolStrategy(z.object({ digits: z.string() }).meta({ title: "extract-1" }));
    const agent = createAgent({ model, tools: [lookUp], middleware: [middleware], responseFormat });
    const { structuredResponse, messages } = await agent.invoke(asked);
    expect(structuredResponse).toEqual({ digits: "245679" });
    expect(texts(messages)).not.toContain("ai: hasty");
    expect(model.calls[1]!.messages.at(-1)!.text).toMatch(/Notes.*\n245679$/);
  });

  it("asks the model as always where there is nothing to search for", async () => {
    const model = fakeModel().respond(new AIMessage("plain"));
    const middleware = treeOfThoughtsMiddleware({ problem: () => undefined });
    const agent = createAgent({ model, tools: [lookUp], middleware: [middleware] });
    expect(texts((await agent.invoke(asked)).messages)).toEqual(["human: 927465", "ai: plain"]);
  });
});

describe("an agent that thinks before it chooses a tool", () => {
  it("gives the model its notes at each choice, and at no other call", async () => {
    const model = fakeModel().respond(calling).respond(new AIMessage("done"));
    const middleware = treeOfThoughtsMiddleware({ problem, strategy, model: engineModel(), before: "tool" });
    const agent = createAgent({ model, tools: [lookUp], middleware: [middleware] });
    await agent.invoke(asked);
    for (const { messages } of model.calls) expect(messages.at(-1)!.text).toMatch(/Notes.*\n245679$/);
    const plain = fakeModel().respond(new AIMessage("done"));
    await createAgent({ model: plain, tools: [], middleware: [middleware] }).invoke(asked);
    expect(texts(plain.calls[0]!.messages)).toEqual(["human: 927465"]);
  });

  it("has no answer of its own", () => {
    expect(() => treeOfThoughtsMiddleware({ problem, before: "tool", resultAs: "answer" })).toThrow(/choice of a tool/);
  });
});

describe("an agent that thinks about its conversation", () => {
  const question = { messages: [{ role: "user", content: "Is it so?" }] };

  it("samples notes, lets the model value them, and gives it the best", async () => {
    const replies = ["Ask nobody.", "Look it up.", "Guess.", "Sleep."];
    const model = fakeModel();
    for (const reply of replies) model.respond(new AIMessage(reply));
    for (const verdict of ["No.", "Yes", "no", "perhaps"]) model.respond(new AIMessage(verdict));
    model.respond(calling).respond(new AIMessage("never asked"));
    const middleware = treeOfThoughtsMiddleware({ before: "tool" });
    const agent = createAgent({ model, tools: [lookUp], middleware: [middleware], systemPrompt: "Be brief." });
    const stream = await agent.stream(question, { streamMode: "messages" });
    for await (const [message] of stream) if (message.type === "ai") break;
    const [thinking, , , , judging] = model.calls.map(({ messages }) => texts(messages));
    expect(thinking!.slice(0, 2)).toEqual(["system: Be brief.", "human: Is it so?"]);
    expect(thinking![2]).toContain("- look_up: Looks up");
    expect(judging).toEqual([expect.stringMatching(/Is it so\?.*Ask nobody\..*Yes or No/s)]);
    expect(model.calls[8]!.messages.at(-1)!.text).toMatch(/Notes.*\nLook it up\.$/);
  });

  it("takes steps on an engine, valued without a token", async () => {
    const engine = new FakeEngine({ reply: () => "first\nsecond\nthird" });
    const agent = createAgent({
      model: new ChatDeftree({ engine }),
      tools: [],
      middleware: [treeOfThoughtsMiddleware()],
    });
    const thoughts = [];
    const run = await agent.streamEvents(question, { version: "v3" });
    for await (const event of run.extensions.thoughts) thoughts.push(event);
    const done = thoughts.at(-1)!;
    const own = thoughts.reduce((sum, event) => sum + (event.type === "thought:finished" ? event.tokens : 0), 0);
    expect(done).toMatchObject({ type: "done", statistics: { generatedTokens: own } });
    expect(thoughts.find(({ type }) => type === "solution")).toMatchObject({ answer: "first\nsecond\nthird" });
    expect(engine.openBranches).toBe(0);
  });

  it("has no answer of its own", () => {
    expect(() => treeOfThoughtsMiddleware({ resultAs: "answer" })).toThrow(/needs a problem/);
  });
});

describe("what a user sees of an agent's thoughts", () => {
  const agentOf = (model: BaseChatModel) =>
    createAgent({
      model,
      tools: [],
      middleware: [treeOfThoughtsMiddleware({ problem, strategy: bestOfN({ n: 2 }), resultAs: "answer", seed: 3 })],
    });
  const replies = () => {
    const model = fakeModel();
    for (const text of ["927465", "245679"]) model.respond(new AIMessage(text));
    return model as BaseChatModel;
  };

  it.each([
    ["ChatDeftree", () => engineModel() as BaseChatModel],
    ["another chat model", replies],
  ])("is a stream of typed events, and one message, with %s", async (_, model) => {
    const run = await agentOf(model()).streamEvents(asked, { version: "v3" });
    const read = async () => {
      const messages = [];
      for await (const message of run.messages) messages.push(await message.text);
      return messages;
    };
    const [thoughts, messages] = await Promise.all([collect(run.extensions.thoughts), read()]);
    const types = thoughts.map(({ type }) => type);
    expect([types[0], types.at(-1)]).toEqual(["search:started", "done"]);
    const solution = thoughts.find((event) => event.type === "solution");
    expect(messages).toEqual([solution?.answer]);
  });

  it("is the answer alone in the stream of messages", async () => {
    for (const model of [engineModel, replies]) {
      const agent = agentOf(model());
      const seen: string[] = [];
      for await (const [message] of await agent.stream(asked, { streamMode: "messages" })) seen.push(message.text);
      expect(seen).toEqual([(await agentOf(model()).invoke(asked)).messages.at(-1)!.text]);
    }
  });

  it("is a nested run of the trace", async () => {
    const collector = new RunCollectorCallbackHandler();
    await agentOf(engineModel()).invoke(asked, { callbacks: [collector] });
    type Run = (typeof collector.tracedRuns)[number];
    const all = (run: Run): Run[] => [run, ...(run.child_runs ?? []).flatMap((child) => all(child))];
    const search = collector.tracedRuns
      .flatMap((run) => all(run))
      .find(({ name }) => name === "thoughtSearch(best-of-2)");
    expect(search!.child_runs!.map(({ name }) => name)).toEqual(["thought 1", "thought 2"]);
  });
});

it("finds the chat model below what an agent's model was configured with", async () => {
  const model = await initChatModel(undefined, { modelProvider: "openai", configurableFields: "any" });
  Object.assign(model, { _getModelInstance: async () => engineModel() });
  const middleware = treeOfThoughtsMiddleware({ problem, strategy, resultAs: "answer" });
  const agent = createAgent({ model, tools: [], middleware: [middleware] });
  expect((await agent.invoke(asked)).messages.at(-1)!.text).toBe("245679");
});

it("ends its search, branches released, when the agent is aborted", async () => {
  const engine = sortingEngine(() => new Promise((resolve) => setTimeout(resolve, 1)));
  const middleware = treeOfThoughtsMiddleware({
    problem,
    strategy: breadthFirst({ grow: "continue", width: 6, depth: 4 }),
  });
  const agent = createAgent({ model: new ChatDeftree({ engine }), tools: [], middleware: [middleware] });
  const controller = new AbortController();
  const running = agent.invoke(asked, { signal: controller.signal });
  while (engine.decodedTokens < 5) await new Promise(setImmediate);
  controller.abort();
  await expect(running).rejects.toThrow();
  while (engine.openBranches > 0) await new Promise(setImmediate);
  const { decodedTokens } = engine;
  await new Promise((resolve) => setTimeout(resolve, 20));
  expect(engine.decodedTokens).toBe(decodedTokens);
});
