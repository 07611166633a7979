import { getEventListeners } from "node:events";
import { DeftreeError } from "@deftree/engine";
import { BaseCallbackHandler } from "@langchain/core/callbacks/base";
import { ContextOverflowError, getRetryable, ModelAbortError } from "@langchain/core/errors";
import { AIMessage, HumanMessage, SystemMessage, ToolMessage } from "@langchain/core/messages";
import { concat } from "@langchain/core/utils/stream";
import { describe, expect, it } from "vitest";
import { collect } from "../test/collect.js";
import { FakeEngine } from "../test/fake-engine.js";
import { ChatDeftree } from "./index.js";

const echoing = () => new FakeEngine({ reply: (prompt) => `You said ${prompt.match(/<user>(.*)/)![1]}.` });
const digits = () => new FakeEngine({ reply: () => "0123456789012345" });

describe("invoke", () => {
  it("answers with usage and metadata, and drops its branch", async () => {
    const engine = echoing();
    const answer = await new ChatDeftree({ engine }).invoke("hello");
    expect(answer.text).toBe("You said hello.");
    const prompt = "<user>hello\n<assistant>".length;
    expect(answer.usage_metadata).toEqual({
      input_tokens: prompt,
      output_tokens: 16,
      total_tokens: prompt + 16,
      input_token_details: { cache_read: 0 },
    });
    expect(answer.response_metadata).toMatchObject({
      model: "fake",
      model_name: "fake",
      model_provider: "deftree",
      finish_reason: "stop",
    });
    expect(engine.openBranches).toBe(0);
  });

  it("counts the tokens of a conversation that it knows already as cache_read", async () => {
    const chat = new ChatDeftree({ engine: echoing() });
    const first = new HumanMessage("hello");
    const answer = await chat.invoke([first]);
    const second = await chat.invoke([first, answer, new HumanMessage("more")]);
    expect(second.usage_metadata!.input_token_details!.cache_read).toBe("<user>hello\n<assistant>".length);
  });

  it("renders every role", async () => {
    let seen = "";
    const engine = new FakeEngine({
      reply: (prompt) => {
        seen = prompt;
        return "ok";
      },
    });
    await new ChatDeftree({ engine }).invoke([
      new SystemMessage("be brief"),
      new HumanMessage({ content: [{ type: "text", text: "what is 1+1?" }] }),
      new AIMessage({ content: "", tool_calls: [{ name: "add", args: { a: 1, b: 1 }, id: "1" }] }),
      new ToolMessage({ content: "2", tool_call_id: "1" }),
    ]);
    expect(seen).toBe(
      '<system>be brief\n<user>what is 1+1?\n<assistant>{"name":"add","parameters":{"a":1,"b":1}}\n<tool>2\n<assistant>',
    );
  });

  it("stops at the constructor's and at the call's stop strings, without them in the text", async () => {
    const chat = new ChatDeftree({ engine: digits(), stop: ["7"] });
    const own = await chat.invoke("count");
    expect(own.text).toBe("0123456");
    expect(own.response_metadata.stop_string).toBe("7");
    expect((await chat.invoke("count", { stop: ["4"] })).text).toBe("0123");
  });

  it("takes sampling from the constructor and from the call, and repeats an answer by its seed", async () => {
    const chat = new ChatDeftree({ engine: digits(), temperature: 1, maxTokens: 12 });
    const first = await chat.invoke("count", { seed: 5 });
    expect(first.text).toHaveLength(12);
    expect(first.response_metadata.finish_reason).toBe("length");
    expect((await chat.invoke("count", { seed: 5 })).text).toBe(first.text);
    expect((await chat.invoke("count", { seed: 6 })).text).not.toBe(first.text);
    const unseeded = await chat.invoke("count");
    const again = await chat.invoke("count", { seed: unseeded.response_metadata.seed as number });
    expect(again.text).toBe(unseeded.text);
    expect((await chat.invoke("count", { temperature: 0 })).text).toBe("012345678901");
  });

  it("gives log-probabilities when asked", async () => {
    const chat = new ChatDeftree({ engine: digits() });
    const { response_metadata } = await chat.invoke("count", { logprobs: true, topLogprobs: 1, maxTokens: 2 });
    const entry = (token: string) => ({ token, logprob: -0.5, bytes: [token.charCodeAt(0)] });
    expect(response_metadata.logprobs).toEqual({
      content: ["0", "1"].map((token) => ({ ...entry(token), top_logprobs: [entry(token)] })),
    });
    expect((await chat.invoke("count")).response_metadata.logprobs).toBeUndefined();
  });
});

