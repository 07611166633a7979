/**
 * Tools by prompt: the tools' schemas go into the system turn, and an answer that is one JSON object naming a tool is a
 * call. Nothing forces the model to write one, so `tool_choice` is a request in words.
 */
import type { ToolDefinition } from "@langchain/core/language_models/base";
import type { ToolCall } from "@langchain/core/messages";

export function renderToolPrompt(tools: readonly ToolDefinition[], choice: string = "auto"): string | undefined {
  if (tools.length === 0 || choice === "none") return undefined;
  const schemas = tools.map((tool) => JSON.stringify(tool.function)).join("\n");
  return [
    "You can call these functions:",
    schemas,
    `To call one, answer with a JSON object and nothing else: {"name": "<function>", "parameters": {<arguments>}}`,
    requestOf(choice),
  ].join("\n");
}

function requestOf(choice: string): string {
  if (choice === "auto") return "Answer in plain text when no function is needed.";
  if (choice === "any" || choice === "required") return "Call one of the functions.";
  return `Call the function "${choice}".`;
}

/** Calls of an earlier assistant turn, as the model is asked to write them. */
export function renderToolCalls(calls: readonly ToolCall[]): string {
  return calls.map(({ name, args }) => JSON.stringify({ name, parameters: args })).join("\n");
}

/** True while `text` may still become a tool call. */
export function mayBeToolCall(text: string): boolean {
  const start = text.trimStart();
  return start === "" || start.startsWith("{");
}

/** The call that `text` is, when it is one JSON object with the name of one of `tools` and its arguments. */
export function parseToolCall(text: string, tools: readonly ToolDefinition[], id: string): ToolCall | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (!isRecord(value)) return undefined;
  const { name } = value;
  const args = value.parameters ?? value.arguments ?? {};
  if (!isRecord(args) || !tools.some((tool) => tool.function.name === name)) return undefined;
  return { name: name as string, args, id, type: "tool_call" };
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
