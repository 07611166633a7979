/**
 * An answer as content-block events. Core's bridge from chunks would lose the response's metadata, log-probabilities and
 * finish reason.
 */
import type { DecodedToken } from "@deftree/engine";
import type { ChatModelStreamEvent, FinishReason } from "@langchain/core/language_models/event";
import type { ToolCall } from "@langchain/core/messages";
import { type Answer, type AnswerPart, isLastPart } from "./chat-answer.js";
import type { ChatCall } from "./chat-call.js";
import { abortError } from "./chat-messages.js";

/** @throws ModelAbortError with the text so far when the call's signal was aborted. */
export async function* answerEvents(
  parts: AsyncIterable<AnswerPart>,
  call: ChatCall,
): AsyncGenerator<ChatModelStreamEvent> {
  const { signal } = call.options;
  const tokens: DecodedToken[] = [];
  let text = "";
  yield { event: "message-start" };
  for await (const part of parts) {
    if (signal?.aborted) throw abortError(text, { result: await call.decoding }, call);
    if (part.text !== "") {
      if (text === "") yield { event: "content-block-start", index: 0, content: { type: "text", text: "" } };
      text += part.text;
      yield { event: "content-block-delta", index: 0, delta: { type: "text-delta", text: part.text } };
    }
    tokens.push(...part.tokens);
    if (!isLastPart(part)) continue;
    if (text !== "") yield { event: "content-block-finish", index: 0, content: { type: "text", text } };
    for (const [index, toolCall] of part.toolCalls.entries()) yield* toolCallEvents(toolCall, index);
    yield {
      event: "message-finish",
      reason: reasonOf(part),
      usage: call.usage(part.result),
      responseMetadata: { ...call.logprobs(tokens), ...call.metadata(part.result) },
    };
  }
}

function* toolCallEvents({ id, name, args }: ToolCall, index: number): Generator<ChatModelStreamEvent> {
  yield { event: "content-block-start", index, content: { type: "tool_call_chunk", id, name, args: "", index } };
  yield { event: "content-block-delta", index, delta: { type: "tool-call-delta", args: JSON.stringify(args) } };
  yield { event: "content-block-finish", index, content: { type: "tool_call", id, name, args } };
}

function reasonOf({ toolCalls, result }: Answer): FinishReason {
  if (toolCalls.length > 0) return "tool_use";
  return result.finishReason === "length" ? "length" : "stop";
}
