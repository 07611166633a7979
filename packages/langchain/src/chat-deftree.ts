import type { BranchEngine } from "@deftree/engine";
import type { CallbackManagerForLLMRun } from "@langchain/core/callbacks/manager";
import type {
  BaseLanguageModelInput,
  StructuredOutputMethodOptions,
  ToolDefinition,
} from "@langchain/core/language_models/base";
import { BaseChatModel, type BindToolsInput, type LangSmithParams } from "@langchain/core/language_models/chat_models";
import type { ChatModelStreamEvent } from "@langchain/core/language_models/event";
import type { ModelProfile } from "@langchain/core/language_models/profile";
import type { AIMessageChunk, BaseMessage, MessageContent } from "@langchain/core/messages";
import type { ChatGenerationChunk, ChatResult } from "@langchain/core/outputs";
import type { Runnable } from "@langchain/core/runnables";
import type { SerializableSchema } from "@langchain/core/utils/standard_schema";
import type { InteropZodType } from "@langchain/core/utils/types";
import { answerParts, wholeAnswer } from "./chat-answer.js";
import { ChatCall } from "./chat-call.js";
import { answerEvents } from "./chat-events.js";
import { abortError, chunkOf, generationOf } from "./chat-messages.js";
import {
  type ChatDeftreeCallOptions,
  type ChatDeftreeFields,
  type ChatDeftreeSampling,
  decodeOptions,
  defined,
  engineOptions,
  samplingFields,
  serializableFields,
  stopsOf,
} from "./chat-options.js";
import { toChatTurns } from "./chat-turns.js";
import { EngineShare } from "./engine-share.js";
import { toLangChainError } from "./errors.js";
import { renderResponseFormat, responseConstraint } from "./response-format.js";
import { structuredOutput } from "./structured-output.js";
import { toolConstraint } from "./tool-constraint.js";
import { toToolDefinition } from "./tool-definition.js";
import { readToolChoice, renderToolPrompt } from "./tool-prompt.js";
import { version } from "./version.js";

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
 * - `batch` decodes its inputs side by side; so do calls made at the same time in any other way. Their common prefixes
 *   are computed once.
 * - `generate(messages, { n })` draws n answers from one prompt.
 * - An abort ends decoding within one step. `invoke` then throws `ModelAbortError` with what was written so far as
 *   `partialOutput`; `stream` throws the signal's reason.
 * - Schemas and forced tool calls are enforced while decoding, so that any model keeps to them: see
 *   {@link withStructuredOutput}, {@link bindTools} and the option `constraint`.
 *
 * @throws DeftreeError, with a stable `code`; a prompt longer than the context gives `ContextOverflowError`.
 */
export class ChatDeftree extends BaseChatModel<ChatDeftreeCallOptions> {
  static override lc_name(): string {
    return "ChatDeftree";
  }

  /** As its constructor's arguments, unless it was given an engine, which cannot be written down. */
  override lc_serializable: boolean;

  override get lc_serializable_keys(): string[] {
    return serializableFields;
  }

  readonly model: string;
  readonly stop: string[];
  readonly sampling: ChatDeftreeSampling;

  // No #private members: `_generateUncached` makes a view of this object.
  private readonly fields: ChatDeftreeFields;
  private readonly share: EngineShare;

  constructor(model: string, fields?: Omit<ChatDeftreeFields, "model">);
  constructor(fields?: ChatDeftreeFields);
  constructor(modelOrFields: string | ChatDeftreeFields = {}, rest: Omit<ChatDeftreeFields, "model"> = {}) {
    const fields: ChatDeftreeFields =
      typeof modelOrFields === "string" ? { ...rest, model: modelOrFields } : modelOrFields;
    super(fields);
    this._addVersion("@deftree/langchain", version);
    this.lc_serializable = fields.engine === undefined;
    this.fields = fields;
    this.model = fields.engine?.info.modelName ?? fields.model ?? "mini";
    this.share = new EngineShare(this.model, fields);
    this.stop = fields.stop ?? [];
    this.sampling = samplingFields(fields);
  }

  override _llmType(): string {
    return "deftree";
  }

  /** The engine below; loads it on the first call. */
  async engine(): Promise<BranchEngine> {
    return this.share.engine();
  }

  /**
   * Gives the engine back; when no other chat model uses it, its memory is freed. The chat model may be used again and
   * then loads anew. An engine given to the constructor stays.
   */
  async dispose(): Promise<void> {
    await this.share.giveBack();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }

