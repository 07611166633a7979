/**
 * A search's model over any LangChain chat model. There is no KV to share: each thought is a call with the prompt and, as
 * the beginning of an assistant message, the answer so far. Models that do not continue such a message suit `reprompt`.
 */
import type {
  DecodedThought,
  KvUsage,
  PromptMessage,
  ThoughtBranch,
  ThoughtDecodeOptions,
  ThoughtModel,
  TokenUsage,
} from "@deftree/search";
import type { BaseChatModel, BaseChatModelCallOptions } from "@langchain/core/language_models/chat_models";
import {
  AIMessage,
  type AIMessageChunk,
  type BaseMessage,
  HumanMessage,
  SystemMessage,
} from "@langchain/core/messages";

/** Keeps inner calls out of LangGraph's message streams. */
const tags = ["nostream"];

export class ChatThoughtModel implements ThoughtModel {
  readonly name: string;

  constructor(private readonly chat: BaseChatModel) {
    this.name = chat.getName();
  }

  async open(prompt: readonly PromptMessage[]): Promise<ThoughtBranch> {
    return new ChatThoughtBranch(this.chat, prompt.map(toMessage), "");
  }

  usage(): KvUsage {
    return { kvBytesRead: 0, kvBytesUnshared: 0 };
  }
}

class ChatThoughtBranch implements ThoughtBranch {
  readonly usage: TokenUsage = { generatedTokens: 0, promptTokens: 0, prefilledTokens: 0 };
  #answer: string;

  constructor(
    private readonly chat: BaseChatModel,
    private readonly prompt: readonly BaseMessage[],
    answer: string,
  ) {
    this.#answer = answer;
  }

  fork(n: number): ThoughtBranch[] {
    return Array.from({ length: n }, () => new ChatThoughtBranch(this.chat, this.prompt, this.#answer));
  }

  async extend(content: string | readonly number[]): Promise<void> {
    if (typeof content !== "string") throw new TypeError("a chat model has no token ids");
    this.#answer += content;
  }

  async decode(options: ThoughtDecodeOptions): Promise<DecodedThought> {
    const { onText, signal } = options;
    const messages = this.#answer === "" ? [...this.prompt] : [...this.prompt, new AIMessage(this.#answer)];
    let message: AIMessageChunk;
    try {
      message = await this.chat.invoke(messages, callOptions(options));
    } catch (error) {
      if (signal?.aborted) return { text: "", tokens: 0, finishReason: "aborted", ended: false };
      throw error;
    }
    const { text } = message;
    const tokens = this.#book(message);
    const finishReason = message.response_metadata.finish_reason === "length" ? "length" : "stop";
    const stops = options.stop ?? [];
    const ended = finishReason === "stop" && (stops.length === 0 || text === "");
    // Chat models do not say which stop string they met; where only one was asked for, it was that.
    const stopString = finishReason === "stop" && !ended && stops.length === 1 ? stops[0] : undefined;
    this.#answer += text + (stopString ?? "");
    if (text !== "" && onText?.(text, tokens) === false) return { text, tokens, finishReason: "cut", ended: false };
    return { text, tokens, finishReason, stopString, ended };
  }

  release(): void {}

  /** Books the call's usage and returns its generated tokens; a model that tells none counts as none. */
  #book({ usage_metadata: usage }: AIMessageChunk): number {
    if (usage === undefined) return 0;
    this.usage.generatedTokens += usage.output_tokens;
    this.usage.promptTokens += usage.input_tokens;
    this.usage.prefilledTokens += usage.input_tokens - (usage.input_token_details?.cache_read ?? 0);
    return usage.output_tokens;
  }
}

/** Integrations read what they know of these; both spellings are in use. */
function callOptions({ onText: _, ...options }: ThoughtDecodeOptions): BaseChatModelCallOptions {
  const { maxTokens, topK, topP, minP, stop, signal, temperature, seed } = options;
  const call = {
    tags,
    signal,
    stop,
    temperature,
    seed,
    maxTokens,
    max_tokens: maxTokens,
    topK,
    topP,
    top_p: topP,
    minP,
  };
  return call as BaseChatModelCallOptions;
}

function toMessage({ role, content }: PromptMessage): BaseMessage {
  if (role === "system") return new SystemMessage(content);
  return role === "assistant" ? new AIMessage(content) : new HumanMessage(content);
}