describe("stream", () => {
  it("streams token by token, usage once, and adds up to what invoke gives", async () => {
    const engine = echoing();
    const chat = new ChatDeftree({ engine, seed: 1 });
    const chunks = await collect(await chat.stream("hello"));
    expect(chunks.slice(0, 3).map((chunk) => chunk.text)).toEqual(["Y", "o", "u"]);
    expect(chunks.filter((chunk) => chunk.usage_metadata !== undefined)).toHaveLength(1);
    const whole = chunks.reduce((a, b) => concat(a, b));
    const invoked = await chat.invoke("hello");
    expect(whole.text).toBe(invoked.text);
    expect(whole.response_metadata).toEqual(invoked.response_metadata);
    expect(whole.usage_metadata!.output_tokens).toBe(invoked.usage_metadata!.output_tokens);
    expect(engine.openBranches).toBe(0);
  });

  it("drops its branch when the consumer leaves", async () => {
    const engine = digits();
    for await (const chunk of await new ChatDeftree({ engine }).stream("count")) if (chunk.text === "3") break;
    await new Promise(setImmediate);
    expect(engine.openBranches).toBe(0);
  });

  it("streams events with usage and metadata", async () => {
    const chat = new ChatDeftree({ engine: digits(), maxTokens: 4 });
    const stream = chat.streamEvents("count");
    let text = "";
    for await (const piece of stream.text) text += piece;
    expect(text).toBe("0123");
    const message = await stream;
    expect(message.response_metadata).toMatchObject({ model: "fake", finish_reason: "length" });
    expect(message.usage_metadata!.output_tokens).toBe(4);
  });

  it("streams events in their order, usage once", async () => {
    const chat = new ChatDeftree({ engine: digits(), maxTokens: 3 });
    const events = await collect(chat.streamEvents("count", { logprobs: true }));
    expect(events.map(({ event }) => event)).toEqual([
      "message-start",
      "content-block-start",
      ...Array(3).fill("content-block-delta"),
      "content-block-finish",
      "message-finish",
    ]);
    expect(events.at(-1)).toMatchObject({
      reason: "length",
      usage: { output_tokens: 3, input_token_details: { cache_read: 0 } },
      responseMetadata: { logprobs: { content: [{ token: "0" }, { token: "1" }, { token: "2" }] } },
    });
    expect(events.filter((event) => "usage" in event)).toHaveLength(1);
  });

  it.each(["lc_prefer_streaming", "lc_prefer_chat_model_stream_events"])(
    "answers invoke with the same message under %s",
    async (flag) => {
      const chat = new ChatDeftree({ engine: echoing(), logprobs: true });
      const callbacks = [Object.assign(BaseCallbackHandler.fromMethods({}), { [flag]: true })];
      await chat.invoke("hello");
      const plain = await chat.invoke("hello");
      const streamed = await chat.invoke("hello", { callbacks });
      expect(streamed.text).toBe(plain.text);
      expect(streamed.usage_metadata).toMatchObject(plain.usage_metadata!);
      expect(streamed.response_metadata).toMatchObject(plain.response_metadata);
    },
  );
});

