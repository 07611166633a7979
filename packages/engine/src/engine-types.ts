/**
 * The engine's public interface: tokens in, tokens out. `Engine` (engine.ts) implements it over the native addon; the
 * contract test in engine.contract.ts runs over every implementation.
 */
import type { Constraint } from "./constraint.js";
import type { AttentionPolicy, DraftSourceName, NativeEngineInfo, NativeStats } from "./native-addon.js";

export type { AttentionPolicy, DraftSourceName };

/**
 * Speculative decoding: steps also verify guesses of the next tokens and give as many as were right, plus one. Greedy or
 * sampled, the tokens are those of plain decoding; docs/speculation.md has the proof, and the ties that may differ where
 * weights or activations are rounded. `"auto"` drafts where the measured step time says that it gains.
 */
export type Speculation = "off" | "auto" | SpeculationOptions;

/** Speculation in detail; what is left out is as with `"auto"`. */
export interface SpeculationOptions {
  /** `"always"` verifies all that the sources find, whatever it costs: to test, and to measure acceptance. */
  mode?: "auto" | "always";
  /** Most tokens of a branch's draft tree in one step, 1 to 1024; 32 by default. */
  maxDraftTokens?: number;
  /**
   * `"suffix"`, what followed the same text earlier, in any branch; `"recycling"`, the likeliest successors of a token when
   * it was last decoded; a {@link DraftSource} of your own. In `Engine.load` also a {@link DraftModelSource} or
   * {@link MedusaSource}, which decodes then name `"model"` and `"medusa"`. By default those that were loaded, the first two always.
   */
  sources?: readonly (DraftSourceName | DraftModelSource | MedusaSource | DraftSource)[];
}

/** What may come after a text. Node i is `tokens[i]` after node `parents[i]`, an earlier one, or after the text (-1). */
export interface DraftTree {
  tokens: readonly number[];
  /** By default each token follows the one before it. */
  parents?: readonly number[];
  /** How likely each token is once its parent was right, in (0, 1]; 0.7 by default. Only the draft's size depends on them. */
  probabilities?: readonly number[];
}

/** A branch that is asked for a draft. */
export interface DraftContext {
  /** The branch's whole text. */
  readonly tokens: Int32Array;
  /** More tokens than this do not come. */
  readonly maxTokens: number;
  /** Aborted when the decode is over. */
  readonly signal: AbortSignal;
}

/**
 * A draft source of your own. The engine does not wait for it: it goes on decoding and uses the tree in the first step after
 * it came, from the place that the text has reached by then; if the text went another way, the tree is dropped and counted
 * (`stats().lateDrafts`). A source that throws, or proposes what is no tree, is counted (`refusedDrafts`) and warned about
 * once. No draft can change the text.
 */
export interface DraftSource {
  propose(context: DraftContext): DraftTree | undefined | Promise<DraftTree | undefined>;
}

/** A smaller model with the same vocabulary that drafts; named as for `Engine.load`. */
export interface DraftModelSource {
  kind: "model";
  model: string;
}

/** Medusa heads of the model, in a folder with config.json and a safetensors file; on the CPU only. */
export interface MedusaSource {
  kind: "medusa";
  heads: string;
}

/** How to load a model. Everything is optional. */
export interface EngineOptions {
  /**
   * `"auto"` picks a GPU when one can be used and has room for the model, else the CPU, and says why in
   * `info.deviceReason`; `"cuda"` throws E_DEVICE with the reason when no GPU can be used, E_OOM when one has no room.
   */
  device?: "auto" | "cpu" | "cuda";
  /** CUDA's number of the GPU; by default the one with the most free memory. */
  deviceIndex?: number;
  /** How weights are kept in memory. `"auto"`: as the file has them (quantised blocks stay small), bf16 on a GPU. */
  weights?: "auto" | "f32" | "bf16" | "int8";
  /** KV element type. `"auto"`: bf16 on a GPU; on the CPU f32 with f32 weights, else f16. */
  kvType?: "auto" | "f32" | "f16" | "bf16";
  /**
   * Tokens the KV pages can hold together. By default on the CPU `min(4 x contextLength, what 1 GiB holds)`, at least one
   * context; on a GPU `min(64 x contextLength, what 90% of the free memory holds beside weights and workspace)`, at least
   * 4096 or one context. The pages are taken at load.
   */
  kvTokens?: number;
  /** Tokens of a KV page; 16, and on a GPU nothing else. */
  pageSize?: number;
  /** Longest branch in tokens; by default the model's. */
  contextLength?: number;
  /** Compute threads; by default the machine's cores, at most 16. */
  threads?: number;
  attention?: AttentionPolicy;
  /**
   * Of decodes that name none; `"off"` by default. On text that repeats, `"auto"` gave 2 to 3 times the tokens per second of
   * plain decoding, with four branches of a small model 1.03 to 1.4, on random text 0.99 to 1.01 (docs/speculation.md).
   */
  speculation?: Speculation;
  /** Most query tokens of one step (prefill is cut into chunks of this); by default 256, on a GPU 4096. */
  maxStepTokens?: number;
  /** On a GPU: time the parts of each step for `stats()`, which slows it down. On the CPU they always are. */
  profile?: boolean;
  signal?: AbortSignal;
}

/** How the next token is drawn: penalties and bias first, then temperature, top-k, top-p, min-p. */
export interface SamplingOptions {
  /** 0 is greedy, the default. */
  temperature?: number;
  topK?: number;
  topP?: number;
  minP?: number;
  repetitionPenalty?: number;
  logitBias?: Record<number, number>;
  /** Same seed, same branch path, same tokens, whatever else the engine decodes. */
  seed?: number;
}