  /**
   * Offers tools in the system turn. An answer that is nothing but JSON naming one of them becomes `tool_calls`.
   *
   * `tool_choice` `"any"` and a tool's name force one call, with arguments that match the tool's schema, whatever the model
   * was trained on; a schema that cannot be enforced is refused with the reason, unless the tool says `strict: false`.
   * `"auto"` (default) leaves it to the model, and arguments are what it wrote; `"none"` hides the tools.
   */
  override bindTools(
    tools: BindToolsInput[],
    kwargs: Partial<ChatDeftreeCallOptions> = {},
  ): Runnable<BaseLanguageModelInput, AIMessageChunk, ChatDeftreeCallOptions> {
    return this.withConfig({ tools: tools.map(toToolDefinition), ...kwargs });
  }

  /**
   * Answers as values of a schema: Zod 3 or 4, a Standard Schema with a JSON Schema, or a JSON Schema.
   *
   * `method` `"jsonSchema"` (default) shows the model the schema, `"jsonMode"` asks for JSON alone (say in your prompt what
   * it shall hold), `"functionCalling"` offers the schema as a tool. All are enforced while decoding. A schema that cannot be
   * enforced is refused at once with the reason; with `strict: false` it is asked for only.
   *
   * The answer is parsed and checked by the schema's own library. One that does not match (for what JSON Schema cannot say,
   * or with `strict: false`) rejects with `OutputParserException`, which names what is wrong and holds the answer as
   * `llmOutput`. With `includeRaw`, `parsed` is null then.
   */
  override withStructuredOutput<RunOutput extends Json = Json>(
    schema: InteropZodType<RunOutput> | SerializableSchema<RunOutput> | Json,
    config?: StructuredOutputMethodOptions<false>,
  ): Runnable<BaseLanguageModelInput, RunOutput>;
  override withStructuredOutput<RunOutput extends Json = Json>(
    schema: InteropZodType<RunOutput> | SerializableSchema<RunOutput> | Json,
    config?: StructuredOutputMethodOptions<true>,
  ): Runnable<BaseLanguageModelInput, { raw: BaseMessage; parsed: RunOutput }>;
  override withStructuredOutput(
    schema: unknown,
    config?: StructuredOutputMethodOptions<boolean>,
  ): Runnable<BaseLanguageModelInput, never> {
    return structuredOutput(this, schema, config) as Runnable<BaseLanguageModelInput, never>;
  }

  override async _generate(messages: BaseMessage[], options: this["ParsedCallOptions"]): Promise<ChatResult> {
    const { n = 1 } = { ...this.sampling, ...samplingFields(options) };
    const { calls, tools } = await this.start(messages, options, n);
    try {
      const answers = await Promise.all(calls.map((call) => wholeAnswer(call, tools)));
      for (const [i, answer] of answers.entries()) {
        if (answer.result.finishReason === "aborted") throw abortError(answer.result.text, answer, calls[i]!);
      }
      return { generations: answers.map((answer, i) => generationOf(answer, calls[i]!)) };
    } catch (error) {
      throw toLangChainError(error);
    } finally {
      for (const call of calls) call.end();
    }
  }

  /**
   * Under a handler that wants a stream (LangGraph's message streams attach one) the base class keeps one answer only. Of
   * several, all are drawn then, without streaming.
   */
  override async _generateUncached(
    ...args: Parameters<BaseChatModel<ChatDeftreeCallOptions>["_generateUncached"]>
  ): ReturnType<BaseChatModel["_generateUncached"]> {
    const { n = 1 } = { ...this.sampling, ...samplingFields(args[1]) };
    const self: this = n === 1 ? this : Object.create(this, { disableStreaming: { value: true } });
    return super._generateUncached.apply(self, args);
  }

  override async *_streamResponseChunks(
    messages: BaseMessage[],
    options: this["ParsedCallOptions"],
    runManager?: CallbackManagerForLLMRun,
  ): AsyncGenerator<ChatGenerationChunk> {
    const chunks = this.streaming(messages, options, async function* (call, tools) {
      for await (const part of answerParts(call, tools)) yield chunkOf(part, call);
    });
    for await (const chunk of chunks) {
      if (options.signal?.aborted) return;
      yield chunk;
      const completion = { prompt: 0, completion: 0 };
      await runManager?.handleLLMNewToken(chunk.text, completion, undefined, undefined, undefined, { chunk });
    }
  }

  override async *_streamChatModelEvents(
    messages: BaseMessage[],
    options: this["ParsedCallOptions"],
  ): AsyncGenerator<ChatModelStreamEvent> {
    yield* this.streaming(messages, options, (call, tools) => answerEvents(answerParts(call, tools), call));
  }