describe("abort", () => {
  const slow = () => new FakeEngine({ reply: () => "0123456789", pause: () => new Promise((r) => setTimeout(r, 5)) });

  it("rejects on a signal that is aborted already", async () => {
    const engine = digits();
    const chat = new ChatDeftree({ engine });
    const signal = AbortSignal.abort();
    await expect(chat.invoke("count", { signal })).rejects.toThrow(/abort/i);
    await expect(chat.stream("count", { signal }).then(collect)).rejects.toThrow(/abort/i);
    expect(engine.decodedTokens).toBe(0);
  });

  it("throws ModelAbortError with what was written so far", async () => {
    const engine = slow();
    const controller = new AbortController();
    const call = new ChatDeftree({ engine }).invoke("count", { signal: controller.signal });
    while (engine.decodedTokens < 3) await new Promise(setImmediate);
    controller.abort();
    const error = await call.catch((error) => error);
    expect(ModelAbortError.isInstance(error)).toBe(true);
    expect("0123456789".startsWith(error.partialOutput.text)).toBe(true);
    expect(error.partialOutput.text.length).toBeGreaterThanOrEqual(3);
    expect(engine.openBranches).toBe(0);
  });

  it.each(["lc_prefer_streaming", "lc_prefer_chat_model_stream_events"])(
    "throws ModelAbortError with what was written so far under %s",
    async (flag) => {
      const engine = slow();
      const controller = new AbortController();
      const callbacks = [Object.assign(BaseCallbackHandler.fromMethods({}), { [flag]: true })];
      const call = new ChatDeftree({ engine }).invoke("count", { signal: controller.signal, callbacks });
      while (engine.decodedTokens < 4) await new Promise(setImmediate);
      controller.abort();
      const error = await call.catch((error) => error);
      expect(ModelAbortError.isInstance(error)).toBe(true);
      expect(error.partialOutput.text).toMatch(/^012/);
      await new Promise((resolve) => setTimeout(resolve, 20));
      expect(engine.openBranches).toBe(0);
    },
  );

  it("ends the events of a stream", async () => {
    const engine = slow();
    const controller = new AbortController();
    const stream = new ChatDeftree({ engine }).streamEvents("count", { signal: controller.signal });
    const read = async () => {
      for await (const piece of stream.text) if (piece === "2") controller.abort();
    };
    await expect(read()).rejects.toMatchObject({ name: "ModelAbortError", partialOutput: { content: /^012/ } });
    expect(engine.openBranches).toBe(0);
  });

  it("does not wait for a model that loads", async () => {
    const chat = new ChatDeftree({ model: "random:tiny" });
    const controller = new AbortController();
    const answering = chat.invoke("count", { signal: controller.signal });
    setImmediate(() => controller.abort(new Error("no longer wanted")));
    await expect(answering).rejects.toThrow("no longer wanted");
    await chat.dispose();
  });

  it("ends a stream with the signal's reason", async () => {
    const engine = slow();
    const controller = new AbortController();
    const read = async () => {
      for await (const chunk of await new ChatDeftree({ engine }).stream("count", { signal: controller.signal })) {
        if (chunk.text === "2") controller.abort(new Error("enough"));
      }
    };
    await expect(read()).rejects.toThrow("enough");
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(engine.openBranches).toBe(0);
  });

  it("hears one signal of many calls without a listener for each", async () => {
    const engine = slow();
    const chat = new ChatDeftree({ engine });
    const controller = new AbortController();
    const { signal } = controller;
    const calls = Array.from({ length: 12 }, async () => {
      for await (const _ of chat._streamResponseChunks([new HumanMessage("count")], { signal }));
    });
    while (engine.decodedTokens < 24) await new Promise(setImmediate);
    expect(getEventListeners(signal, "abort")).toHaveLength(0);
    expect(engine.openBranches).toBe(12);
    controller.abort();
    await Promise.all(calls);
    expect(engine.openBranches).toBe(0);
  });

  it("honours a timeout", async () => {
    const engine = new FakeEngine({ reply: () => "0".repeat(500), pause: () => new Promise((r) => setTimeout(r, 5)) });
    await expect(new ChatDeftree({ engine }).invoke("count", { timeout: 30 })).rejects.toThrow();
  });
});

describe("errors", () => {
  it("says ContextOverflowError for a prompt that is too long", async () => {
    const engine = digits();
    const error = await new ChatDeftree({ engine }).invoke("x".repeat(5000)).catch((error) => error);
    expect(ContextOverflowError.isInstance(error)).toBe(true);
    expect(error.cause).toMatchObject({ code: "E_CONTEXT_FULL" });
    expect(getRetryable(error)).toBe(false);
    expect(engine.openBranches).toBe(0);
  });

  it("marks errors that may pass", async () => {
    const failing = (code: "E_KV_FULL" | "E_BAD_ARGUMENT") => {
      const engine = digits();
      engine.encodeChat = () => {
        throw new DeftreeError(code, "no");
      };
      return new ChatDeftree({ engine }).invoke("count").catch(getRetryable);
    };
    expect(await failing("E_KV_FULL")).toBe(true);
    expect(await failing("E_BAD_ARGUMENT")).toBe(false);
  });

  it("refuses what is not text", async () => {
    const chat = new ChatDeftree({ engine: digits() });
    const image = new HumanMessage({ content: [{ type: "image_url", image_url: { url: "data:," } }] });
    await expect(chat.invoke([image])).rejects.toMatchObject({ code: "E_BAD_ARGUMENT" });
  });
});
