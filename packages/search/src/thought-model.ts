/**
 * What a search needs of a model: positions in a tree of text that can be forked, extended, decoded and dropped. Two
 * implementations live in the langchain package: over the engine's branches, and over any LangChain chat model.
 */

export interface ThoughtSampling {
  /** 0 is greedy. */
  temperature?: number;
  topK?: number;
  topP?: number;
  minP?: number;
  seed?: number;
}

/**
 * Speculative decoding of a thought's tokens: `"off"`, `"auto"`, or what the model knows beyond these, such as the engine's
 * `SpeculationOptions`. The text never depends on it, so a model that cannot speculate, or whose server decides that by
 * itself, ignores it.
 */
export type TokenSpeculation = "off" | "auto" | object;

/**
 * What a text is, from its first character to its last: JSON that a JSON Schema describes, or what a regular expression
 * matches. Nothing else can be written, and the text ends where it is whole.
 */
export type ThoughtFormat = ({ jsonSchema: object } | { regex: string }) & {
  /** `maxTokens` may cut the text. Else it comes to its end before, and fewer tokens than its shortest has are refused. */
  mayStayOpen?: boolean;
};

export interface ThoughtDecodeOptions extends ThoughtSampling {
  maxTokens: number;
  /** By default as the model was made. */
  speculation?: TokenSpeculation;
  /** Strings that end the thought. */
  stop?: string[];
  /** Of this text alone, not of what stands before it. A model that cannot keep to it rejects. */
  format?: ThoughtFormat;
  /**
   * Called as text becomes final, with the new piece and the number of tokens so far. `false` cuts the thought here (a
   * program saw that it is hopeless), and the model may release its branch at once; `"end"` ends it here, so that the branch
   * holds this text and no more.
   */
  onText?: (piece: string, tokens: number) => boolean | "end" | void;
  signal?: AbortSignal;
}

export interface DecodedThought {
  /** Without the stop string. Of a cut thought: up to the piece at which it was cut. */
  text: string;
  tokens: number;
  /** `stop`: by itself, by a stop string, or onText ended it; `length`; `cut`: onText said so; `aborted`. */
  finishReason: "stop" | "length" | "cut" | "aborted";
  /**
   * What the branch holds after `text`: the stop string that ended it, with whatever else its last token carries.
   * Continuing the branch continues after it.
   */
  stopString?: string;
  /** True when the model ended its answer (end of turn). */
  ended: boolean;
  /** Token ids that the branch holds of this thought, where the model has them; not of a cut one. */
  tokenIds?: number[];
  /** Sum of log-probabilities, where the model gives them. */
  logprob?: number;
}

/** What the calls on one branch cost; its forks keep their own account. */
export interface TokenUsage {
  /** Decoded tokens, those a cut came too late for included. */
  generatedTokens: number;
  /** Context that decodes started from: what a server without shared prefixes would have to compute for them. */
  promptTokens: number;
  /** Known tokens (prompt, extensions) that really were computed for this branch. */
  prefilledTokens: number;
}

/** A place in the text tree. Costs nothing to fork where the model shares prefixes. */
export interface ThoughtBranch {
  readonly usage: Readonly<TokenUsage>;
  /** Tokens on the path, where the model tells them. */
  readonly length?: number;
  /**
   * n branches at the same place, numbered from `first`; by default on from earlier forks. A branch of the same number draws
   * the same random numbers.
   */
  fork(n: number, first?: number): ThoughtBranch[];
  /** Appends known text, or the ids of its tokens from {@link DecodedThought.tokenIds}, to the model's answer so far. */
  extend(content: string | readonly number[], signal?: AbortSignal): Promise<void>;
  /** An abort by `signal` does not reject: the result holds what was decoded. */
  decode(options: ThoughtDecodeOptions): Promise<DecodedThought>;
  /** Natural-log probability of each text as the continuation here; the branch is left as it was. */
  score?(continuations: string[], signal?: AbortSignal): Promise<number[]>;
  /** Drops the branch; whatever it alone holds is free within one step. Idempotent. */
  release(): void;
}

/** KV reads of the whole model, sums since it was loaded. 0 where a model cannot tell. */
export interface KvUsage {
  kvBytesRead: number;
  /** What reading every branch's keys and values separately would have cost. */
  kvBytesUnshared: number;
}

export interface PromptMessage {
  role: "system" | "user" | "assistant";
  content: string;
}

export interface ThoughtModel {
  readonly name: string;
  /** Keys and values of one token, all layers. Undefined where the model holds no KV that it knows of. */
  readonly kvBytesPerToken?: number;
  /** A branch after the prompt, ready for the model's answer. */
  open(prompt: readonly PromptMessage[], options?: { signal?: AbortSignal }): Promise<ThoughtBranch>;
  /** A search reports differences; they are its own only when nothing else runs on the model meanwhile. */
  usage(): KvUsage;
}
