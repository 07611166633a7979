import { tool } from "@langchain/core/tools";
import { concat } from "@langchain/core/utils/stream";
import { createAgent } from "langchain";
import { describe, expect, it } from "vitest";
import { z } from "zod";
import { collect } from "../test/collect.js";
import { FakeEngine } from "../test/fake-engine.js";
import { ChatDeftree, type ChatDeftreeCallOptions } from "./index.js";

const echoing = () => new FakeEngine({ reply: (prompt) => `You said ${prompt.match(/<user>(.*)/)![1]}.` });

/** What bindTools returns, opened up: bindings stream no content-block events. */
interface RunnableBinding {
  bound: ChatDeftree;
  config: ChatDeftreeCallOptions;
}

describe("tools", () => {
  const add = tool(({ a, b }) => String(a + b), {
    name: "add",
    description: "adds",
    schema: z.object({ a: z.number(), b: z.number() }),
  });
  const calling = () =>
    new FakeEngine({
      reply: (prompt) => (prompt.includes("<tool>5") ? "It is 5." : '{"name": "add", "parameters": {"a": 2, "b": 3}}'),
    });

  it("reads a call from the answer", async () => {
    const answer = await new ChatDeftree({ engine: calling() }).bindTools([add]).invoke("2+3?");
    expect(answer.tool_calls).toEqual([
      { name: "add", args: { a: 2, b: 3 }, id: expect.any(String), type: "tool_call" },
    ]);
    expect(answer.text).toBe("");
  });

  it("streams a call as one, and plain text as it comes", async () => {
    const calls = await collect(await new ChatDeftree({ engine: calling() }).bindTools([add]).stream("2+3?"));
    expect(calls.reduce((a, b) => concat(a, b)).tool_calls).toMatchObject([{ name: "add", args: { a: 2, b: 3 } }]);
    const texts = await collect(await new ChatDeftree({ engine: echoing() }).bindTools([add]).stream("hi"));
    expect(texts[0]!.text).toBe("Y");
    expect(texts.map((chunk) => chunk.text).join("")).toBe("You said hi.");
  });

  it("streams a call as events", async () => {
    const stream = new ChatDeftree({ engine: calling() }).bindTools([add]) as unknown as RunnableBinding;
    const events = await collect(stream.bound.streamEvents("2+3?", stream.config));
    expect(events.map(({ event }) => event)).toEqual([
      "message-start",
      "content-block-start",
      "content-block-delta",
      "content-block-finish",
      "message-finish",
    ]);
    expect(events.at(-2)).toMatchObject({ content: { type: "tool_call", name: "add", args: { a: 2, b: 3 } } });
    expect(events.at(-1)).toMatchObject({ reason: "tool_use" });
  });

  it("keeps the log-probabilities of tokens that it held back", async () => {
    const chat = new ChatDeftree({ engine: calling(), logprobs: true }).bindTools([add]);
    const whole = (await collect(await chat.stream("2+3?"))).reduce((a, b) => concat(a, b));
    const { content } = whole.response_metadata.logprobs as { content: unknown[] };
    expect(content).toHaveLength(whole.usage_metadata!.output_tokens);
  });

  it("obeys tool_choice none, and refuses one that names no tool", async () => {
    const chat = new ChatDeftree({ engine: calling() });
    const answer = await chat.bindTools([add], { tool_choice: "none" }).invoke("2+3?");
    expect(answer.tool_calls).toEqual([]);
    const refused = chat.bindTools([add], { tool_choice: "subtract" }).invoke("2+3?");
    await expect(refused).rejects.toMatchObject({ code: "E_BAD_ARGUMENT" });
  });

  it("leaves JSON that calls no known tool as text", async () => {
    const engine = new FakeEngine({ reply: () => '{"name": "subtract"}' });
    const answer = await new ChatDeftree({ engine }).bindTools([add]).invoke("2-3?");
    expect(answer.text).toBe('{"name": "subtract"}');
    const chunks = await collect(await new ChatDeftree({ engine }).bindTools([add]).stream("2-3?"));
    expect(chunks.map((chunk) => chunk.text).join("")).toBe('{"name": "subtract"}');
  });

  it("streams an agent's tokens, as messages and as events", async () => {
    const ask = { messages: [{ role: "user", content: "2+3?" }] };
    const agent = createAgent({ model: new ChatDeftree({ engine: calling() }), tools: [add] });
    const chunks: string[] = [];
    for await (const [message] of await agent.stream(ask, { streamMode: "messages" })) {
      if (message.type === "ai" && message.text !== "") chunks.push(message.text);
    }
    expect(chunks).toEqual([..."It is 5."]);

    const run = await agent.streamEvents(ask, { version: "v3" });
    const texts: string[] = [];
    for await (const message of run.messages) texts.push(await message.text);
    expect(texts).toEqual(["", "It is 5."]);
    const { messages } = await run.output;
    expect(messages.map((message) => message.type)).toEqual(["human", "ai", "tool", "ai"]);
    expect(messages.at(-1)!.response_metadata).toMatchObject({ model: "fake" });
  });

  it("runs in createAgent", async () => {
    const agent = createAgent({ model: new ChatDeftree({ engine: calling() }), tools: [add] });
    const { messages } = await agent.invoke({ messages: [{ role: "user", content: "2+3?" }] });
    expect(messages.map((message) => message.type)).toEqual(["human", "ai", "tool", "ai"]);
    expect(messages.at(-1)!.text).toBe("It is 5.");
  });
});
