/**
 * What LangChain checks of a chat model: the 8 unit and 25 integration checks of its standard tests, which are not
 * published, and the 4 that its list leaves out, in our own words. docs/langchain-conformance.md says what passes.
 */
import { InMemoryCache } from "@langchain/core/caches";
import type { ToolDefinition } from "@langchain/core/language_models/base";
import type { BindToolsInput } from "@langchain/core/language_models/chat_models";
import {
  AIMessage,
  AIMessageChunk,
  type BaseMessage,
  HumanMessage,
  SystemMessage,
  type ToolCall,
  ToolMessage,
  type UsageMetadata,
} from "@langchain/core/messages";
import { RunnableLambda } from "@langchain/core/runnables";
import { tool } from "@langchain/core/tools";
import { concat } from "@langchain/core/utils/stream";
import { describe, expect, it } from "vitest";
import { z } from "zod";
import type { ChatDeftree, ChatDeftreeFields } from "../src/index.js";
import { collect } from "./collect.js";

export interface ConformanceTarget {
  chat(fields?: ChatDeftreeFields): ChatDeftree;
  /**
   * The model knows neither tools nor JSON, not even after examples: `tool_choice` forces its calls. A forced answer is one
   * call and jsonMode enforces no schema, so these two checks are skipped.
   */
  callsAreForced?: boolean;
}

const sumSchema = z.object({ a: z.number(), b: z.number() });
const sumParameters = {
  type: "object",
  properties: { a: { type: "number" }, b: { type: "number" } },
  required: ["a", "b"],
};
const sumTool: ToolDefinition = {
  type: "function",
  function: { name: "add", description: "Adds two numbers", parameters: sumParameters },
};
const question = "What is 2 + 3?";

export function describeUnitChecks(make: (fields: ChatDeftreeFields) => ChatDeftree): void {
  /** What LangChain's suite gives every constructor; names that are not ours are left unread. */
  const standard = { temperature: 0, maxTokens: 100, timeout: 60, stopSequences: [], maxRetries: 2 };

  it("is made from the standard fields", () => {
    expect(make(standard).sampling).toMatchObject({ temperature: 0, maxTokens: 100 });
  });
  it("is made with an API key, which a local model leaves unread", () => {
    const chat = make({ ...standard, apiKey: "secret" } as ChatDeftreeFields);
    expect(JSON.stringify([chat, chat._identifyingParams()])).not.toContain("secret");
  });
  it("is made with streaming: true", () => {
    expect(make({ ...standard, streaming: true } as ChatDeftreeFields)).toBeDefined();
  });
  it("binds tools", () => {
    expect(make(standard).bindTools([sumTool]).invoke).toBeTypeOf("function");
  });
  it("gives a Runnable of structured output", () => {
    expect(make(standard).withStructuredOutput(sumSchema).invoke).toBeTypeOf("function");
  });
  it("has exactly the parameters that LangSmith reads", () => {
    const names = ["ls_max_tokens", "ls_model_name", "ls_model_type", "ls_provider", "ls_stop", "ls_temperature"];
    expect(Object.keys(make(standard).getLsParams({})).sort()).toEqual(names);
  });
  it("rejects invoke on a signal that is aborted already", async () => {
    await expect(make(standard).invoke("Hello", { signal: AbortSignal.abort() })).rejects.toThrow(/abort/i);
  });
  it("streams nothing on a signal that is aborted already", async () => {
    const stream = make(standard).stream("Hello", { signal: AbortSignal.abort() });
    await expect(stream.then(collect)).rejects.toThrow(/abort/i);
  });
}

