/** Searches on a remote model: LangChain's own OpenAI client against a server on loopback. */
import {
  bestOfN,
  breadthFirst,
  choiceLogprobs,
  llmValue,
  type Problem,
  search,
  type ThoughtFormat,
} from "@deftree/search";
import { FakeListChatModel } from "@langchain/core/utils/testing";
import { ChatOpenAI, type ChatOpenAIFields } from "@langchain/openai";
import { describe, expect, it } from "vitest";
import { type DigitsState, digitsProblem, sorted } from "../test/digits-problem.js";
import { OpenAiServer } from "../test/openai-server.js";
import { ChatThoughtModel, type ChatThoughtModelOptions } from "./index.js";

const input = "927465018273";
const answer = sorted(input);

function problem(members: Partial<Problem<DigitsState, string>> = {}): Problem<DigitsState, string> {
  return {
    ...digitsProblem(input),
    thought: { maxTokens: 4 },
    readPartial: (text, ended) => ({ text, ended: ended || text.length >= input.length }),
    ...members,
  };
}

function modelOf(server: OpenAiServer, options?: ChatThoughtModelOptions, fields: ChatOpenAIFields = {}) {
  const chat = new ChatOpenAI({
    ...{ model: "remote", apiKey: "none", maxRetries: 0, configuration: { baseURL: server.url } },
    ...fields,
  });
  return new ChatThoughtModel(chat, options);
}

describe("llama.cpp's server", () => {
  const llamaCpp = { slots: 3 };

  it("counts one answer of several, and takes no more than it has slots", async () => {
    await using server = await OpenAiServer.start({ errorRate: 0.3, llamaCpp });
    const model = modelOf(server);
    const strategy = bestOfN({ n: 8, stopWhenSolved: false });
    const whole = await search(problem(), strategy, model);
    expect(whole.statistics).toMatchObject({ thoughts: 8, generatedTokens: server.generatedTokens });
    expect(server.requests.map(({ n }) => n ?? 1)).toEqual([8, 4, 4, 2, 2, 2, 2]);
    expect(new Set(whole.tree.thoughts.slice(1).map(({ text }) => text)).size).toBeGreaterThan(4);
    const before = server.generatedTokens;
    const cut = await search(problem({ answerMaxTokens: 5 }), strategy, model);
    expect(cut.statistics.generatedTokens).toBe(server.generatedTokens - before);
    expect(server.requests.slice(7).map(({ n }) => n)).toEqual([2, 2, 2, 2]);
  });

  it.each([false, true])("gives back the beginning that it goes on with (streamed: %s)", async (stream) => {
    await using server = await OpenAiServer.start({ llamaCpp });
    const { text, solved } = await search(
      problem(),
      breadthFirst({ grow: "continue", width: 2, depth: 4 }),
      modelOf(server, { stream }),
    );
    expect(text).toBe(answer);
    expect(solved).toBe(true);
    const begun = server.requests.map(({ messages }) => messages.at(-1)!).filter(({ role }) => role === "assistant");
    expect(begun.length).toBeGreaterThan(1);
    for (const { content } of begun) expect(answer.startsWith(content)).toBe(true);
  });
});

