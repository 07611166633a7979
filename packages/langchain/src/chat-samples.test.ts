import { BaseCallbackHandler } from "@langchain/core/callbacks/base";
import { createAgent, createMiddleware } from "langchain";
import { describe, expect, it } from "vitest";
import { FakeEngine } from "../test/fake-engine.js";
import { ChatDeftree } from "./index.js";

const model = () => {
  const engine = new FakeEngine({ reply: () => "0123456789" });
  return { engine, chat: new ChatDeftree({ engine }) };
};

describe("n answers to one prompt", () => {
  it("compute the prompt once and are told apart", async () => {
    const { engine, chat } = model();
    const { generations } = await chat.generate([["count"]], { n: 3 });
    expect(generations[0]!.map(({ text }) => text)).toEqual(Array(3).fill("0123456789"));
    const messages = generations[0]!.map((generation) => (generation as { message?: unknown }).message) as {
      usage_metadata: { input_tokens: number; input_token_details: { cache_read: number } };
      response_metadata: { sample: number };
    }[];
    const prompt = "<user>count\n<assistant>".length;
    const reused = messages.map(({ usage_metadata }) => usage_metadata.input_token_details.cache_read);
    expect(reused).toEqual([0, prompt, prompt]);
    expect(messages.map(({ response_metadata }) => response_metadata.sample)).toEqual([0, 1, 2]);
    expect(engine.openBranches).toBe(0);
  });

  it("give invoke the first, and a stream one", async () => {
    const { engine, chat } = model();
    expect((await chat.invoke("count", { n: 2 })).text).toBe("0123456789");
    const before = engine.decodedTokens;
    let text = "";
    for await (const chunk of await chat.stream("count", { n: 2 })) text += chunk.text;
    expect(text).toBe("0123456789");
    expect(engine.decodedTokens - before).toBe(11);
  });

  it.each(["lc_prefer_streaming", "lc_prefer_chat_model_stream_events"])("are all drawn under %s", async (flag) => {
    const handler = BaseCallbackHandler.fromMethods({});
    const callbacks = [Object.assign(handler, { [flag]: true })];
    const { generations } = await model().chat.generate([["count"]], { n: 3, callbacks });
    expect(generations[0]).toHaveLength(3);
    expect((await model().chat.generate([["count"]], { callbacks })).generations[0]).toHaveLength(1);
  });

  it("are all drawn in a graph that streams messages, where one message shows", async () => {
    const { chat } = model();
    const drawn: number[] = [];
    const sampling = createMiddleware({
      name: "Sampling",
      wrapModelCall: async ({ messages }) => {
        const { generations } = await chat.generate([messages], { n: 3 });
        drawn.push(generations[0]!.length);
        return (generations[0]![0] as unknown as { message: Awaited<ReturnType<typeof chat.invoke>> }).message;
      },
    });
    const agent = createAgent({ model: chat, tools: [], middleware: [sampling] });
    const texts: string[] = [];
    const stream = await agent.stream({ messages: [{ role: "user", content: "count" }] }, { streamMode: "messages" });
    for await (const [message] of stream) texts.push(message.text);
    expect(drawn).toEqual([3]);
    expect(texts).toEqual(["0123456789"]);
  });

  it("end together at an abort, with the first one's text", async () => {
    const engine = new FakeEngine({ reply: () => "0".repeat(50), pause: () => new Promise((r) => setTimeout(r, 3)) });
    const controller = new AbortController();
    const call = new ChatDeftree({ engine }).invoke("count", { n: 4, signal: controller.signal });
    while (engine.decodedTokens < 12) await new Promise(setImmediate);
    controller.abort();
    await expect(call).rejects.toMatchObject({ name: "ModelAbortError", partialOutput: { content: /^0+$/ } });
    expect(engine.openBranches).toBe(0);
  });

  it.each([0, -1, 1.5])("are a whole number of at least one, not %s", async (n) => {
    const { engine, chat } = model();
    await expect(chat.generate([["count"]], { n })).rejects.toMatchObject({ code: "E_BAD_ARGUMENT" });
    expect(engine.openBranches).toBe(0);
  });
});
