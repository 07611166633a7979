/**
 * Schemas and forced tool calls on the real engine: `mini` knows neither JSON nor tools, and at temperature 1.5 it writes
 * whatever it may.
 */
import { InMemoryCache } from "@langchain/core/caches";
import { AIMessageChunk, type BaseMessage } from "@langchain/core/messages";
import { tool } from "@langchain/core/tools";
import { concat } from "@langchain/core/utils/stream";
import { createAgent, providerStrategy, toolStrategy } from "langchain";
import { afterAll, describe, expect, it } from "vitest";
import { z } from "zod";
import { z as z3 } from "zod/v3";
import { ChatDeftree } from "../src/index.js";
import { collect } from "./collect.js";

const chat = new ChatDeftree({ model: "mini", temperature: 1.5, seed: 1, maxTokens: 200 });
afterAll(() => chat.dispose());
const withSeed = (seed: number) => new ChatDeftree({ model: "mini", temperature: 1.5, seed, maxTokens: 200 });
const seeds = [1, 2, 3, 4, 5, 6];

const person = z.object({
  name: z.string().min(1).max(12),
  age: z.int().min(0).max(130),
  email: z.email().optional(),
  tags: z.array(z.enum(["new", "old"])).max(3),
  pet: z.discriminatedUnion("kind", [
    z.object({ kind: z.literal("cat"), lives: z.number().gte(1).lte(9) }),
    z.object({ kind: z.literal("dog"), name: z.string().regex(/^[A-Z][a-z]+$/) }),
  ]),
});
const person3 = z3.object({
  name: z3.string().max(12),
  age: z3.number().int().min(0).max(130),
  mail: z3.string().email(),
});
interface Category {
  name: string;
  children: Category[];
}
const category: z.ZodType<Category> = z.object({
  name: z.string().max(5),
  get children() {
    return z.array(category).max(2);
  },
});

describe("withStructuredOutput on mini", () => {
  it.each([
    ["Zod 4", person],
    ["Zod 3", person3],
    ["a recursive schema", category],
  ])("gives a value of %s every time", async (_, schema) => {
    for (const method of ["jsonSchema", "functionCalling"] as const) {
      const structured = seeds.map((seed) => withSeed(seed).withStructuredOutput(schema, { method }));
      const values = await Promise.all(structured.map((model) => model.invoke("Who is it?")));
      for (const value of values) expect(schema.safeParse(value).error).toBeUndefined();
      expect(new Set(values.map((value) => JSON.stringify(value))).size).toBeGreaterThan(1);
    }
  });

  it("gives an object by jsonMode", async () => {
    const schema = { type: "object" };
    const values = seeds.map((seed) => withSeed(seed).withStructuredOutput(schema, { method: "jsonMode" }).invoke("?"));
    for (const value of await Promise.all(values)) expect(typeof value).toBe("object");
  });

  it("tells answers of different schemas apart in a cache", async () => {
    const cached = new ChatDeftree({ model: "mini", cache: new InMemoryCache() });
    const choices = (...list: string[]) => cached.withConfig({ constraint: { jsonSchema: { enum: list } } });
    expect((await choices("a", "b").invoke("?")).text).toMatch(/^"[ab]"$/);
    expect((await choices("c", "d").invoke("?")).text).toMatch(/^"[cd]"$/);
    const digits = new ChatDeftree({ model: "mini", cache: cached.cache, constraint: { regex: "\\d{3}" } });
    expect((await digits.invoke("?")).text).toMatch(/^\d{3}$/);
    expect((await cached.invoke("?")).text).not.toMatch(/^\d{3}$/);
  });

  it("refuses a regular expression that a cache could not write down", () => {
    const constraint = { regex: /a/ } as unknown as { regex: string };
    expect(() => new ChatDeftree({ model: "mini", constraint })).toThrow(/constraint.regex is a string/);
  });
});