/** How one decode draws, and when it ends. */
export interface DecodeOptions extends SamplingOptions {
  /** By default as many as the context holds. */
  maxTokens?: number;
  /** Strings that end the text; the text returned does not contain them. */
  stop?: string[];
  /** Token ids that end the text; by default the model's end-of-text tokens. */
  stopTokens?: number[];
  /** 0: each token's log-probability; n: also the n likeliest tokens at each position. */
  logprobs?: number;
  /** By default as the engine was loaded. */
  speculation?: Speculation;
  /**
   * Keeps the text to a language. Fails with E_BAD_ARGUMENT for one that cannot be enforced, and when `maxTokens` or the
   * context has no room for its shortest text.
   */
  constraint?: Constraint;
  signal?: AbortSignal;
}

/**
 * Why a decode ended: `stop` (stop token or stop string), `length` (maxTokens or the context is full), `pruned`,
 * `aborted`. An abort by `signal` does not reject: the result holds what was decoded.
 */
export type FinishReason = "stop" | "length" | "pruned" | "aborted";

/** One token of a stream. */
export interface DecodedToken {
  id: number;
  /** Text that became final with this token: "" while a character or a possible stop string is incomplete. */
  text: string;
  /** When the token's step ended, in milliseconds on a clock of the engine's own: differences between tokens count. */
  timeMs?: number;
  logprob?: number;
  topLogprobs?: { id: number; logprob: number }[];
}

/** A decode as a whole. */
export interface DecodeResult {
  /** All decoded tokens, a final stop token included. */
  tokens: number[];
  /** Their text without stop token and stop string. */
  text: string;
  finishReason: FinishReason;
  /** The stop string that was met. */
  stopString?: string;
  /** Natural-log probability of each token, where asked for. */
  logprobs?: number[];
}

/** Async-iterable token by token, and awaitable for the whole. Iterating is optional; decoding goes on either way. */
export interface DecodeStream extends AsyncIterable<DecodedToken>, PromiseLike<DecodeResult> {
  readonly result: Promise<DecodeResult>;
}

/** What an extend did. */
export interface ExtendResult {
  /** Tokens now on the branch. */
  length: number;
  /** Of the added tokens, how many were found in the forest. */
  reusedTokens: number;
}

/** Which children a fork makes. */
export interface ForkOptions {
  /**
   * Number of the first child; by default they go on from those before. A child's number is part of its random path: a
   * child of the same number and seed draws the same tokens again.
   */
  firstOrdinal?: number;
}

/** A root-to-leaf path of the forest. */
export interface EngineBranch {
  readonly id: number;
  /** Tokens on the path, as far as known here (grows while decoding). */
  readonly length: number;
  readonly disposed: boolean;
  /** Appends text (special tokens off) or token ids. */
  extend(content: string | readonly number[], options?: { signal?: AbortSignal }): Promise<ExtendResult>;
  /** n branches that share every page so far. Costs no KV. Usable at once: their commands wait for this branch's. */
  fork(n: number, options?: ForkOptions): EngineBranch[];
  decode(options?: DecodeOptions): DecodeStream;
  /** Natural-log probability of each token of a continuation; the branch is left as it was. */
  score(
    continuation: string | readonly number[],
    options?: { signal?: AbortSignal },
  ): Promise<{ tokens: number[]; logprobs: number[]; total: number }>;
  /** Raw logits after the branch's last token: `[vocabSize]`. */
  logits(): Promise<Float32Array>;
  truncate(length: number): Promise<void>;
  /** Drops the branch; pages with no other reader are free within one step. `keepCached` leaves them as reusable cache. */
  prune(options?: { keepCached?: boolean }): void;
  [Symbol.dispose](): void;
}

/** What was loaded and chosen. Bytes and counts are of the whole engine. */
export interface EngineInfo extends NativeEngineInfo {
  /** Why this device: "auto: no NVIDIA driver was found ..." and the like. */
  deviceReason: string;
  /** Of `weightBytes`, those that every step reads: all but an embedding table that is not the lm_head too. */
  stepWeightBytes: number;
  modelPath: string;
  modelName: string;
  contextLength: number;
  vocabSize: number;
  attention: AttentionPolicy;
}

/** The model's tokenizer. */
export interface TextTokenizer {
  readonly vocabSize: number;
  /** Text of users: special tokens are plain text here. */
  encode(text: string): number[];
  /** Text of templates: special tokens become their ids. */
  encodeWithSpecialTokens(text: string): number[];
  /** Special tokens left out. */
  decode(tokens: readonly number[]): string;
  /** The bytes of one token (none for special tokens), for streaming and stop strings. */
  tokenBytes(token: number): Uint8Array;
  readonly eosTokens: readonly number[];
  readonly bosToken: number | undefined;
}

/** One message of a conversation. */
export interface ChatTurn {
  role: "system" | "user" | "assistant" | "tool";
  content: string;
}

/** Something that serves branches: the native engine, or a fake in unit tests of other packages. */
export interface BranchEngine {
  readonly info: EngineInfo;
  readonly tokenizer: TextTokenizer;
  /** An empty branch. */
  branch(): EngineBranch;
  /** Token ids of a conversation by the model's chat template; content is encoded with special tokens off. */
  encodeChat(turns: readonly ChatTurn[], options?: { addGenerationPrompt?: boolean }): number[];
  /** Counters and times since load. */
  stats(): NativeStats;
  /** Checks the forest between two steps. Rejects with E_INTERNAL when a rule is broken. */
  checkInvariants(): Promise<void>;
  /** Ends the engine within one step; open requests fail with E_DISPOSED. Twice is fine. */
  dispose(): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}
