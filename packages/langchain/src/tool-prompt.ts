/**
 * Tools by prompt: the tools' schemas go into the system turn, and an answer that is nothing but JSON objects naming tools
 * is a call, or several. Where `tool_choice` forces a call, the answer is kept to one as well (tool-constraint.ts).
 */
import { DeftreeError } from "@deftree/engine";
import type { ToolDefinition } from "@langchain/core/language_models/base";
import type { ToolChoice } from "@langchain/core/language_models/chat_models";
import type { ToolCall } from "@langchain/core/messages";
import { isRecord, parseJson, parseJsonLines } from "./json-text.js";

/** `auto`, `any`, `none`, or the name of a tool. */
export type ToolRequest = string;

/**
 * The spellings in use: `"auto"`, `"any"`, `"required"`, `"none"`, a name, `{ type: "any" }`, `{ type: "tool", name }`,
 * `{ type: "function", function: { name } }`.
 * @throws DeftreeError E_BAD_ARGUMENT for a name that is no tool's.
 */
export function readToolChoice(choice: ToolChoice | undefined, tools: readonly ToolDefinition[]): ToolRequest {
  if (choice === undefined) return "auto";
  const given = typeof choice === "string" ? choice : (choice.function?.name ?? choice.name ?? choice.type);
  const name = given === "required" ? "any" : given;
  if (name === "auto" || name === "none") return name;
  if (tools.length === 0) {
    throw new DeftreeError("E_BAD_ARGUMENT", `tool_choice ${JSON.stringify(choice)} was given without tools`);
  }
  if (name === "any" || tools.some((tool) => tool.function.name === name)) return name;
  const known = tools.map((tool) => tool.function.name).join(", ");
  throw new DeftreeError("E_BAD_ARGUMENT", `tool_choice ${JSON.stringify(choice)} names no tool; there are ${known}`);
}

export function renderToolPrompt(tools: readonly ToolDefinition[], choice: ToolRequest): string | undefined {
  if (tools.length === 0 || choice === "none") return undefined;
  const schemas = tools.map((tool) => JSON.stringify(tool.function)).join("\n");
  return [
    "You can call these functions:",
    schemas,
    `To call one, answer with a JSON object and nothing else: {"name": "<function>", "parameters": {<arguments>}}`,
    "To call several, write one such object a line.",
    requestOf(choice),
  ].join("\n");
}

function requestOf(choice: ToolRequest): string {
  if (choice === "auto") return "Answer in plain text when no function is needed.";
  if (choice === "any") return "Call one of the functions.";
  return `Call the function "${choice}".`;
}

/** Calls of an earlier assistant turn, as the model is asked to write them. */
export function renderToolCalls(calls: readonly ToolCall[]): string {
  return calls.map(({ name, args }) => JSON.stringify({ name, parameters: args })).join("\n");
}

/** True while `text` may still become tool calls: one object, several, a list of them, any of it in a Markdown fence. */
export function mayBeToolCall(text: string): boolean {
  return beginningOfCalls.test(text.trimStart());
}

const beginningOfCalls = /^(\{[\s\S]*|\[\s*(\{[\s\S]*)?|`{1,2}|```(j|js|jso)?|```(json)?\s*([{[][\s\S]*)?)?$/;

/** The calls that `text` is, when it is nothing but JSON objects with the name of one of `tools` and its arguments. */
export function parseToolCalls(text: string, tools: readonly ToolDefinition[]): ToolCall[] {
  const value = parseJson(text) ?? parseJsonLines(text);
  const calls = (Array.isArray(value) ? value : [value]).map((call) => parseToolCall(call, tools));
  return calls.every((call) => call !== undefined) ? calls : [];
}

function parseToolCall(value: unknown, tools: readonly ToolDefinition[]): ToolCall | undefined {
  if (!isRecord(value)) return undefined;
  const { name } = value;
  const args = value.parameters ?? value.arguments ?? {};
  if (!isRecord(args) || !tools.some((tool) => tool.function.name === name)) return undefined;
  return { name: name as string, args, id: `call_${crypto.randomUUID()}`, type: "tool_call" };
}
