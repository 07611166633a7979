import type { BranchEngine, DecodedToken, DecodeOptions } from "@deftree/engine";
import type { CallbackManagerForLLMRun } from "@langchain/core/callbacks/manager";
import type { BaseLanguageModelInput, ToolDefinition } from "@langchain/core/language_models/base";
import { BaseChatModel, type BindToolsInput, type LangSmithParams } from "@langchain/core/language_models/chat_models";
import { convertChunksToEvents } from "@langchain/core/language_models/compat";
import type { ChatModelStreamEvent } from "@langchain/core/language_models/event";
import type { ModelProfile } from "@langchain/core/language_models/profile";
import { AIMessage, type AIMessageChunk, type BaseMessage, type MessageContent } from "@langchain/core/messages";
import type { ChatGenerationChunk, ChatResult } from "@langchain/core/outputs";
import type { Runnable } from "@langchain/core/runnables";
import { convertToOpenAITool } from "@langchain/core/utils/function_calling";
import { ChatCall } from "./chat-call.js";
import { abortError, contentOf, lastChunk, textChunk } from "./chat-messages.js";
import {
  type ChatDeftreeCallOptions,
  type ChatDeftreeFields,
  type ChatDeftreeSampling,
  defined,
  engineOptions,
  samplingFields,
} from "./chat-options.js";
import { toChatTurns } from "./chat-turns.js";
import { type EngineLease, engines } from "./engine-pool.js";
import { toLangChainError } from "./errors.js";
import { mayBeToolCall, renderToolPrompt } from "./tool-prompt.js";

/**
 * A chat model on the deftree engine: a local Llama-architecture model in this process, whose conversations share their
 * common prefixes in one forest and are decoded together, many in one step.
 *
 * ```ts
 * const chat = new ChatDeftree({ model: "mini" });
 * const answer = await chat.invoke("Sort the list of digits in ascending order. ...");
 * for await (const chunk of await chat.stream("...")) process.stdout.write(chunk.text);
 * await chat.dispose();
 * ```
 *
 * - `usage_metadata.input_token_details.cache_read` counts prompt tokens that were found in the forest.
 * - `batch` decodes its inputs side by side; so do calls made at the same time in any other way.
 * - An abort ends decoding within one step. `invoke` then throws `ModelAbortError` with what was written so far as
 *   `partialOutput`; `stream` throws the signal's reason.
 * - Tools are offered in the prompt and read from the answer, but nothing forces the model to call one.
 *
 * @throws DeftreeError, with a stable `code`; a prompt longer than the context gives `ContextOverflowError`.
 */
export class ChatDeftree extends BaseChatModel<ChatDeftreeCallOptions> {
  static override lc_name(): string {
    return "ChatDeftree";
  }

  override lc_serializable = false;

  readonly model: string;
  readonly stop: string[];
  readonly sampling: ChatDeftreeSampling;

  readonly #fields: ChatDeftreeFields;
  #lease: EngineLease | undefined;
  #loaded: BranchEngine | undefined;

  constructor(model: string, fields?: Omit<ChatDeftreeFields, "model">);
  constructor(fields?: ChatDeftreeFields);
  constructor(modelOrFields: string | ChatDeftreeFields = {}, rest: Omit<ChatDeftreeFields, "model"> = {}) {
    const fields: ChatDeftreeFields =
      typeof modelOrFields === "string" ? { ...rest, model: modelOrFields } : modelOrFields;
    super(fields);
    this.#fields = fields;
    this.#loaded = fields.engine;
    this.model = fields.engine?.info.modelName ?? fields.model ?? "mini";
    this.stop = fields.stop ?? [];
    this.sampling = samplingFields(fields);
  }

  override _llmType(): string {
    return "deftree";
  }

