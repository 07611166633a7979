import { OutputParserException } from "@langchain/core/output_parsers";
import type { SerializableSchema } from "@langchain/core/utils/standard_schema";
import { createAgent, toolStrategy } from "langchain";
import { describe, expect, it } from "vitest";
import { z } from "zod";
import { z as z3 } from "zod/v3";
import { FakeEngine } from "../test/fake-engine.js";
import { ChatDeftree } from "./index.js";

interface Person {
  name: string;
  age: number;
}

const zod4 = z.object({ name: z.string(), age: z.number() }).describe("a person");
const zod3 = z3.object({ name: z3.string(), age: z3.number() });
const jsonSchema = {
  type: "object",
  properties: { name: { type: "string" }, age: { type: "number" } },
  required: ["name", "age"],
};
/** Of no library: what the Standard Schema interface asks for, and nothing else. */
const standard: SerializableSchema<Person> = {
  "~standard": {
    version: 1,
    vendor: "by hand",
    validate: (value) =>
      typeof (value as Person).age === "number"
        ? { value: value as Person }
        : { issues: [{ message: "is no number", path: ["age"] }] },
    jsonSchema: { input: () => jsonSchema, output: () => jsonSchema },
  },
};

const ada = { name: "Ada", age: 36 };
const answering = (reply: string) => {
  const seen: string[] = [];
  const engine = new FakeEngine({
    reply: (prompt) => {
      if (seen.at(-1) !== prompt) seen.push(prompt);
      return reply;
    },
  });
  return { chat: new ChatDeftree({ engine }), seen };
};

describe.each([
  ["Zod 4", zod4],
  ["Zod 3", zod3],
  ["a Standard Schema", standard],
  ["a JSON Schema", jsonSchema],
])("withStructuredOutput by %s", (_, schema) => {
  it.each(["jsonSchema", "jsonMode", "functionCalling"])("gives the value by %s", async (method) => {
    const call = { name: "person", parameters: ada };
    const { chat, seen } = answering(JSON.stringify(method === "functionCalling" ? call : ada));
    const structured = chat.withStructuredOutput(schema, { name: "person", method });
    expect(await structured.invoke("Who?")).toEqual(ada);
    expect(seen[0]!.includes('"age"')).toBe(method !== "jsonMode");
    expect(seen[0]).toMatch(/JSON/);
  });

  it("says what does not match, with the answer", async () => {
    const wrong = JSON.stringify({ name: "Ada", age: "old" });
    const error = await answering(wrong)
      .chat.withStructuredOutput(schema)
      .invoke("Who?")
      .catch((error) => error);
    expect(error).toBeInstanceOf(OutputParserException);
    expect(error.message).toMatch(/does not match the schema: \/age: /);
    expect(error.llmOutput).toBe(wrong);
  });

  it("gives the message too, and null for an answer that does not match, with includeRaw", async () => {
    const good = await answering(JSON.stringify(ada))
      .chat.withStructuredOutput(schema, { includeRaw: true })
      .invoke("Who?");
    expect(good.parsed).toEqual(ada);
    expect(good.raw.text).toBe(JSON.stringify(ada));
    const bad = await answering("Ada").chat.withStructuredOutput(schema, { includeRaw: true }).invoke("Who?");
    expect(bad).toMatchObject({ parsed: null, raw: { content: "Ada" } });
  });
});

