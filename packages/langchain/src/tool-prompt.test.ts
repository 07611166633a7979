import type { ToolDefinition } from "@langchain/core/language_models/base";
import { RunnableLambda } from "@langchain/core/runnables";
import { tool } from "@langchain/core/tools";
import { describe, expect, it } from "vitest";
import { z } from "zod";
import { toToolDefinition } from "./tool-definition.js";
import { mayBeToolCall, parseToolCalls, readToolChoice, renderToolCalls, renderToolPrompt } from "./tool-prompt.js";

const named = (name: string): ToolDefinition => ({ type: "function", function: { name, parameters: {} } });
const tools = [named("add"), named("subtract")];

describe("tool_choice", () => {
  it.each([
    [undefined, "auto"],
    ["auto", "auto"],
    ["any", "any"],
    ["required", "any"],
    ["none", "none"],
    ["add", "add"],
    [{ type: "any" }, "any"],
    [{ type: "tool", name: "add" }, "add"],
    [{ type: "function", function: { name: "subtract" } }, "subtract"],
  ])("reads %o", (choice, request) => {
    expect(readToolChoice(choice, tools)).toBe(request);
  });

  it("refuses a name that no tool has, and a call without tools", () => {
    expect(() => readToolChoice("multiply", tools)).toThrow(/"multiply" names no tool; there are add, subtract/);
    expect(() => readToolChoice({ type: "image" }, tools)).toThrow(/names no tool/);
    expect(() => readToolChoice("any", [])).toThrow(/without tools/);
    expect(readToolChoice("none", [])).toBe("none");
  });

  it("is a request in words, and the schemas before it stay the same", () => {
    const prompts = ["auto", "any", "add"].map((choice) => renderToolPrompt(tools, choice)!);
    expect(new Set(prompts).size).toBe(3);
    const beginnings = prompts.map((prompt) => prompt.slice(0, prompt.lastIndexOf("\n")));
    expect(new Set(beginnings).size).toBe(1);
    expect(renderToolPrompt(tools, "none")).toBeUndefined();
    expect(renderToolPrompt([], "auto")).toBeUndefined();
  });
});

describe("calls in an answer", () => {
  const add = { name: "add", args: { a: 1 } };
  const subtract = { name: "subtract", args: {} };
  const addJson = '{"name": "add", "parameters": {"a": 1}}';

  it.each([
    ["one object", addJson, [add]],
    ["'arguments' for 'parameters'", '{"name":"add","arguments":{"a":1}}', [add]],
    ["several lines", `${addJson}\n{"name": "subtract"}`, [add, subtract]],
    ["a list", `[${addJson}, {"name": "subtract"}]`, [add, subtract]],
    ["a fence", `\`\`\`json\n${addJson}\n\`\`\``, [add]],
    ["a fence without language", `\`\`\`\n${addJson}\n\`\`\``, [add]],
  ])("are read from %s", (_, text, calls) => {
    expect(parseToolCalls(text, tools)).toMatchObject(calls);
    for (let length = 0; length <= text.length; length++) expect(mayBeToolCall(text.slice(0, length))).toBe(true);
  });

  it.each(["plain text", "[1, 2]", "```js\n1", '{"name": "multiply"}', `${addJson}\nand text`, '{"name": "add"', "[]"])(
    "are not read from %s",
    (text) => {
      expect(parseToolCalls(text, tools)).toEqual([]);
    },
  );

  it.each(["plain text", "[1", "```js\n", " Yes"])("cannot begin with %s", (text) => {
    expect(mayBeToolCall(text)).toBe(false);
  });

  it("have ids of their own, and are read as they are rendered", () => {
    const calls = parseToolCalls(`${addJson}\n${addJson}`, tools);
    expect(new Set(calls.map(({ id }) => id)).size).toBe(2);
    expect(parseToolCalls(renderToolCalls(calls), tools)).toMatchObject([add, add]);
  });
});

describe("tools to bind", () => {
  const parameters = { type: "object", properties: { a: { type: "number" } }, required: ["a"] };
  const schema = z.object({ a: z.number() });
  it.each([
    ["a LangChain tool", tool(() => "", { name: "add", description: "adds", schema })],
    ["its parameters alone", { name: "add", description: "adds", schema }],
    ["a Runnable", RunnableLambda.from(() => "").asTool({ name: "add", description: "adds", schema })],
    ["an OpenAI tool", { type: "function", function: { name: "add", description: "adds", parameters } }],
    ["an Anthropic tool", { name: "add", description: "adds", input_schema: parameters }],
  ])("may be %s", (_, given) => {
    const { type, function: definition } = toToolDefinition(given);
    expect({ type, ...definition }).toMatchObject({ type: "function", name: "add", description: "adds", parameters });
  });

  it("are nothing else", () => {
    expect(() => toToolDefinition({ add: true })).toThrow(/A tool is/);
  });
});