export function describeIntegrationChecks({ chat, callsAreForced = false }: ConformanceTarget): void {
  const withTool = (given: BindToolsInput, tool_choice = callsAreForced ? "any" : "auto") =>
    chat().bindTools([given], { tool_choice });

  describe("answers", () => {
    it("invoke", async () => {
      const answer = await chat().invoke("Hello");
      expect(AIMessage.isInstance(answer)).toBe(true);
      expectText(answer);
    });

    it("stream", async () => {
      const chunks = await collect(await chat().stream("Hello"));
      expect(chunks.length).toBeGreaterThan(1);
      for (const chunk of chunks) {
        expect(AIMessageChunk.isInstance(chunk)).toBe(true);
        expect(chunk.content).toBeTypeOf("string");
      }
      expectText(joined(chunks));
    });

    it("batch of two", async () => {
      const answers = await chat().batch(["Hello", "Hey"]);
      expect(answers).toHaveLength(2);
      for (const answer of answers) expectText(answer);
    });

    it("conversation of several messages", async () => {
      expectText(await chat().invoke([new HumanMessage("Hello"), new AIMessage("Hello"), new HumanMessage("Bye")]));
    });

    it("two messages of each role in a row", async () => {
      const messages = [SystemMessage, HumanMessage, AIMessage].flatMap((Message) => [
        new Message("First."),
        new Message("Second."),
      ]);
      expectText(await chat().invoke([...messages, new HumanMessage("Third.")]));
    });

    it("stop strings of a call and of the constructor", async () => {
      const whole = (await chat().invoke("Hello")).text;
      const stop = whole.slice(1, 3);
      const cut = whole.slice(0, whole.indexOf(stop));
      expect((await chat().invoke("Hello", { stop: [stop] })).text).toBe(cut);
      expect((await chat({ stop: [stop] }).invoke("Hello")).text).toBe(cut);
    });

    it("content-block events", async () => {
      const stream = chat().streamEvents("Hello");
      const [text, message] = await Promise.all([stream.text, stream]);
      expect(text).toBe(message.text);
      expectText(message);
      expectUsage(message.usage_metadata);
    });
  });

  describe("usage", () => {
    it("of invoke, and the model's name", async () => {
      const answer = await chat().invoke("Hello");
      expectUsage(answer.usage_metadata);
      expect(answer.response_metadata.model).toMatch(/./);
    });

    it("of a stream, added up", async () => {
      const whole = joined(await collect(await chat().stream("Hello")));
      expectUsage(whole.usage_metadata);
      expect(whole.response_metadata.model).toMatch(/./);
    });
  });

  describe("history with tools", () => {
    const history = (content: AIMessage["content"]) => [
      new HumanMessage(question),
      new AIMessage({ content, tool_calls: [sumCall(2, 3, "abc")] }),
      new ToolMessage({ content: "5", tool_call_id: "abc", name: "add" }),
    ];
    it("with string content", async () => {
      expectText(await chat().bindTools([sumTool]).invoke(history("")));
    });

    it("with list content", async () => {
      const content = [
        { type: "text", text: "I add them." },
        { type: "tool_use", id: "abc", name: "add", input: { a: 2, b: 3 } },
      ];
      expectText(await chat().bindTools([sumTool]).invoke(history(content)));
    });

    it("with examples", async () => {
      const examples = [...history(""), new AIMessage("The sum is 5."), new HumanMessage("Thanks. Say it again.")];
      expectText(await chat().bindTools([sumTool]).invoke(examples));
    });
  });

  describe("content", () => {
    it("with complex messages from a cache", async () => {
      const cached = chat({ cache: new InMemoryCache() });
      const messages = [new HumanMessage({ content: [{ type: "text", text: "Hello" }] })];
      const first = await cached.invoke(messages);
      const { decodedTokens } = (await cached.engine()).stats();
      expect((await cached.invoke(messages)).text).toBe(first.text);
      expect((await cached.engine()).stats().decodedTokens).toBe(decodedTokens);
    });

    it("as a standard text block", async () => {
      const block = { type: "text" as const, source_type: "text", text: "Hello" };
      const answer = await chat().invoke([new HumanMessage({ content: [block] })]);
      expect(answer.text).toBe((await chat().invoke("Hello")).text);
    });

    it.each(["image", "audio", "file"])(
      "refuses a standard %s block, since models of this engine read text",
      async (type) => {
        const block = { type, source_type: "base64", data: "aGk=", mime_type: "application/octet-stream" };
        const call = chat().invoke([new HumanMessage({ content: [block] })]);
        await expect(call).rejects.toMatchObject({ code: "E_BAD_ARGUMENT", message: expect.stringContaining(type) });
      },
    );
  });

  describe("tools and structured output", () => {
    const expectSum = ({ tool_calls = [] }: Pick<AIMessage, "tool_calls">) => {
      expect(tool_calls).toHaveLength(1);
      const [call] = tool_calls;
      expect(call).toMatchObject({ type: "tool_call", name: "add", id: expect.stringMatching(/./) });
      expect(sumSchema.safeParse(call!.args).success).toBe(true);
    };
    const asked = [...sumExamples(), new HumanMessage(question)];

    it.each([
      ["an OpenAI tool", sumTool],
      ["a Runnable as tool", RunnableLambda.from(() => "5").asTool({ name: "add", schema: sumSchema })],
      ["parameters of a tool alone", { name: "add", description: "Adds two numbers", schema: sumSchema }],
      ["a LangChain tool", tool(() => "5", { name: "add", description: "Adds two numbers", schema: sumSchema })],
    ])("calls %s", async (_, given) => {
      expectSum(await withTool(given).invoke(asked));
    });

    it("streams a call of a tool, with usage", async () => {
      const whole = joined(await collect(await withTool(sumTool).stream(asked)));
      expectSum(whole);
      expectUsage(whole.usage_metadata);
    });

    it.each(["invoke", "stream"])("goes on after a tool's answer, by %s", async (how) => {
      const ask = async (messages: BaseMessage[], model = withTool(sumTool)) =>
        how === "invoke" ? model.invoke(messages) : joined(await collect(await model.stream(messages)));
      const call = await ask(asked);
      expectSum(call);
      const result = new ToolMessage({ content: "5", tool_call_id: call.tool_calls![0]!.id!, name: "add" });
      const answer = await ask([...asked, call, result], withTool(sumTool, callsAreForced ? "none" : "auto"));
      expectText(answer);
      expect(answer.tool_calls).toHaveLength(0);
    });

    it("calls a tool with nested arguments", async () => {
      const schema = z.object({ item: z.object({ name: z.string(), count: z.number() }) });
      const order = tool(() => "done", { name: "order", description: "Orders an item", schema });
      const examples = (
        [
          ["apples", 3],
          ["pears", 5],
          ["nuts", 40],
        ] as const
      ).flatMap(([name, count], i) =>
        example(`Order ${count} ${name}.`, [toolCall("order", { item: { name, count } }, `${i}`)], ["done"], "Done."),
      );
      const { tool_calls } = await withTool(order).invoke([...examples, new HumanMessage("Order 7 lemons.")]);
      expect(tool_calls).toHaveLength(1);
      expect(schema.safeParse(tool_calls![0]!.args).success).toBe(true);
    });

    it.skipIf(callsAreForced)("calls a tool twice in one answer", async () => {
      const examples = [
        [1, 2, 3, 4],
        [4, 5, 6, 1],
        [2, 7, 8, 8],
      ].flatMap(([a, b, c, d]) =>
        example(
          `What is ${a} + ${b}, and what is ${c} + ${d}?`,
          [sumCall(a!, b!, `${a}${b}`), sumCall(c!, d!, `${c}${d}`)],
          [`${a! + b!}`, `${c! + d!}`],
          `They are ${a! + b!} and ${c! + d!}.`,
        ),
      );
      const asked = new HumanMessage("What is 2 + 3, and what is 9 + 4?");
      const { tool_calls = [] } = await withTool(sumTool).invoke([...examples, asked]);
      expect(tool_calls.map(({ name }) => name)).toEqual(["add", "add"]);
      expect(new Set(tool_calls.map(({ id }) => id)).size).toBe(2);
    });

    const written = [
      ...[
        [1, 2],
        [4, 5],
        [20, 7],
      ].flatMap(([a, b]) => [new HumanMessage(`What is ${a} + ${b}?`), new AIMessage(JSON.stringify({ a, b }))]),
      new HumanMessage(question),
    ];

    it("gives structured output by jsonSchema", async () => {
      const value = await chat().withStructuredOutput(sumSchema).invoke(written);
      expect(sumSchema.safeParse(value).success).toBe(true);
    });

    it.skipIf(callsAreForced)("gives structured output by jsonMode", async () => {
      const value = await chat().withStructuredOutput(sumSchema, { method: "jsonMode" }).invoke(written);
      expect(sumSchema.safeParse(value).success).toBe(true);
    });

    it("gives structured output by functionCalling", async () => {
      const model = chat().withStructuredOutput(sumSchema, { method: "functionCalling", name: "add" });
      expect(sumSchema.safeParse(await model.invoke(asked)).success).toBe(true);
    });

    it("gives structured output with the message", async () => {
      const { raw, parsed } = await chat().withStructuredOutput(sumParameters, { includeRaw: true }).invoke(written);
      expect(AIMessage.isInstance(raw)).toBe(true);
      expect(sumSchema.safeParse(parsed).success).toBe(true);
    });
  });
}