describe("withStructuredOutput", () => {
  it("is typed by its schema", async () => {
    const { chat } = answering(JSON.stringify(ada));
    const people: Person[] = [
      await chat.withStructuredOutput(zod4).invoke("Who?"),
      await chat.withStructuredOutput(zod3).invoke("Who?"),
      await chat.withStructuredOutput(standard).invoke("Who?"),
      await chat.withStructuredOutput<Person>(jsonSchema).invoke("Who?"),
      (await chat.withStructuredOutput(zod4, { includeRaw: true }).invoke("Who?")).parsed,
    ];
    expect(people).toEqual(Array(5).fill(ada));
  });

  it("reads JSON in a Markdown fence", async () => {
    const { chat } = answering(`\`\`\`json\n${JSON.stringify(ada)}\n\`\`\``);
    expect(await chat.withStructuredOutput(zod4).invoke("Who?")).toEqual(ada);
  });

  it("gives values as the schema makes them", async () => {
    const schema = z.object({ name: z.string().transform((name) => name.toUpperCase()), age: z.number().default(1) });
    const { chat } = answering('{"name": "Ada"}');
    expect(await chat.withStructuredOutput(schema).invoke("Who?")).toEqual({ name: "ADA", age: 1 });
  });

  it("takes an OpenAI function as schema, and its name", async () => {
    const { chat, seen } = answering('{"name": "person", "parameters": {"name": "Ada", "age": 36}}');
    const schema = { name: "person", description: "a person", parameters: jsonSchema };
    expect(await chat.withStructuredOutput(schema, { method: "functionCalling" }).invoke("Who?")).toEqual(ada);
    expect(seen[0]).toContain("a person");
  });

  it("says which answers are no JSON, are cut, or call nothing", async () => {
    const { chat } = answering('{"name": "Ada", "age": 36}');
    const failure = (structured: { invoke(input: string): Promise<unknown> }) =>
      structured.invoke("Who?").then(
        () => "",
        (error: Error) => error.message,
      );
    expect(await failure(answering("It is Ada.").chat.withStructuredOutput(zod4))).toMatch(/is not JSON.*It is Ada\./);
    const engine = new FakeEngine({ reply: () => '{"name": "Ada", "age": 36}' }); // which enforces nothing
    const short = new ChatDeftree({ engine, maxTokens: 10 });
    expect(await failure(short.withStructuredOutput(zod4))).toMatch(/is not JSON \(it was cut at its most tokens\)/);
    expect(await failure(chat.withStructuredOutput(zod4, { method: "functionCalling" }))).toMatch(
      /does not call the function "extract"/,
    );
  });

  it("refuses what it cannot do", () => {
    const { chat } = answering("");
    const code = (make: () => unknown) => {
      try {
        make();
      } catch (error) {
        return (error as { code: string }).code;
      }
      return undefined;
    };
    expect(code(() => chat.withStructuredOutput(zod4, { method: "guessing" }))).toBe("E_BAD_ARGUMENT");
    const { jsonSchema: _, ...validation } = standard["~standard"];
    const withoutJsonSchema = { "~standard": validation };
    expect(code(() => chat.withStructuredOutput(withoutJsonSchema))).toBe("E_BAD_ARGUMENT");
  });

  it("reads a JSON Schema by its own draft, and says where it points at nothing", async () => {
    const pair = { type: "array", items: [{ type: "number" }, { type: "string" }] };
    const old = { $schema: "http://json-schema.org/draft-07/schema#", properties: { pair } };
    const { chat } = answering('{"pair": [1, 2]}');
    await expect(chat.withStructuredOutput(old).invoke("Who?")).rejects.toThrow(/\/pair\/1: /);
    const dangling = { properties: { pair: { $ref: "#/$defs/pair" } } };
    expect(() => chat.withStructuredOutput(dangling)).toThrow(
      /properties\/pair\/\$ref: "#\/\$defs\/pair" points at no/,
    );
    const unchecked = chat.withStructuredOutput(dangling, { strict: false });
    await expect(unchecked.invoke("Who?")).rejects.toMatchObject({ code: "E_BAD_ARGUMENT" });
  });

  it("refuses a schema that cannot be enforced, and says how to go on", async () => {
    const { chat } = answering('["a", "b"]');
    const schema = { type: "array", items: { type: "string" }, uniqueItems: true };
    expect(() => chat.withStructuredOutput(schema)).toThrow(/\/uniqueItems: that items differ.*With `strict: false`/);
    expect(await chat.withStructuredOutput(schema, { strict: false }).invoke("Who?")).toEqual(["a", "b"]);
  });

  it("serves createAgent's responseFormat", async () => {
    const { chat } = answering('{"name": "person", "parameters": {"name": "Ada", "age": 36}}');
    const responseFormat = toolStrategy(zod4.meta({ title: "person" }));
    const agent = createAgent({ model: chat, tools: [], responseFormat });
    const { structuredResponse } = await agent.invoke({ messages: [{ role: "user", content: "Who?" }] });
    expect(structuredResponse).toEqual(ada);
  });
});
