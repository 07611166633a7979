/**
 * The contract with the native addon, in one place. Everything here is plain data; `native/binding` implements it and
 * nothing else in TypeScript may load the `.node` file.
 *
 * Rules: `[sync]` returns at once and never waits for a step; `[async]` returns a Promise. Commands go in through
 * {@link NativeEngine.submit}, results come out in one {@link NativeStepMessage} per step.
 */

/** Names of the attention policies; see docs/tree-attention.md. */
export type AttentionPolicy = "deft-flatten" | "deft-node" | "deft-node-chunk" | "flash-decoding" | "radix" | "medusa";

/** Where drafts come from; see docs/speculation.md. */
export type DraftSourceName = "suffix" | "recycling" | "model" | "medusa" | "custom";

/** Speculative decoding: which tokens come never depends on it, only how many of them a step gives. */
export interface NativeSpeculation {
  /** `auto`: drafts where the measured step time says that they gain; `always`: all that the sources find is verified. */
  mode: "off" | "auto" | "always";
  /** Of a branch's draft tree in one step, 1 to 1024. */
  maxDraftTokens: number;
  /** At least one. */
  sources: DraftSourceName[];
}

/** A tensor's place in a model file. `name` is Hugging Face's name; `shape` is row-major `[out_features, in_features]`. */
export interface NativeTensor {
  name: string;
  file: number;
  offset: number;
  bytes: number;
  dtype: string;
  shape: number[];
}

export interface NativeLlamaConfig {
  numLayers: number;
  hiddenSize: number;
  intermediateSize: number;
  numQoHeads: number;
  numKvHeads: number;
  headDim: number;
  vocabSize: number;
  contextLen: number;
  ropeTheta: number;
  rmsNormEps: number;
  tieWordEmbeddings: boolean;
  qkPermuted: boolean;
  ropeScaling?: { factor: number; lowFreqFactor: number; highFreqFactor: number; originalContextLen: number };
}

/** A model and how it is held. */
export interface NativeModelSpec {
  config: NativeLlamaConfig;
  files: string[];
  tensors: NativeTensor[];
  /** Instead of files and tensors, which are then empty: weights made from this seed. */
  randomSeed?: number;
  /** CUDA's number of the GPU. */
  deviceIndex: number;
  weights: "auto" | "f32" | "bf16" | "int8";
  kvType: "auto" | "f32" | "f16" | "bf16";
  numPages: number;
  pageSize: number;
  /** 0: chosen from the machine's cores. */
  numThreads: number;
  /** Most query tokens of one step; a longer prefill is cut into chunks of what is left beside running branches. */
  maxStepTokens: number;
  /** On a GPU, whether the parts of a step are timed; on the CPU they always are. */
  profile: boolean;
}

/** Medusa heads; see native/engine/draft_medusa.h for the names of their tensors. */
export interface NativeMedusa {
  numHeads: number;
  /** Residual blocks of a head. */
  numBlocks: number;
  files: string[];
  tensors: NativeTensor[];
}

export interface NativeLoadSpec extends NativeModelSpec {
  device: "cpu" | "cuda";
  attention: AttentionPolicy;
  /** Of decodes that name none. With `auto` the cost of a step is measured at load, for 0.3 s at most. */
  speculation: NativeSpeculation;
  /** Heads of this model, the source `medusa`; on the CPU only. Refused with E_BAD_MODEL when they are of another shape. */
  medusa?: NativeMedusa;
  /** Drafts for this model, on the same device, as the source `model`. */
  draftModel?: NativeModelSpec;
  /** Byte string of every token: token i is `tokenBytes[tokenByteOffsets[i] .. tokenByteOffsets[i + 1])`. For stop strings. */
  tokenBytes: Uint8Array;
  tokenByteOffsets: Uint32Array;
}

export interface NativeSampling {
  temperature?: number;
  topK?: number;
  topP?: number;
  minP?: number;
  repetitionPenalty?: number;
  /** Any integer of up to 53 bits. */
  seed?: number;
  logprobs?: number;
  logitBias?: [token: number, bias: number][];
}

/** A part of a {@link NativeGrammar}. */
export type NativeExpression =
  | { text: string }
  /** One character: `[first, last, first, last, ...]` code points, inclusive. */
  | { characters: number[] }
  | { sequence: NativeExpression[] }
  | { choice: NativeExpression[] }
  | { repeat: NativeExpression; min: number; max?: number }
  | { rule: number };

