/** Settings of a {@link ChatDeftree} and of one call. */
import {
  type BranchEngine,
  type Constraint,
  type DecodeOptions,
  DeftreeError,
  type EngineOptions,
  type Speculation,
} from "@deftree/engine";
import type { ToolDefinition } from "@langchain/core/language_models/base";
import type { BaseChatModelCallOptions, BaseChatModelParams } from "@langchain/core/language_models/chat_models";
import type { ResponseFormat } from "./response-format.js";

export interface ChatDeftreeSampling {
  /** 0 (default) is greedy. */
  temperature?: number;
  topK?: number;
  topP?: number;
  minP?: number;
  repetitionPenalty?: number;
  /** Added to the logits of these token ids. */
  logitBias?: Record<number, number>;
  /** Most tokens of an answer; by default what the context has room for. */
  maxTokens?: number;
  /** The same seed and prompt give the same answer, whatever else runs. By default another one for each call. */
  seed?: number;
  /** Give each token's log-probability in `response_metadata.logprobs`. */
  logprobs?: boolean;
  /** And those of the likeliest tokens at each position. */
  topLogprobs?: number;
  /**
   * Answers to draw from one prompt, which is computed once; `generate` returns all of them, `invoke` the first. A stream
   * is always of one. With a seed the same `n` gives the same answers.
   */
  n?: number;
  /**
   * Keeps every answer to a JSON Schema, or to a regular expression as a string. A forced tool call and a `response_format`
   * go before it.
   */
  constraint?: { jsonSchema: object | boolean } | { regex: string };
}

export interface ChatDeftreeFields
  extends BaseChatModelParams,
    ChatDeftreeSampling,
    Pick<
      EngineOptions,
      | "device"
      | "deviceIndex"
      | "weights"
      | "kvType"
      | "kvTokens"
      | "contextLength"
      | "threads"
      | "attention"
      | "speculation"
      | "maxStepTokens"
    > {
  /**
   * `"mini"` (default, comes with the package), the path of a Hugging Face folder or a `.gguf` file, or `org/name` of a
   * model pulled from the hub. Chat models of one process that name the same model and settings share one engine.
   */
  model?: string;
  /** An engine that is loaded already; its owner disposes it, and `model` and the engine settings are ignored. */
  engine?: BranchEngine;
  /** Strings that end every answer, besides those of a call. */
  stop?: string[];
}

export interface ChatDeftreeCallOptions extends BaseChatModelCallOptions, ChatDeftreeSampling {
  /** {@link ChatDeftree.bindTools} fills it. */
  tools?: ToolDefinition[];
  /** {@link ChatDeftree.withStructuredOutput} fills it; agents do so too. */
  response_format?: ResponseFormat;
  /** Of this call, in place of the engine's. The answer does not depend on it. */
  speculation?: Speculation;
}

/** Fields that say how to make the same chat model again. */
export const serializableFields: string[] = [
  ...[
    "model",
    "stop",
    "device",
    "deviceIndex",
    "weights",
    "kvType",
    "kvTokens",
    "contextLength",
    "threads",
    "attention",
    "speculation",
  ],
  ...["maxStepTokens", "temperature", "topK", "topP", "minP", "repetitionPenalty", "logitBias", "maxTokens", "seed"],
  ...["logprobs", "topLogprobs", "n", "constraint", "outputVersion", "disableStreaming"],
];

export function engineOptions(fields: ChatDeftreeFields): EngineOptions {
  const { device, deviceIndex, weights, kvType, kvTokens, contextLength, threads, attention, speculation } = fields;
  const { maxStepTokens } = fields;
  return {
    device,
    deviceIndex,
    weights,
    kvType,
    kvTokens,
    contextLength,
    threads,
    attention,
    speculation,
    maxStepTokens,
  };
}

export function samplingFields(fields: ChatDeftreeSampling): ChatDeftreeSampling {
  const { temperature, topK, topP, minP, repetitionPenalty, logitBias, maxTokens, seed } = fields;
  const { logprobs, topLogprobs, n, constraint } = fields;
  if (constraint && "regex" in constraint && typeof constraint.regex !== "string") {
    throw new DeftreeError("E_BAD_ARGUMENT", "constraint.regex is a string here: caches and traces write it down");
  }
  return defined({
    temperature,
    topK,
    topP,
    minP,
    repetitionPenalty,
    logitBias,
    maxTokens,
    seed,
    logprobs,
    topLogprobs,
    n,
    constraint,
  });
}

type Settings = Pick<ChatDeftreeFields, "stop"> & { sampling: ChatDeftreeSampling };

/**
 * A call's options over the chat model's. Where it samples without a seed it gets one, so that it can be repeated.
 * @param form what its tools or response format keep the answer to.
 */
export function decodeOptions(
  own: Settings,
  options: Pick<ChatDeftreeCallOptions, "signal" | "stop" | "speculation"> & ChatDeftreeSampling,
  form?: Constraint,
): DecodeOptions {
  const { logprobs, topLogprobs, seed, n: _, ...sampling } = { ...own.sampling, ...samplingFields(options) };
  const isSampled = (sampling.temperature ?? 0) > 0;
  return {
    ...sampling,
    ...(form && { constraint: form }),
    ...(isSampled ? { seed: seed ?? Math.floor(Math.random() * 2 ** 32) } : {}),
    stop: stopsOf(own, options),
    signal: options.signal,
    ...defined({ speculation: options.speculation }),
    ...(logprobs || topLogprobs ? { logprobs: topLogprobs ?? 0 } : {}),
  };
}

export function stopsOf(own: Settings, options?: Pick<ChatDeftreeCallOptions, "stop">): string[] {
  return [...new Set([...(own.stop ?? []), ...(options?.stop ?? [])])];
}

export function defined<T extends object>(object: T): T {
  return Object.fromEntries(Object.entries(object).filter(([, value]) => value !== undefined)) as T;
}