describe("siblings", () => {
  it("are one request with n, with their settings and the seed of the first", async () => {
    await using server = await OpenAiServer.start({ errorRate: 0.3 });
    const strategy = bestOfN({ n: 8, sampling: { temperature: 0.7, topP: 0.9 }, stopWhenSolved: false });
    const { tree, statistics } = await search(problem(), strategy, modelOf(server), { seed: 3 });
    expect(server.requests).toHaveLength(1);
    expect(server.requests[0]).toMatchObject({
      ...{ model: "remote", n: 8, temperature: 0.7, top_p: 0.9, max_tokens: 13 },
      messages: [{ role: "user", content: input }],
    });
    expect(server.requests[0]!.seed).toBeTypeOf("number");
    expect(new Set(tree.thoughts.slice(1).map(({ text }) => text)).size).toBeGreaterThan(4);
    expect(statistics).toMatchObject({
      ...{ generatedTokens: server.generatedTokens, promptTokens: 8 * input.length, reusedTokens: 7 * input.length },
    });
    for (const { tokens } of tree.thoughts.slice(1)) expect(Math.abs(tokens - 13)).toBeLessThanOrEqual(1);
  });

  it("are asked for one by one where a server gives fewer answers", async () => {
    await using server = await OpenAiServer.start({ mostAnswers: 1, errorRate: 0.3 });
    const { tree, statistics } = await search(problem(), bestOfN({ n: 4, stopWhenSolved: false }), modelOf(server));
    expect(server.requests.map(({ n }) => n ?? 1)).toEqual([4, 1, 1, 1]);
    expect(new Set(server.requests.map(({ seed }) => seed)).size).toBe(4);
    expect(tree.thoughts).toHaveLength(5);
    expect(statistics.generatedTokens).toBe(server.generatedTokens);
  });

  it("of two searches are two requests, so that aborting one leaves the other", async () => {
    await using server = await OpenAiServer.start({ answerAfterMs: 100 });
    const model = modelOf(server);
    const controller = new AbortController();
    const strategy = bestOfN({ n: 4 });
    const aborted = search(problem(), strategy, model, { signal: controller.signal });
    const other = search(problem(), strategy, model);
    const results = Promise.all([aborted.result, other.result]);
    while (server.requests.length < 2) await new Promise((resolve) => setTimeout(resolve, 1));
    controller.abort();
    const [first, second] = await results;
    expect(server.requests.map(({ n }) => n)).toEqual([4, 4]);
    expect(first.stopReason).toBe("aborted");
    expect(second.solved).toBe(true);
  });

  it("are single requests with seeds of their own where n is not wanted, and repeat by them", async () => {
    await using server = await OpenAiServer.start({ errorRate: 0.3 });
    const model = () => modelOf(server, { joinSiblings: false });
    const run = () => search(problem(), bestOfN({ n: 5, stopWhenSolved: false }), model(), { seed: 7 });
    const first = await run();
    expect(new Set(server.requests.map(({ seed }) => seed)).size).toBe(5);
    expect((await run()).tree).toEqual(first.tree);
  });
});

describe("a tree search on a server", () => {
  it("continues an answer as the beginning of an assistant message", async () => {
    await using server = await OpenAiServer.start({ errorRate: 0.15 });
    const strategy = breadthFirst({ grow: "continue", width: 6, keep: 1, depth: 6 });
    const result = await search(problem(), strategy, modelOf(server), { seed: 1 });
    expect(result).toMatchObject({ answer, solved: true });
    const begun = server.requests.flatMap(({ messages }) => messages.filter(({ role }) => role === "assistant"));
    expect(begun.length).toBeGreaterThan(0);
    for (const { content } of begun) expect(answer.startsWith(content)).toBe(true);
  });

  it.each([false, true])("asks a server in its own words to go on (stream: %s)", async (stream) => {
    await using server = await OpenAiServer.start();
    const continuation = { add_generation_prompt: false, continue_final_message: true };
    const model = modelOf(server, { stream, continuation }, { modelKwargs: { min_p: 0.1 } });
    await search(problem(), breadthFirst({ grow: "continue", width: 1, depth: 6 }), model);
    const [first, ...later] = server.requests;
    expect(first).toMatchObject({ min_p: 0.1 });
    expect(first).not.toHaveProperty("continue_final_message");
    expect(later.length).toBeGreaterThan(1);
    for (const request of later) expect(request).toMatchObject({ ...continuation, min_p: 0.1 });
  });

  it.each([false, true])("passes stop strings on, and continues after them (stream: %s)", async (stream) => {
    await using server = await OpenAiServer.start({ tellsStops: true });
    const stopping = problem({ thought: { maxTokens: 20, stop: ["2", "7"] } });
    const strategy = breadthFirst({ grow: "continue", width: 1, depth: 8 });
    const { text, tree } = await search(stopping, strategy, modelOf(server, { stream }));
    expect(server.requests[0]!.stop).toEqual(["2", "7"]);
    expect(text).toBe(answer);
    expect(tree.thoughts.slice(1).map((thought) => thought.text)).toEqual(["01", "", "3456", "", "89"]);
  });

  it("takes the one stop string for what ended a thought where the server does not tell", async () => {
    await using server = await OpenAiServer.start();
    const stopping = problem({ thought: { maxTokens: 20, stop: ["3"] } });
    const strategy = breadthFirst({ grow: "continue", width: 1, depth: 2 });
    const { tree } = await search(stopping, strategy, modelOf(server));
    expect(tree.thoughts[1]).toMatchObject({ text: "0122", stopString: "3" });
    expect(server.requests[1]!.messages.at(-1)).toMatchObject({ role: "assistant", content: "01223" });
  });

  it("improves by new prompts", async () => {
    await using server = await OpenAiServer.start({ errorRate: 0.1 });
    const strategy = breadthFirst({ grow: "reprompt", width: 4, depth: 4 });
    const result = await search(problem(), strategy, modelOf(server), { seed: 2 });
    expect(result.solved).toBe(true);
    for (const { messages } of server.requests) expect(messages.at(-1)!.role).toBe("user");
  });
});