/** A language: all that the first rule matches as a whole. */
export interface NativeGrammar {
  rules: NativeExpression[];
}

declare const constraintBrand: unique symbol;
/** A compiled grammar, over the vocabulary of the engine that compiled it. */
export interface NativeConstraint {
  readonly [constraintBrand]: true;
}

/**
 * What {@link NativeEngine.submit} takes. Branch and request ids are chosen by the caller (uint32, never reused).
 * Commands on one branch run in the order of submission, each after the one before it is finished (an `extend` before a
 * `fork` before a `decode`); commands on different branches run side by side.
 */
export type NativeCommand =
  /** A branch of length 0. */
  | { op: "create"; branch: number }
  /** Appends known tokens (prefill). Attaches to a cached prefix first; `finished` reports how many were reused. */
  | { op: "extend"; request: number; branch: number; tokens: Int32Array }
  /** New branches at the end of `branch`; child i's random path is (path of `branch`, firstOrdinal + i). */
  | { op: "fork"; request: number; branch: number; children: number[]; firstOrdinal: number }
  /** Decodes until a stop. The token that completes a stop string or is a stop token is part of the branch. */
  | {
      op: "decode";
      request: number;
      branch: number;
      maxTokens: number;
      stopTokens: number[];
      stopStrings: Uint8Array[];
      sampling: NativeSampling;
      /** Left out: as loaded. */
      speculation?: NativeSpeculation;
      /**
       * Left out: any text. Without `language`: goes on where the branch's last decode stopped. The request ends with "stop"
       * when its text is complete. `mayStayOpen`: `maxTokens` may cut the text; else it is brought to its end in time.
       */
      constraint?: { language?: NativeConstraint; mayStayOpen: boolean };
    }
  /** Log-probability of each of `tokens` after the branch, which is left as it was. */
  | { op: "score"; request: number; branch: number; tokens: Int32Array }
  /** Logits of the branch's last token, `finished.logits`: [vocabSize]. For tests and custom samplers. */
  | { op: "logits"; request: number; branch: number }
  | { op: "truncate"; request: number; branch: number; length: number }
  /** Drops the branch at once, its running request included (finish reason "pruned"). */
  | { op: "prune"; branch: number; keepCached: boolean }
  /** Ends a request within one step (finish reason "aborted"); the branch keeps what it has. */
  | { op: "cancel"; request: number }
  | { op: "setAttention"; attention: AttentionPolicy }
  /**
   * Answers a {@link NativeDraftRequest} of `branch` whose text had `length` tokens. Never throws for what the tree holds:
   * what is no tree is counted as refused, what comes for another text as late. `failed`: there is no answer.
   */
  | { op: "draft"; branch: number; length: number; failed: true }
  | {
      op: "draft";
      branch: number;
      length: number;
      failed: false;
      tokens: Int32Array;
      parents: Int32Array;
      probabilities?: number[];
    };

export type NativeFinishReason =
  | "done"
  | "stop"
  | "stop-string"
  | "length"
  | "context"
  | "pruned"
  | "aborted"
  | "error";

export interface NativeFinished {
  request: number;
  reason: NativeFinishReason;
  /** Tokens of the branch now. */
  branchLength: number;
  /** extend: tokens found in the forest and not computed again. */
  reusedTokens?: number;
  /** score: log-probabilities of the given tokens. */
  logprobs?: Float32Array;
  logits?: Float32Array;
  /** stop-string: which of `stopStrings`. */
  stopIndex?: number;
  error?: NativeErrorInfo;
}

export interface NativeErrorInfo {
  code: string;
  message: string;
  figures: Record<string, number>;
}

/** What may come after the text of a branch that decodes with the source `custom`? */
export interface NativeDraftRequest {
  branch: number;
  tokens: Int32Array;
  maxTokens: number;
}

/** Everything one step published. The arrays are parallel, one entry per decoded token. */
export interface NativeStepMessage {
  step: number;
  /** When the step ended, on a clock of the engine's own: differences count. */
  timeMs: number;
  requests: Uint32Array;
  tokens: Int32Array;
  /** NaN where not asked for. */
  logprobs: Float32Array;
  /** Only when some request asked for `logprobs` > 0: per entry the likeliest tokens, likeliest first. */
  topLogprobs?: { token: number; logprob: number }[][];
  finished: NativeFinished[];
  /** Each to be answered by a `draft` command, or left; the engine goes on meanwhile. */
  draftRequests?: NativeDraftRequest[];
  /** Set once when the engine died (device error, internal error); every later request fails with it. */
  fatal?: NativeErrorInfo;
}

