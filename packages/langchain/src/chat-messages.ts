/** Decoded text as LangChain messages and chunks. */
import type { DecodeResult } from "@deftree/engine";
import { ModelAbortError } from "@langchain/core/errors";
import type { ToolDefinition } from "@langchain/core/language_models/base";
import { AIMessageChunk, type ToolCall } from "@langchain/core/messages";
import { ChatGenerationChunk } from "@langchain/core/outputs";
import type { ChatCall } from "./chat-call.js";
import { parseToolCall } from "./tool-prompt.js";

interface Content {
  content: string;
  tool_calls?: ToolCall[];
}

/** An answer's text, or the tool call that it is. */
export function contentOf(text: string, tools: readonly ToolDefinition[]): Content {
  const call = tools.length > 0 ? parseToolCall(text, tools, `call_${crypto.randomUUID()}`) : undefined;
  return call === undefined ? { content: text } : { content: "", tool_calls: [call] };
}

export function textChunk(text: string, generationInfo?: Record<string, unknown>): ChatGenerationChunk {
  return new ChatGenerationChunk({ text, message: new AIMessageChunk({ content: text }), generationInfo });
}

export function lastChunk(rest: Content, result: DecodeResult, call: ChatCall): ChatGenerationChunk {
  const message = new AIMessageChunk({
    content: rest.content,
    tool_call_chunks: rest.tool_calls?.map(({ name, args, id }, index) => ({
      name,
      args: JSON.stringify(args),
      id,
      index,
      type: "tool_call_chunk" as const,
    })),
    usage_metadata: call.usage(result),
    response_metadata: call.metadata(result),
  });
  return new ChatGenerationChunk({ text: rest.content, message });
}

export function abortError(result: DecodeResult, call: ChatCall): ModelAbortError {
  const partial = new AIMessageChunk({
    content: result.text,
    usage_metadata: call.usage(result),
    response_metadata: call.metadata(result),
  });
  return new ModelAbortError("the call was aborted", partial);
}