/** Three turns in which `add` was called. A model that was not trained on tools follows examples. */
function sumExamples(): BaseMessage[] {
  return [
    [1, 2],
    [4, 5],
    [20, 7],
  ].flatMap(([a, b]) =>
    example(`What is ${a} + ${b}?`, [sumCall(a!, b!, `${a}`)], [`${a! + b!}`], `The sum is ${a! + b!}.`),
  );
}

function example(asked: string, tool_calls: ToolCall[], results: string[], answer: string): BaseMessage[] {
  return [
    new HumanMessage(asked),
    new AIMessage({ content: "", tool_calls }),
    ...results.map((content, i) => new ToolMessage({ content, tool_call_id: tool_calls[i]!.id! })),
    new AIMessage(answer),
  ];
}

function toolCall(name: string, args: Record<string, unknown>, id: string): ToolCall {
  return { name, args, id, type: "tool_call" };
}

function sumCall(a: number, b: number, id: string): ToolCall {
  return toolCall("add", { a, b }, id);
}

function joined(chunks: AIMessageChunk[]): AIMessageChunk {
  return chunks.reduce((a, b) => concat(a, b));
}

function expectText({ text }: { text: string }): void {
  expect(text.length).toBeGreaterThan(0);
}

function expectUsage(usage: UsageMetadata | undefined): void {
  expect(usage).toBeDefined();
  const { input_tokens, output_tokens, total_tokens } = usage!;
  expect(input_tokens).toBeGreaterThan(0);
  expect(output_tokens).toBeGreaterThan(0);
  expect(total_tokens).toBe(input_tokens + output_tokens);
}
