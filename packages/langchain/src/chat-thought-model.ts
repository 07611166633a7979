/**
 * A search's model over any LangChain chat model, of a server too. There is no KV to share: each thought is a call with
 * the prompt and, as the beginning of an assistant message, the answer so far. Models that do not continue such a message
 * suit `reprompt`.
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
import type { BaseChatModel } from "@langchain/core/language_models/chat_models";
import {
  AIMessage,
  type AIMessageChunk,
  type BaseMessage,
  HumanMessage,
  SystemMessage,
} from "@langchain/core/messages";
import { concat } from "@langchain/core/utils/stream";
import { type AnswerEnd, ChatRequests, takeEnd } from "./chat-requests.js";

export interface ChatThoughtModelOptions {
  /**
   * Ask for thoughts that grow side by side from one place in one request, as `n` answers: the server then computes their
   * prompt once. They share the seed of the first, so what they say depends on which of them are asked for together. By
   * default where the chat model has a setting `n`, and not with `stream`.
   */
  joinSiblings?: boolean;
  /**
   * Stream each thought, one request each: its tokens come as they are generated, and cutting a hopeless one ends its
   * request. False by default; thoughts in a format are streamed always.
   */
  stream?: boolean;
  /**
   * Fields of a request that make the server go on with a last assistant message, for ChatOpenAI. vLLM and SGLang take
   * `{ add_generation_prompt: false, continue_final_message: true }`; without, they answer anew.
   */
  continuation?: Record<string, unknown>;
}

export class ChatThoughtModel implements ThoughtModel {
  readonly name: string;
  readonly #requests: ChatRequests;
  readonly #stream: boolean;

  constructor(chat: BaseChatModel, options: ChatThoughtModelOptions = {}) {
    const { stream = false, joinSiblings = !stream && "n" in chat, continuation } = options;
    const { model } = chat as BaseChatModel & { model?: unknown };
    this.name = typeof model === "string" ? `${chat.getName()} ${model}` : chat.getName();
    this.#stream = stream;
    this.#requests = new ChatRequests(chat, joinSiblings, continuation);
  }

  async open(prompt: readonly PromptMessage[]): Promise<ThoughtBranch> {
    return new ChatThoughtBranch(this.#requests, this.#stream, prompt.map(toMessage), "");
  }

  usage(): KvUsage {
    return { kvBytesRead: 0, kvBytesUnshared: 0 };
  }
}

class ChatThoughtBranch implements ThoughtBranch {
  readonly usage: TokenUsage = { generatedTokens: 0, promptTokens: 0, prefilledTokens: 0 };
  #answer: string;

  constructor(
    private readonly requests: ChatRequests,
    private readonly streams: boolean,
    private readonly prompt: readonly BaseMessage[],
    answer: string,
  ) {
    this.#answer = answer;
  }

