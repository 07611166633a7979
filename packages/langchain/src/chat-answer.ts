/** What a call decodes, read as text and tool calls. */
import type { DecodedToken, DecodeResult } from "@deftree/engine";
import type { ToolDefinition } from "@langchain/core/language_models/base";
import type { ToolCall } from "@langchain/core/messages";
import type { ChatCall } from "./chat-call.js";
import { mayBeToolCall, parseToolCalls } from "./tool-prompt.js";

/** A whole answer: its text, or the tool calls that the text is. */
export interface Answer {
  text: string;
  toolCalls: ToolCall[];
  /** All decoded tokens; empty unless log-probabilities are wanted. */
  tokens: DecodedToken[];
  result: DecodeResult;
}

/** The next piece of text, with its tokens; the last part holds what is left, and how it ended. */
export type AnswerPart = { text: string; tokens: DecodedToken[] } | (Answer & { result: DecodeResult });

export function isLastPart(part: AnswerPart): part is Answer {
  return "result" in part;
}

export async function wholeAnswer(call: ChatCall, tools: readonly ToolDefinition[]): Promise<Answer> {
  const tokens: DecodedToken[] = [];
  if (call.wantsLogprobs) for await (const token of call.decoding) tokens.push(token);
  const result = await call.decoding;
  return { ...readText(result.text, tools), tokens, result };
}

/** The answer as it is decoded. What may be a tool call is held back until it is known to be one or not. */
export async function* answerParts(call: ChatCall, tools: readonly ToolDefinition[]): AsyncGenerator<AnswerPart> {
  let written = 0;
  let held = "";
  let tokens: DecodedToken[] = [];
  for await (const token of call.decoding) {
    held += token.text;
    if (call.wantsLogprobs) tokens.push(token);
    if (held === "" || (tools.length > 0 && written === 0 && mayBeToolCall(held))) continue;
    yield { text: held, tokens };
    written += held.length;
    held = "";
    tokens = [];
  }
  const result = await call.decoding;
  yield { ...readText(result.text.slice(written), written === 0 ? tools : []), tokens, result };
}

function readText(text: string, tools: readonly ToolDefinition[]): { text: string; toolCalls: ToolCall[] } {
  const toolCalls = tools.length > 0 ? parseToolCalls(text, tools) : [];
  return { text: toolCalls.length > 0 ? "" : text, toolCalls };
}