export interface NativeEngineInfo {
  device: "cpu" | "cuda";
  description: string;
  weightFormat: string;
  kvType: string;
  weightBytes: number;
  kvBytes: number;
  kvBytesPerToken: number;
  numPages: number;
  pageSize: number;
  /** Compute threads; 0 on a GPU. */
  numThreads: number;
}

/** Sums of one draft source. A token that several sources proposed counts for each. */
export interface NativeDraftSourceStats {
  draftedTokens: number;
  acceptedTokens: number;
  /** Finding drafts, and what the source is told for it. */
  ns: number;
  /** By what the source tells good guesses from bad by: match length, place among the successors. */
  ranks: { rank: number; draftedTokens: number; acceptedTokens: number }[];
}

/**
 * Sums since load. Times in nanoseconds; on a GPU those of linear, attention, sampling and otherForward are 0 unless the
 * model was loaded with `profile`.
 */
export interface NativeStats {
  steps: number;
  decodedTokens: number;
  prefilledTokens: number;
  reusedTokens: number;
  /** KV bytes that the plans read, all layers. */
  kvBytesRead: number;
  /** KV bytes that reading each query's keys separately would have cost. */
  kvBytesUnshared: number;
  maskBytes: number;
  partialBytes: number;
  workItems: number;
  linearNs: number;
  attentionNs: number;
  samplingNs: number;
  otherForwardNs: number;
  /** Steps that verified a draft tree. */
  verifySteps: number;
  /** Draft trees, one for a branch in a step. Mean acceptance length = 1 + acceptedDraftTokens / draftTrees. */
  draftTrees: number;
  draftedTokens: number;
  acceptedDraftTokens: number;
  /** Draft trees given up for want of pages; the branch decoded plainly. */
  droppedDrafts: number;
  /** Drafts not used because a source failed or gave no tree. */
  refusedDrafts: number;
  /** Proposals of a custom source that came when the text had gone another way, or the decode was over. */
  lateDrafts: number;
  draftSources: Record<DraftSourceName, NativeDraftSourceStats>;
  /** Finding drafts and choosing their size; part of overheadNs. */
  draftingNs: number;
  /** schedule + snapshot + plan + publish: everything of a step outside the backend. */
  overheadNs: number;
  stepNs: number;
  numPages: number;
  freePages: number;
  cachedPages: number;
  nodes: number;
  branches: number;
  tokensInForest: number;
  /** Branches that wait for pages. */
  pausedBranches: number;
}

export interface NativeEngine {
  /** [sync] */
  info(): NativeEngineInfo;
  /** [sync] Enqueues; throws only for malformed commands (E_BAD_ARGUMENT) and after dispose (E_DISPOSED). */
  submit(commands: NativeCommand[]): void;
  /**
   * [sync] Takes milliseconds, the first time also tens of them for the vocabulary. Throws E_BAD_ARGUMENT for a grammar that
   * is malformed, too large, without a text, or recursive without end.
   */
  compileConstraint(grammar: NativeGrammar): NativeConstraint;
  /** [sync] */
  stats(): NativeStats;
  /** [async] Runs the cache's invariant checks between two steps; rejects with E_INTERNAL when one is broken. */
  checkInvariants(): Promise<void>;
  /** [async] Stops within one step, fails open requests with E_DISPOSED, frees everything. Twice is fine. */
  dispose(): Promise<void>;
}

/** A GPU that this build can run on. */
export interface NativeCudaDevice {
  /** CUDA's number of it. */
  index: number;
  name: string;
  /** major * 10 + minor */
  computeCapability: number;
  /** Multiprocessors. */
  numProcessors: number;
  totalBytes: number;
  freeBytes: number;
}

export interface NativeCudaStatus {
  /** Whether this addon has the CUDA code. */
  isBuilt: boolean;
  /** The newest CUDA version that the driver supports, 13000 for 13.0; 0 without a driver. */
  driverVersion: number;
  /** The CUDA version that the addon was compiled with; 0 without CUDA code. */
  runtimeVersion: number;
  devices: NativeCudaDevice[];
  /** Why GPUs are missing in `devices` and what helps; "" when all can be used. */
  problem: string;
}

/** What a model takes of a GPU's memory. */
export interface NativeCudaMemory {
  /** Weights, activations, workspaces and a margin for the driver. */
  bytesWithoutKv: number;
  /** K and V of one token, all layers. */
  kvBytesPerToken: number;
}

