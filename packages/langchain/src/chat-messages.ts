/** Answers as LangChain messages and chunks. */
import { ModelAbortError } from "@langchain/core/errors";
import { AIMessage, AIMessageChunk, type ToolCall } from "@langchain/core/messages";
import { type ChatGeneration, ChatGenerationChunk } from "@langchain/core/outputs";
import { type Answer, type AnswerPart, isLastPart } from "./chat-answer.js";
import type { ChatCall } from "./chat-call.js";

export function generationOf({ text, toolCalls, tokens, result }: Answer, call: ChatCall): ChatGeneration {
  const logprobs = call.logprobs(tokens);
  const message = new AIMessage({
    content: text,
    tool_calls: toolCalls,
    usage_metadata: call.usage(result),
    response_metadata: { ...logprobs, ...call.metadata(result) },
  });
  return { text, message, generationInfo: { finish_reason: result.finishReason, ...logprobs } };
}

/** Usage and metadata stand in the last chunk only: LangChain adds up those of all chunks. */
export function chunkOf(part: AnswerPart, call: ChatCall): ChatGenerationChunk {
  const logprobs = part.tokens.length > 0 ? call.logprobs(part.tokens) : {};
  const message = isLastPart(part)
    ? new AIMessageChunk({
        content: part.text,
        tool_call_chunks: part.toolCalls.map(toChunk),
        usage_metadata: call.usage(part.result),
        response_metadata: { ...logprobs, ...call.metadata(part.result) },
      })
    : new AIMessageChunk({ content: part.text, response_metadata: logprobs });
  return new ChatGenerationChunk({ text: part.text, message, generationInfo: logprobs });
}

function toChunk({ name, args, id }: ToolCall, index: number) {
  return { name, args: JSON.stringify(args), id, index, type: "tool_call_chunk" as const };
}

/** @param text what was written until then. */
export function abortError(text: string, { result }: Pick<Answer, "result">, call: ChatCall): ModelAbortError {
  const partial = new AIMessageChunk({
    content: text,
    usage_metadata: call.usage(result),
    response_metadata: call.metadata(result),
  });
  return new ModelAbortError("the call was aborted", partial);
}
