/** Settings of a {@link ChatDeftree} and of one call. */
import type { BranchEngine, EngineOptions } from "@deftree/engine";
import type { ToolDefinition } from "@langchain/core/language_models/base";
import type { BaseChatModelCallOptions, BaseChatModelParams } from "@langchain/core/language_models/chat_models";

export interface ChatDeftreeSampling {
  /** 0 (default) is greedy. */
  temperature?: number;
  topK?: number;
  topP?: number;
  minP?: number;
  repetitionPenalty?: number;
  /** Most tokens of an answer; by default what the context has room for. */
  maxTokens?: number;
  /** The same seed and prompt give the same answer, whatever else runs. By default another one for each call. */
  seed?: number;
  /** Give each token's log-probability in `response_metadata.logprobs`. */
  logprobs?: boolean;
  /** And those of the likeliest tokens at each position. */
  topLogprobs?: number;
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
  tools?: ToolDefinition[];
}

export function engineOptions(fields: ChatDeftreeFields): EngineOptions {
  const { device, deviceIndex, weights, kvType, kvTokens, contextLength, threads, attention, maxStepTokens } = fields;
  return { device, deviceIndex, weights, kvType, kvTokens, contextLength, threads, attention, maxStepTokens };
}

export function samplingFields(fields: ChatDeftreeSampling): ChatDeftreeSampling {
  const { temperature, topK, topP, minP, repetitionPenalty, maxTokens, seed, logprobs, topLogprobs } = fields;
  return defined({ temperature, topK, topP, minP, repetitionPenalty, maxTokens, seed, logprobs, topLogprobs });
}

export function defined<T extends object>(object: T): T {
  return Object.fromEntries(Object.entries(object).filter(([, value]) => value !== undefined)) as T;
}