  /** The engine below; loads it on the first call. */
  async engine(): Promise<BranchEngine> {
    if (this.#fields.engine !== undefined) return this.#fields.engine;
    this.#lease ??= engines.lease(this.model, engineOptions(this.#fields));
    try {
      this.#loaded = await this.#lease.engine;
    } catch (error) {
      this.#lease = undefined;
      throw toLangChainError(error);
    }
    return this.#loaded;
  }

  /**
   * Gives the engine back; when no other chat model uses it, its memory is freed. The chat model may be used again and
   * then loads anew. An engine given to the constructor stays.
   */
  async dispose(): Promise<void> {
    const lease = this.#lease;
    this.#lease = undefined;
    this.#loaded = this.#fields.engine;
    await lease?.giveBack();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }

  override bindTools(
    tools: BindToolsInput[],
    kwargs: Partial<ChatDeftreeCallOptions> = {},
  ): Runnable<BaseLanguageModelInput, AIMessageChunk, ChatDeftreeCallOptions> {
    return this.withConfig({ tools: tools.map((tool) => convertToOpenAITool(tool)), ...kwargs });
  }

  override async _generate(messages: BaseMessage[], options: this["ParsedCallOptions"]): Promise<ChatResult> {
    const { call, tools } = await this.#start(messages, options);
    try {
      const tokens: DecodedToken[] = [];
      if (wantsLogprobs(options, this.sampling)) for await (const token of call.decoding) tokens.push(token);
      const result = await call.decoding;
      if (result.finishReason === "aborted") throw abortError(result, call);
      const message = new AIMessage({
        ...contentOf(result.text, tools),
        usage_metadata: call.usage(result),
        response_metadata: call.metadata(result),
      });
      const generationInfo = tokens.length > 0 ? { logprobs: call.logprobs(tokens) } : undefined;
      return { generations: [{ text: message.text, message, generationInfo }] };
    } catch (error) {
      throw toLangChainError(error);
    } finally {
      call.end();
    }
  }

  override async *_streamResponseChunks(
    messages: BaseMessage[],
    options: this["ParsedCallOptions"],
    runManager?: CallbackManagerForLLMRun,
  ): AsyncGenerator<ChatGenerationChunk> {
    const { call, tools } = await this.#start(messages, options);
    const withLogprobs = wantsLogprobs(options, this.sampling);
    // After an abort nobody may read on, and this generator would keep the branch for ever.
    const end = () => call.end();
    options.signal?.addEventListener("abort", end, { once: true });
    const publish = async (chunk: ChatGenerationChunk) => {
      await runManager?.handleLLMNewToken(chunk.text, { prompt: 0, completion: 0 }, undefined, undefined, undefined, {
        chunk,
      });
      return chunk;
    };
    try {
      let written = 0;
      let held = "";
      for await (const token of call.decoding) {
        held += token.text;
        const generationInfo = withLogprobs ? { logprobs: call.logprobs([token]) } : undefined;
        if (held === "" && generationInfo === undefined) continue;
        if (tools.length > 0 && written === 0 && mayBeToolCall(held)) continue;
        yield await publish(textChunk(held, generationInfo));
        written += held.length;
        held = "";
      }
      const result = await call.decoding;
      if (options.signal?.aborted) return;
      const rest = contentOf(result.text.slice(written), written === 0 ? tools : []);
      yield await publish(lastChunk(rest, result, call));
    } catch (error) {
      throw toLangChainError(error);
    } finally {
      options.signal?.removeEventListener("abort", end);
      end();
    }
  }

  /** Core's bridge from chunks to events, with the `response_metadata` that it leaves out. */
  override async *_streamChatModelEvents(
    messages: BaseMessage[],
    options: this["ParsedCallOptions"],
    runManager?: CallbackManagerForLLMRun,
  ): AsyncGenerator<ChatModelStreamEvent> {
    let responseMetadata: Record<string, unknown> = {};
    const chunks = this._streamResponseChunks(messages, options, runManager);
    const watched = (async function* () {
      for await (const chunk of chunks) {
        responseMetadata = { ...responseMetadata, ...chunk.message.response_metadata };
        yield chunk;
      }
    })();
    for await (const event of convertChunksToEvents(watched, { signal: options.signal })) {
      if (event.event !== "message-finish") yield event;
      else
        yield { ...event, reason: responseMetadata.finish_reason === "length" ? "length" : "stop", responseMetadata };
    }
  }

  /** Counts with the model's own tokenizer. */
  override async getNumTokens(content: MessageContent): Promise<number> {
    const text = typeof content === "string" ? content : content.map((block) => block.text ?? "").join("");
    return (await this.engine()).tokenizer.encode(text as string).length;
  }

  override invocationParams(options?: this["ParsedCallOptions"]): Record<string, unknown> {
    return { model: this.model, ...this.sampling, ...samplingFields(options ?? {}), stop: this.#stopOf(options) };
  }

  override _identifyingParams(): Record<string, unknown> {
    return { model: this.model, ...defined(engineOptions(this.#fields)), ...this.sampling, stop: this.stop };
  }

  override getLsParams(options: this["ParsedCallOptions"]): LangSmithParams {
    const { temperature = 0, maxTokens } = { ...this.sampling, ...samplingFields(options) };
    return {
      ls_provider: "deftree",
      ls_model_name: this.model,
      ls_model_type: "chat",
      ls_temperature: temperature,
      ls_max_tokens: maxTokens,
      ls_stop: this.#stopOf(options),
    };
  }

  /** `maxInputTokens` is known once the engine is loaded, or when `contextLength` was given. */
  override get profile(): ModelProfile {
    const maxInputTokens = this.#loaded?.info.contextLength ?? this.#fields.contextLength;
    return { ...defined({ maxInputTokens }), toolCalling: false, toolChoice: false, structuredOutput: false };
  }

  async #start(
    messages: BaseMessage[],
    options: this["ParsedCallOptions"],
  ): Promise<{ call: ChatCall; tools: ToolDefinition[] }> {
    options.signal?.throwIfAborted();
    try {
      const engine = await this.engine();
      const tools = choiceName(options.tool_choice) === "none" ? [] : (options.tools ?? []);
      const turns = toChatTurns(messages, renderToolPrompt(tools, choiceName(options.tool_choice)));
      const prompt = engine.encodeChat(turns, { addGenerationPrompt: true });
      return { call: await ChatCall.start(engine, prompt, this.#decodeOptions(options)), tools };
    } catch (error) {
      options.signal?.throwIfAborted();
      throw toLangChainError(error);
    }
  }

  #decodeOptions(options: this["ParsedCallOptions"]): DecodeOptions {
    const { logprobs, topLogprobs, seed, ...sampling } = { ...this.sampling, ...samplingFields(options) };
    const isSampled = (sampling.temperature ?? 0) > 0;
    return {
      ...sampling,
      ...(isSampled ? { seed: seed ?? Math.floor(Math.random() * 2 ** 32) } : {}),
      stop: this.#stopOf(options),
      signal: options.signal,
      ...(logprobs || topLogprobs ? { logprobs: topLogprobs ?? 0 } : {}),
    };
  }

  #stopOf(options?: this["ParsedCallOptions"]): string[] {
    return [...new Set([...this.stop, ...(options?.stop ?? [])])];
  }
}

function wantsLogprobs(call: ChatDeftreeSampling, own: ChatDeftreeSampling): boolean {
  return Boolean(call.logprobs ?? own.logprobs ?? call.topLogprobs ?? own.topLogprobs);
}

function choiceName(choice: ChatDeftreeCallOptions["tool_choice"]): string {
  if (choice === undefined) return "auto";
  return typeof choice === "string" ? choice : String(choice.function?.name ?? choice.name ?? "any");
}