describe("streams", () => {
  it("give tokens as they come, and a cut thought ends its request", async () => {
    await using server = await OpenAiServer.start({ errorRate: 0.3, pauseMs: 3 });
    const long = problem({ thought: { maxTokens: 12 } });
    const strategy = breadthFirst({ grow: "continue", width: 6, depth: 2, attempts: 18 });
    const model = modelOf(server, { stream: true });
    const pieces = new Map<number, number>();
    const running = search(long, strategy, model, { seed: 1 });
    for await (const event of running) {
      if (event.type === "thought:tokens") pieces.set(event.thought, (pieces.get(event.thought) ?? 0) + 1);
    }
    const { tree } = await running;
    const cut = tree.thoughts.filter(({ pruneReason }) => pruneReason === "hopeless");
    expect(cut.length).toBeGreaterThan(2);
    expect(Math.max(...pieces.values())).toBeGreaterThan(3);
    for (let i = 0; i < 50 && server.leftStreams === 0; i++) await new Promise((resolve) => setTimeout(resolve, 5));
    expect(server.leftStreams).toBeGreaterThan(0);
    const whole = server.requests.length * 12;
    expect(server.generatedTokens).toBeLessThan(0.8 * whole);
  });

  it("end when the search is aborted", async () => {
    await using server = await OpenAiServer.start({ pauseMs: 5 });
    const controller = new AbortController();
    const running = search(problem(), bestOfN({ n: 3 }), modelOf(server, { stream: true }), {
      signal: controller.signal,
    });
    for await (const event of running) if (event.type === "thought:tokens") controller.abort();
    expect((await running).stopReason).toBe("aborted");
    for (let i = 0; i < 50 && server.leftStreams < 3; i++) await new Promise((resolve) => setTimeout(resolve, 5));
    expect(server.leftStreams).toBe(3);
  });
});

describe("evaluation on a server", () => {
  const judged = problem({
    value: {
      prompt: ({ text }) => [{ role: "user", content: `How good is ${text}?` }],
      read: (text) => (/^\d+$/.test(text) ? [Number(text)] : undefined),
      choices: { " sure": 10, " impossible": 0 },
      failureScore: -1,
    },
  });

  it("reads log-probabilities of choices from the first token", async () => {
    await using server = await OpenAiServer.start({
      topLogprobs: [
        { token: " s", logprob: Math.log(0.5) },
        { token: "sure", logprob: Math.log(0.1) },
        { token: " imp", logprob: Math.log(0.2) },
        { token: " or", logprob: Math.log(0.05) },
      ],
    });
    const { score } = await search(judged, bestOfN({ n: 1 }), modelOf(server), { evaluate: choiceLogprobs() });
    expect(score).toBeCloseTo((10 * 0.6) / 0.8, 10);
    expect(server.requests[1]).toMatchObject({ logprobs: true, top_logprobs: 20, max_tokens: 1 });
  });

  it("says so when the server gives none", async () => {
    await using server = await OpenAiServer.start();
    const running = search(judged, bestOfN({ n: 1 }), modelOf(server), { evaluate: choiceLogprobs() });
    await expect(running.result).rejects.toThrow("gives no log-probabilities");
  });

  const reply = ({ messages }: { messages: { content: string }[] }) =>
    messages[0]!.content.startsWith("How") ? String(messages[0]!.content.length % 10) : undefined;

  it("grows children while the server judges their parents, and the same tree", async () => {
    const strategy = breadthFirst({ grow: "continue", width: 4, keep: 2, depth: 4 });
    const evaluate = llmValue({ samples: 1 });
    for (const options of [{ joinSiblings: false }, { stream: true }]) {
      await using server = await OpenAiServer.start({ reply, errorRate: 0.3, answerAfterMs: 2, pauseMs: 1 });
      const run = (proposeAhead: number) =>
        search(judged, strategy, modelOf(server, options), { evaluate, proposeAhead });
      const plain = await run(0);
      const generated = server.generatedTokens;
      const ahead = await run(2);
      expect(ahead.tree).toEqual(plain.tree);
      expect(ahead.statistics.wastedTokens).toBeGreaterThan(0);
      expect(server.generatedTokens - generated).toBeGreaterThan(generated);
    }
  });

  it("samples verdicts by n", async () => {
    await using server = await OpenAiServer.start({ reply });
    const { score } = await search(judged, bestOfN({ n: 1 }), modelOf(server), { evaluate: llmValue({ samples: 5 }) });
    expect(score).toBe(String(server.requests[1]!.messages[0]!.content).length % 10);
    expect(server.requests[1]!.n).toBe(5);
  });
});