const add = tool(({ a, b }) => String(a + b), {
  name: "add",
  description: "adds",
  schema: z.object({ a: z.int().min(0).max(99), b: z.int().min(0).max(99) }),
});
const grow = tool(async () => "grown", { name: "grow", description: "grows", schema: z.object({ of: category }) });

describe("bindTools on mini", () => {
  it.each(["any", "required", "grow", { type: "function", function: { name: "grow" } }])(
    "forces a call by tool_choice %j",
    async (tool_choice) => {
      const answers = seeds.map((seed) => withSeed(seed).bindTools([add, grow], { tool_choice }).invoke("Do it"));
      const calls = (await Promise.all(answers)).map(({ tool_calls = [] }) => tool_calls);
      for (const [call, ...others] of calls) {
        expect(others).toEqual([]);
        const { schema } = [add, grow].find(({ name }) => name === call?.name)!;
        expect(schema.safeParse(call!.args).error).toBeUndefined();
      }
      if (tool_choice !== "any" && tool_choice !== "required") {
        expect(calls.every(([call]) => call!.name === "grow")).toBe(true);
      }
    },
  );

  it("forces nothing by auto", async () => {
    const [auto, plain] = [chat.bindTools([add], { tool_choice: "auto" }), chat.bindTools([add])];
    expect((await auto.invoke("Do it")).text).toBe((await plain.invoke("Do it")).text);
    expect((await auto.invoke("Do it")).tool_calls).toEqual([]);
  });

  it("streams a forced call, with log-probabilities and top-k", async () => {
    const model = chat.bindTools([add], { tool_choice: "any", logprobs: true, topLogprobs: 2, topK: 3 });
    const whole = (await collect(await model.stream("Do it"))).reduce((a, b) => concat(a, b), new AIMessageChunk(""));
    expect(add.schema.safeParse(whole.tool_calls![0]!.args).success).toBe(true);
    const { content } = whole.response_metadata.logprobs as { content: { logprob: number }[] };
    expect(content).toHaveLength(whole.usage_metadata!.output_tokens);
  });

  it("draws several forced calls from one prompt", async () => {
    const { generations } = await chat.generate([["Do it"].map((text) => ({ role: "user", content: text }) as never)], {
      n: 3,
      tools: [{ type: "function", function: { name: "add", parameters: z.toJSONSchema(add.schema) } }],
      tool_choice: "any",
    } as never);
    const messages = generations[0]!.map((generation) => (generation as unknown as { message: BaseMessage }).message);
    expect(messages).toHaveLength(3);
    for (const message of messages) expect((message as { tool_calls?: unknown[] }).tool_calls).toHaveLength(1);
  });

  it("says which tool's schema cannot be forced", async () => {
    const set = { type: "object", properties: { ids: { type: "array", uniqueItems: true } } };
    const definition = (strict?: boolean) => ({
      type: "function",
      function: { name: "pick", parameters: set, strict },
    });
    const forced = (strict?: boolean) =>
      chat.bindTools([definition(strict) as never], { tool_choice: "pick" }).invoke("?");
    await expect(forced()).rejects.toMatchObject({
      code: "E_BAD_ARGUMENT",
      message: expect.stringContaining("/anyOf/0/properties/parameters/properties/ids/uniqueItems: that items differ"),
    });
    expect((await forced(false)).tool_calls).toMatchObject([{ name: "pick" }]);
  });
});

describe("createAgent on mini", () => {
  const mood = z.object({ mood: z.enum(["good", "bad"]), score: z.number().gt(0).lte(1) });
  const ask = { messages: [{ role: "user", content: "How is it?" }] };
  it.each([
    ["its profile", mood],
    ["providerStrategy", providerStrategy(mood)],
    ["toolStrategy", toolStrategy(mood)],
  ])("gives a structured response by %s", async (_, responseFormat) => {
    const agent = createAgent({ model: chat, tools: [], responseFormat: responseFormat as typeof mood });
    const { structuredResponse } = await agent.invoke(ask);
    expect(mood.safeParse(structuredResponse).error).toBeUndefined();
  });
});