/** One line of a plan, for inspection. */
/** A piece of KV with every query that one worker computes for it; once for each KV head. */
export interface NativeWorkItem {
  /** Its KV tokens. */
  kvLen: number;
  /** Numbers of the queries, as the tree lists them. */
  queries: number[];
  /** Leading tokens that all of them see; the rest has a mask bit a token and query. */
  denseLen: number;
  /** A query of it is in other items too, so its result is merged. */
  writesPartial: boolean;
}

export interface NativeAddon {
  version: string;
  cpu: { level: string; features: Record<string, boolean> };
  /**
   * [async] Loads on the engine's own thread; `onStep` is called on the JavaScript thread, never re-entrantly. `signal`
   * ends the load between two tensors (E_ABORTED); it is not looked at afterwards.
   */
  load(spec: NativeLoadSpec, onStep: (message: NativeStepMessage) => void, signal?: AbortSignal): Promise<NativeEngine>;
  /** [sync] Asks the driver, at each call anew; a few tenths of a second where a GPU has to wake up. Throws nothing. */
  cudaStatus(): NativeCudaStatus;
  /** [sync] The file of cuBLASLt that a GPU's matrix products would use. Throws E_DEVICE with the places it looked at. */
  findCublasLt(): string;
  /** [sync] Needs no GPU. */
  cudaMemory(config: NativeLlamaConfig, maxStepTokens: number): NativeCudaMemory;
  /** [sync] Values of whole blocks of a GGUF or float type. */
  dequantize(dtype: string, bytes: Uint8Array): Float32Array;
  /** [sync] The plan of a tree in the format of docs/benchmarks.md, without a model. */
  plan(
    tree: { nodes: { parent: number; len: number }[]; queries: number[] },
    options: {
      policy: AttentionPolicy;
      numQoHeads: number;
      numKvHeads: number;
      headDim: number;
      numProcessors: number;
    },
  ): NativeAttentionPlan;
}

/** The plan of one step; counts are of one layer. */
export interface NativeAttentionPlan {
  /** The dearest first. */
  items: NativeWorkItem[];
  kvTokensRead: number;
  /** What reading each query's keys separately would take. */
  kvTokensUnshared: number;
  maskBytes: number;
  /** (O, LSE) pairs that are written and merged. */
  partialStates: number;
}

/** What {@link NativeAddon.benchAttention} measures; see native/attention/bench_tree.h. */
export interface NativeAttentionBenchRequest {
  nodes: { parent: number; len: number }[];
  /** Node of each query. None: only the copy rate is measured. */
  queries: number[];
  policies: AttentionPolicy[];
  device: "cpu" | "cuda";
  numLayers: number;
  numQoHeads: number;
  numKvHeads: number;
  headDim: number;
  numRounds: number;
  /** 0: chosen from the machine's cores. */
  numThreads: number;
  /** As an earlier call of the same run measured it; left out: measured now. */
  copyBytesPerS?: number;
}

/** One policy. Times and bytes are of one step over all layers. */
export interface NativeAttentionBenchRow {
  policy: AttentionPolicy;
  ms: number;
  /** max(bytes of unique K/V, Q and O / copy rate, flops / matrix rate) */
  floorMs: number;
  /** floor*: with what the launches cost. The same as floorMs on the CPU. */
  floorStarMs: number;
  kvBytesRead: number;
  kvBytesUnshared: number;
  maskBytes: number;
  partialBytes: number;
  /** Of a layer; each is computed for every KV head. */
  workItems: number;
  launches: number;
  /** Largest difference of an output element from attention in double precision. */
  maxError: number;
  /** That of the same computation key by key in the storage type; on a GPU. */
  typeError?: number;
}

/** What it measured, and on which device. */
export interface NativeAttentionBench {
  device: string;
  kvType: string;
  /** Read plus written. */
  copyBytesPerS: number;
  numQueries: number;
  kvBytesUnique: number;
  rows: NativeAttentionBenchRow[];
}

export interface NativeAddon {
  /**
   * Measures attention without a model, on a thread of its own. Throws E_BAD_ARGUMENT for a malformed request at once;
   * `result` rejects with E_OOM, E_DEVICE, and E_ABORTED soon after `cancel`.
   */
  benchAttention(request: NativeAttentionBenchRequest): { result: Promise<NativeAttentionBench>; cancel(): void };
}