describe("failing servers", () => {
  it("are asked again as the chat model's retries allow", async () => {
    await using server = await OpenAiServer.start();
    server.failures = [500, 503];
    const result = await search(problem(), bestOfN({ n: 2 }), modelOf(server, {}, { maxRetries: 3 }));
    expect(result.solved).toBe(true);
    expect(server.requests).toHaveLength(3);
  }, 30_000);

  it("reject the search when they go on failing", async () => {
    await using server = await OpenAiServer.start();
    server.failures = [500, 500];
    await expect(search(problem(), bestOfN({ n: 2 }), modelOf(server)).result).rejects.toThrow("status 500 as told");
  });

  it("are not asked again after a request that cannot be right", async () => {
    await using server = await OpenAiServer.start();
    server.failures = [400, 400, 400];
    const running = search(problem(), bestOfN({ n: 2 }), modelOf(server, {}, { maxRetries: 3 }));
    await expect(running.result).rejects.toThrow("status 400 as told");
    expect(server.requests).toHaveLength(1);
  });
});

describe("a format of thoughts", () => {
  const jsonSchema = { type: "array", items: { type: "integer" } };

  it("is asked of a server as its response format, of the right thoughts", async () => {
    await using server = await OpenAiServer.start();
    const asked = () => server.requests.splice(0).map(({ response_format }) => response_format);
    const parts = problem({ thought: { maxTokens: 4, format: { jsonSchema } } });
    const expected = { type: "json_schema", json_schema: { name: "thought", schema: jsonSchema, strict: true } };
    const { solved } = await search(parts, breadthFirst({ grow: "continue", width: 2, depth: 4 }), modelOf(server));
    expect(solved).toBe(true);
    expect(server.requests.length).toBeGreaterThan(3);
    for (const format of asked()) expect(format).toEqual(expected);
    await search(parts, bestOfN({ n: 2 }), modelOf(server));
    expect(asked()).toEqual([undefined]);
    const whole = problem({ answerFormat: { jsonSchema } });
    await search(whole, bestOfN({ n: 2 }), modelOf(server));
    expect(asked()).toEqual([expected, expected]);
  });

  it("is refused where nothing would keep the model to it", async () => {
    await using server = await OpenAiServer.start();
    const run = (model: ChatThoughtModel, answerFormat: ThoughtFormat) =>
      search(problem({ answerFormat }), bestOfN({ n: 1 }), model).result;
    await expect(run(modelOf(server), { regex: "[0-9]+" })).rejects.toThrow(
      "cannot keep a text to a regular expression",
    );
    const plain = new ChatThoughtModel(new FakeListChatModel({ responses: ["1"] }));
    await expect(run(plain, { jsonSchema })).rejects.toThrow("takes no response_format");
    expect(server.requests).toHaveLength(0);
  });
});

it("adds no listener to a signal for each request of a wide search", async () => {
  const warnings: Error[] = [];
  const onWarning = (warning: Error) => warnings.push(warning);
  process.on("warning", onWarning);
  await using server = await OpenAiServer.start({ errorRate: 0.3 });
  for (const options of [{ joinSiblings: false }, { stream: true }]) {
    await search(problem(), bestOfN({ n: 40, width: 40 }), modelOf(server, options));
  }
  await new Promise(setImmediate);
  process.off("warning", onWarning);
  expect(warnings).toEqual([]);
});
