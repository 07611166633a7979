/**
 * What a search needs of a model: positions in a tree of text that can be forked, extended, decoded and dropped. Two
 * implementations live in the langchain package: over the engine's branches, and over any LangChain chat model.
 */

export interface ThoughtSampling {
  temperature?: number;
  topK?: number;
  topP?: number;
  minP?: number;
  seed?: number;
}

export interface ThoughtDecodeOptions extends ThoughtSampling {
  maxTokens: number;
  /** Strings that end the thought. */
  stop?: string[];
  /** Called as text becomes final; return `false` to end the thought here (a program saw that it is hopeless). */
  onText?: (text: string, tokens: number) => boolean | void;
  signal?: AbortSignal;
}

export interface DecodedThought {
  /** Without the stop string. */
  text: string;
  tokens: number;
  /** `stop`: by itself, by a stop string; `length`; `cut`: onText said so; `aborted`. */
  finishReason: "stop" | "length" | "cut" | "aborted";
  /** The stop string that ended it, if one did. Continuing a branch continues after it. */
  stopString?: string;
  /** True when the model ended its answer (end of turn). */
  ended: boolean;
  /** Sum of log-probabilities, where the model gives them. */
  logprob?: number;
}

/** A place in the text tree. Costs nothing to fork where the model shares prefixes. */
export interface ThoughtBranch {
  /** n branches at the same place, numbered 0..n-1 in the order of their random paths. */
  fork(n: number): ThoughtBranch[];
  /** Appends known text to the model's own answer so far. */
  extend(text: string, signal?: AbortSignal): Promise<void>;
  decode(options: ThoughtDecodeOptions): Promise<DecodedThought>;
  /** Natural-log probability of each text as the continuation here; the branch is left as it was. */
  score?(continuations: string[], signal?: AbortSignal): Promise<number[]>;
  /** Drops the branch; whatever it alone holds is free within one step. Idempotent. */
  release(): void;
}

/** Sums since the model was opened; a search reports differences. */
export interface ThoughtUsage {
  generatedTokens: number;
  promptTokens: number;
  /** Of promptTokens, those found in the forest. */
  reusedTokens: number;
  kvBytesRead: number;
  kvBytesUnshared: number;
}

export interface PromptMessage {
  role: "system" | "user" | "assistant";
  content: string;
}

export interface ThoughtModel {
  readonly name: string;
  /** A branch after the prompt, ready for the model's answer. */
  open(prompt: readonly PromptMessage[], options?: { signal?: AbortSignal }): Promise<ThoughtBranch>;
  usage(): ThoughtUsage;
}
