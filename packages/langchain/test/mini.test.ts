/** ChatDeftree and treeOfThoughts on the real engine, with the embedded model. */
import { Engine } from "@deftree/engine";
import { bestOfN, breadthFirst, type SearchEvent } from "@deftree/search";
import { ModelAbortError } from "@langchain/core/errors";
import { type AIMessageChunk, HumanMessage, SystemMessage } from "@langchain/core/messages";
import { RunCollectorCallbackHandler } from "@langchain/core/tracers/run_collector";
import { concat } from "@langchain/core/utils/stream";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { ChatDeftree, EngineThoughtModel, treeOfThoughts } from "../src/index.js";
import { digits, sortingProblem, sortPrompt } from "./sorting.js";

let engine: Engine;
let chat: ChatDeftree;

beforeAll(async () => {
  engine = await Engine.load("mini");
  chat = new ChatDeftree({ engine, maxTokens: 200 });
});
afterEach(async () => {
  await engine.checkInvariants();
  expect(engine.stats().branches).toBe(0);
});
afterAll(() => engine.dispose());

const long = digits(128, 1);

async function whole(stream: AsyncIterable<AIMessageChunk>): Promise<AIMessageChunk> {
  const chunks: AIMessageChunk[] = [];
  for await (const chunk of stream) chunks.push(chunk);
  expect(chunks.length).toBeGreaterThan(5);
  return chunks.reduce((a, b) => concat(a, b));
}