  /** Counts with the model's own tokenizer. */
  override async getNumTokens(content: MessageContent): Promise<number> {
    const text = typeof content === "string" ? content : content.map((block) => block.text ?? "").join("");
    return (await this.engine()).tokenizer.encode(text as string).length;
  }

  override invocationParams(options?: this["ParsedCallOptions"]): Record<string, unknown> {
    return { model: this.model, ...this.sampling, ...samplingFields(options ?? {}), stop: stopsOf(this, options) };
  }

  /** What an answer depends on, for caches; a call's own options come to it. */
  override _identifyingParams(): Record<string, unknown> {
    const { engine } = this.fields;
    const settings =
      engine === undefined
        ? defined(engineOptions(this.fields))
        : { modelPath: engine.info.modelPath, weights: engine.info.weightFormat, kvType: engine.info.kvType };
    return { model: this.model, ...settings, ...this.sampling, stop: this.stop };
  }

  /** Without what no answer depends on, and would give the same call another key. */
  override _getSerializedCacheKeyParametersForCall(
    options: Parameters<BaseChatModel["_getSerializedCacheKeyParametersForCall"]>[0],
  ): string {
    return super._getSerializedCacheKeyParametersForCall({
      ...options,
      signal: undefined,
      speculation: undefined,
    } as typeof options);
  }

  override getLsParams(options: this["ParsedCallOptions"]): LangSmithParams {
    const { temperature = 0, maxTokens } = { ...this.sampling, ...samplingFields(options) };
    return {
      ls_provider: "deftree",
      ls_model_name: this.model,
      ls_model_type: "chat",
      ls_temperature: temperature,
      ls_max_tokens: maxTokens,
      ls_stop: stopsOf(this, options),
    };
  }

  /**
   * What the model can be relied on for. Token limits are known once the engine is loaded, or when `contextLength` was
   * given. `toolCalling` stays false: that a model calls tools by itself depends on its training.
   */
  override get profile(): ModelProfile {
    const maxInputTokens = this.share.loaded?.info.contextLength ?? this.fields.contextLength;
    return {
      ...defined({ maxInputTokens, maxOutputTokens: this.sampling.maxTokens ?? maxInputTokens }),
      toolCalling: false,
      toolChoice: true,
      structuredOutput: true,
      reasoningOutput: false,
      imageInputs: false,
      audioInputs: false,
      videoInputs: false,
      pdfInputs: false,
    };
  }

  /** Runs one answer's branch for a reader of its parts. */
  private async *streaming<T>(
    messages: BaseMessage[],
    options: this["ParsedCallOptions"],
    read: (call: ChatCall, tools: ToolDefinition[]) => AsyncIterable<T>,
  ): AsyncGenerator<T> {
    const { calls, tools } = await this.start(messages, options, 1);
    const call = calls[0]!;
    // After an abort nobody may read on, and this generator would keep the branch for ever. It listens to a signal of its
    // own: many calls may share the caller's, and Node warns of an eleventh listener.
    const end = () => call.end();
    const aborted = options.signal && AbortSignal.any([options.signal]);
    aborted?.addEventListener("abort", end, { once: true });
    try {
      yield* read(call, tools);
    } catch (error) {
      throw toLangChainError(error);
    } finally {
      aborted?.removeEventListener("abort", end);
      end();
    }
  }

  private async start(
    messages: BaseMessage[],
    options: this["ParsedCallOptions"],
    n: number,
  ): Promise<{ calls: ChatCall[]; tools: ToolDefinition[] }> {
    const { signal, tools: offered = [], tool_choice, response_format } = options;
    signal?.throwIfAborted();
    try {
      const choice = readToolChoice(tool_choice, offered);
      const tools = choice === "none" ? [] : offered;
      const requests = [renderToolPrompt(tools, choice), renderResponseFormat(response_format)];
      const form = toolConstraint(tools, choice) ?? responseConstraint(response_format);
      const turns = toChatTurns(messages, requests);
      const engine = await this.share.engine(signal);
      const prompt = engine.encodeChat(turns, { addGenerationPrompt: true });
      return { calls: await ChatCall.start(engine, prompt, decodeOptions(this, options, form), n), tools };
    } catch (error) {
      signal?.throwIfAborted();
      throw toLangChainError(error);
    }
  }
}

// biome-ignore lint/suspicious/noExplicitAny: as in LangChain's signature; interfaces are no Record of unknown
type Json = Record<string, any>;