  fork(n: number): ThoughtBranch[] {
    return Array.from(
      { length: n },
      () => new ChatThoughtBranch(this.requests, this.streams, this.prompt, this.#answer),
    );
  }

  async extend(content: string | readonly number[]): Promise<void> {
    if (typeof content !== "string") throw new TypeError("a chat model has no token ids");
    this.#answer += content;
  }

  async decode(options: ThoughtDecodeOptions): Promise<DecodedThought> {
    try {
      // Of an answer in a format that its length cut, ChatOpenAI gives an error unless it streams.
      return await (this.streams || options.format ? this.#streamed(options) : this.#whole(options));
    } catch (error) {
      if (options.signal?.aborted) return { text: "", tokens: 0, finishReason: "aborted", ended: false };
      throw error;
    }
  }

  /**
   * From the likeliest first tokens that the model tells: a continuation has the probability of those that begin it, or
   * the least of all that were told where none does. So choices should differ in their first token.
   */
  async score(continuations: string[], signal?: AbortSignal): Promise<number[]> {
    const settings = { maxTokens: 1, logprobs: true, topLogprobs: 20 };
    const options = { signal: signal && AbortSignal.any([signal]), tags: ["nostream"] };
    const message = await this.requests.configured(settings).invoke(this.#messages(), options);
    this.#book(message, message.usage_metadata?.output_tokens ?? 0, true);
    const { logprobs } = message.response_metadata as { logprobs?: { content?: { top_logprobs?: TokenLogprob[] }[] } };
    const tokens = logprobs?.content?.[0]?.top_logprobs;
    if (!tokens?.length) throw new TypeError("the chat model gives no log-probabilities");
    const least = Math.min(...tokens.map(({ logprob }) => logprob));
    return continuations.map((text) => {
      const begins = tokens.filter(
        ({ token }) => token.trim() !== "" && text.trimStart().startsWith(token.trimStart()),
      );
      return begins.length === 0 ? least : Math.log(begins.reduce((sum, { logprob }) => sum + Math.exp(logprob), 0));
    });
  }

  release(): void {}

  #messages(): BaseMessage[] {
    return this.#answer === "" ? [...this.prompt] : [...this.prompt, new AIMessage(this.#answer)];
  }

  async #whole(options: ThoughtDecodeOptions): Promise<DecodedThought> {
    const { message, end, tokens, isFirst } = await this.requests.ask(this.#messages(), options);
    this.#book(message, tokens, isFirst);
    const decoded = this.#finish(message, this.#withoutEcho(message.text, end), end, tokens, options);
    const isCut = decoded.text !== "" && options.onText?.(decoded.text, tokens) === false;
    return isCut ? { text: decoded.text, tokens, finishReason: "cut", ended: false } : decoded;
  }

  async #streamed(options: ThoughtDecodeOptions): Promise<DecodedThought> {
    const cut = new AbortController();
    const signal = options.signal === undefined ? cut.signal : AbortSignal.any([options.signal, cut.signal]);
    let message: AIMessageChunk | undefined;
    let end: AnswerEnd = { isKnown: false, echoes: false };
    let text = "";
    // Until the usage arrives at the end, a piece counts as a token: servers send them one by one.
    let pieces = 0;
    let verdict: boolean | "end" | void = true;
    try {
      for await (const chunk of await this.requests.stream(this.#messages(), { ...options, signal })) {
        const known = takeEnd(chunk);
        if (known.isKnown) end = known;
        message = message === undefined ? chunk : concat(message, chunk);
        if (chunk.text === "") continue;
        pieces++;
        const piece = text === "" ? this.#withoutEcho(chunk.text, known) : chunk.text;
        text += piece;
        if (piece === "") continue;
        verdict = options.onText?.(piece, pieces);
        if (verdict === false || verdict === "end") {
          cut.abort();
          break;
        }
      }
    } catch (error) {
      if (!options.signal?.aborted) throw error;
    }
    const tokens = message?.usage_metadata?.output_tokens ?? pieces;
    if (message) this.#book(message, tokens, true);
    if (verdict === false) return { text, tokens, finishReason: "cut", ended: false };
    if (verdict === "end") {
      this.#answer += text;
      return { text, tokens, finishReason: "stop", ended: false };
    }
    if (options.signal?.aborted || message === undefined)
      return { text, tokens, finishReason: "aborted", ended: false };
    return this.#finish(message, text, end, tokens, options);
  }

  #withoutEcho(text: string, { echoes }: AnswerEnd): string {
    return echoes && text.startsWith(this.#answer) ? text.slice(this.#answer.length) : text;
  }

  /**
   * Where the server does not say what ended the answer, and one stop string was asked for, it was that. A text that is whole
   * in its format ends its message, and may yet be a part of the answer.
   */
  #finish(
    message: AIMessage | AIMessageChunk,
    text: string,
    end: AnswerEnd,
    tokens: number,
    { stop: stops = [], format }: ThoughtDecodeOptions,
  ): DecodedThought {
    const finishReason = message.response_metadata.finish_reason === "length" ? "length" : "stop";
    const guess = text !== "" && stops.length === 1 && !format ? stops[0] : undefined;
    const stopString = finishReason === "length" ? undefined : end.isKnown ? end.stopString : guess;
    const isEnd = end.isKnown || stops.length === 0 || text === "";
    const ended = finishReason === "stop" && stopString === undefined && isEnd && !format;
    this.#answer += text + (stopString ?? "");
    return { text, tokens, finishReason, stopString, ended };
  }

  #book({ usage_metadata: usage }: AIMessage | AIMessageChunk, tokens: number, isFirst: boolean): void {
    this.usage.generatedTokens += tokens;
    if (usage === undefined) return;
    this.usage.promptTokens += usage.input_tokens;
    if (isFirst) this.usage.prefilledTokens += usage.input_tokens - (usage.input_token_details?.cache_read ?? 0);
  }
}

interface TokenLogprob {
  token: string;
  logprob: number;
}

function toMessage({ role, content }: PromptMessage): BaseMessage {
  if (role === "system") return new SystemMessage(content);
  return role === "assistant" ? new AIMessage(content) : new HumanMessage(content);
}