describe("ChatDeftree with mini", () => {
  it("answers, and counts tokens as the tokenizer does", async () => {
    const answer = await chat.invoke(sortPrompt([3, 1, 2, 1, 9, 0, 5, 5]));
    expect(answer.text).toMatch(/^\[\d(, \d)*\]/);
    const { input_tokens, output_tokens } = answer.usage_metadata!;
    expect(input_tokens).toBeGreaterThan(await chat.getNumTokens(sortPrompt([3, 1, 2, 1, 9, 0, 5, 5])));
    // The end-of-turn token is no text.
    expect(output_tokens).toBe((await chat.getNumTokens(answer.text)) + 1);
    expect(answer.response_metadata).toMatchObject({ model_provider: "deftree", finish_reason: "stop" });
  });

  it("streams what invoke answers", async () => {
    const prompt = sortPrompt(digits(32, 2));
    const streamed = await whole(await chat.stream(prompt));
    const invoked = await chat.invoke(prompt);
    expect(streamed.text).toBe(invoked.text);
    expect(streamed.usage_metadata!.output_tokens).toBe(invoked.usage_metadata!.output_tokens);
  });

  it("reuses a system prompt that a batch has in common", async () => {
    const system = new SystemMessage(`You sort lists of digits. ${"Be careful. ".repeat(20)}`);
    const inputs = [3, 4, 5, 6].map((seed) => [system, new HumanMessage(sortPrompt(digits(8, seed)))]);
    const answers = await chat.batch(inputs);
    const systemTokens = await chat.getNumTokens(system.text);
    const reused = answers.map(({ usage_metadata }) => usage_metadata!.input_token_details!.cache_read!);
    // One of them computes the system prompt, the others wait for it.
    expect(reused.filter((tokens) => tokens >= systemTokens)).toHaveLength(inputs.length - 1);
  });

  it("stops at a string and continues a conversation from the cache", async () => {
    const first = new HumanMessage(sortPrompt([5, 4, 3, 2, 1, 0]));
    const answer = await chat.invoke([first], { stop: [","] });
    expect(answer.text).toMatch(/^\[\d$/);
    expect(answer.response_metadata.stop_string).toBe(",");
    const next = await chat.invoke([first, answer, new HumanMessage(sortPrompt([1, 0]))], { maxTokens: 4 });
    expect(next.usage_metadata!.input_token_details!.cache_read).toBeGreaterThan(0);
  });

  it("aborts in the middle of an answer", async () => {
    const controller = new AbortController();
    const read = async () => {
      let text = "";
      for await (const chunk of await chat.stream(sortPrompt(long), { signal: controller.signal })) {
        text += chunk.text;
        if (text.length > 6) controller.abort(new Error("enough"));
      }
    };
    await expect(read()).rejects.toThrow("enough");
    const other = new AbortController();
    while (engine.stats().branches > 0) await new Promise(setImmediate);
    const before = engine.stats().decodedTokens;
    const call = chat.invoke(sortPrompt(long), { signal: other.signal });
    while (engine.stats().decodedTokens < before + 3) await new Promise(setImmediate);
    other.abort();
    const error = await call.catch((error) => error);
    expect(ModelAbortError.isInstance(error)).toBe(true);
    expect(error.partialOutput.text).toMatch(/^\[/);
  });

  it("repeats a sampled answer by its seed, whatever decodes beside it", async () => {
    const options = { temperature: 3, seed: 11, maxTokens: 60 };
    const alone = await chat.invoke(sortPrompt(long), options);
    const others = [1, 2, 3].map((seed) => chat.invoke(sortPrompt(digits(32, seed)), { temperature: 1 }));
    const [beside, another] = await Promise.all([
      chat.invoke(sortPrompt(long), options),
      chat.invoke(sortPrompt(long), { ...options, seed: 12 }),
      ...others,
    ]);
    expect(beside.text).toBe(alone.text);
    expect(another.text).not.toBe(alone.text);
  });

  it("gives log-probabilities of its tokens", async () => {
    const answer = await chat.invoke(sortPrompt([2, 1]), { logprobs: true, topLogprobs: 3 });
    const { content } = answer.response_metadata.logprobs as {
      content: { logprob: number; top_logprobs: { logprob: number }[] }[];
    };
    expect(content).toHaveLength(answer.usage_metadata!.output_tokens);
    for (const { logprob, top_logprobs } of content) {
      expect(top_logprobs).toHaveLength(3);
      // Greedy decoding takes the likeliest.
      expect(logprob).toBeCloseTo(top_logprobs[0]!.logprob, 5);
    }
  });

  it("loads one engine for all chat models of the same settings, and frees it after the last", async () => {
    const one = new ChatDeftree({ threads: 1 });
    const other = new ChatDeftree({ model: "mini", threads: 1 });
    const shared = await one.engine();
    expect(await other.engine()).toBe(shared);
    await one.dispose();
    expect((await other.invoke(sortPrompt([2, 1]), { maxTokens: 8 })).text).not.toBe("");
    await other.dispose();
    expect(() => shared.branch()).toThrow();
  });
});

describe("treeOfThoughts with mini", () => {
  const problem = sortingProblem;
  const strategy = breadthFirst({ grow: "continue", width: 6, depth: 14 });

  it("solves a list, sharing what its thoughts have in common", async () => {
    const input = digits(32, 7);
    const result = await treeOfThoughts({ model: chat, problem, strategy }).invoke(input);
    expect(result.solved).toBe(true);
    expect(result.answer).toEqual([...input].sort());
    const { promptTokens, reusedTokens, kvBytesRead, kvBytesUnshared } = result.statistics;
    expect(reusedTokens).toBeGreaterThan(promptTokens / 2);
    expect(kvBytesRead).toBeLessThan(kvBytesUnshared);
  });

  it("traces one nested run per thought", async () => {
    const collector = new RunCollectorCallbackHandler();
    const tot = treeOfThoughts({ model: chat, problem, strategy });
    const { tree } = await tot.invoke(digits(16, 8), { callbacks: [collector] });
    const names = collector.tracedRuns[0]!.child_runs!.map(({ name }) => name);
    expect(names).toEqual(tree.thoughts.slice(1).map(({ id }) => `thought ${id}`));
  });

  it("streams events in order, and frees everything when the consumer leaves", async () => {
    const events: SearchEvent[] = [];
    const tot = treeOfThoughts({ model: chat, problem, strategy });
    for await (const event of await tot.stream(digits(16, 9))) events.push(event);
    expect(events[0]!.type).toBe("search:started");
    expect(events.at(-1)!.type).toBe("done");
    for await (const event of await tot.stream(digits(32, 9))) if (event.type === "level:selected") break;
    while (engine.stats().branches > 0) await new Promise((resolve) => setTimeout(resolve, 5));
  });

  it("grows the same tree from the same seed, alone and beside others", async () => {
    const input = digits(32, 10);
    const run = (seed: number) => treeOfThoughts({ model: chat, problem, strategy, seed }).invoke(input);
    const texts = (result: Awaited<ReturnType<typeof run>>) => result.tree.thoughts.map(({ text }) => text);
    const alone = await run(1);
    const [beside] = await Promise.all([run(1), run(2)]);
    expect(texts(beside)).toEqual(texts(alone));
  });

  it("keeps to a budget of tokens", async () => {
    const tot = treeOfThoughts({ model: chat, problem, strategy: bestOfN({ n: 50 }), budget: { tokens: 300 } });
    const before = engine.stats().decodedTokens;
    const { statistics } = await tot.invoke(long);
    expect(statistics.generatedTokens).toBeLessThanOrEqual(300);
    expect(engine.stats().decodedTokens - before).toBe(statistics.generatedTokens);
  });

  it("continues a branch after its stop string as if it had never stopped", async () => {
    const model = new EngineThoughtModel(engine);
    const prompt = [{ role: "user" as const, content: sortPrompt(digits(16, 12)) }];
    const branch = await model.open(prompt);
    const [whole, parts] = branch.fork(2);
    const { text } = await whole!.decode({ maxTokens: 200 });
    let joined = "";
    for (let stops = 0, ended = false; !ended && stops < 40; stops++) {
      const part = await parts!.decode({ maxTokens: 200, stop: [","] });
      joined += part.text + (part.stopString ?? "");
      ended = part.ended;
    }
    expect(joined).toBe(text);
    for (const open of [branch, whole!, parts!]) open.release();
  });
});
