/**
 * The one event stream of a search: plain data, so that a viewer, a trace and a test read the same thing. Thoughts are
 * numbered in order of creation; 0 is the root (the problem itself).
 *
 * Of one thought the order is `started`, any number of `tokens`, `finished`, then `scored`, then perhaps `pruned`. A
 * thought that was cut or aborted is pruned without a score. Thoughts of one level decode side by side, so their events
 * interleave as time has it.
 */
export type ThoughtId = number;

export type SearchEvent<State = unknown, Answer = unknown> =
  | {
      type: "search:started";
      strategy: string;
      problem: string;
      model: string;
      seed: number;
      /** Hash of what decides the tree besides the seed: prompt, ends of thoughts, strategy's settings, evaluation. */
      fingerprint: number;
      state: State;
    }
  /**
   * Graph of Thoughts: `merged` names further thoughts that this one joins with its parent's; `parts` the range [begin, end)
   * of the problem's parts that it answers.
   */
  | {
      type: "thought:started";
      thought: ThoughtId;
      parent: ThoughtId;
      depth: number;
      merged?: ThoughtId[];
      parts?: [number, number];
    }
  /** One generation listed several next parts; the thoughts that they become follow. */
  | { type: "parts:listed"; question: number; parent: ThoughtId; parts: string[]; tokens: number }
  /** A new piece of text; `tokens` counts the thought's tokens so far. */
  | { type: "thought:tokens"; thought: ThoughtId; text: string; tokens: number }
  | {
      type: "thought:finished";
      thought: ThoughtId;
      /** The thought's own text, without what ended it. */
      text: string;
      /** Generated for it; 0 for one of a list, which was generated in one piece. */
      tokens: number;
      /** What the branch holds after `text`, where a stop string ended it. */
      stopString?: string;
      /** Of all that the branch holds of this thought, where the model tells them. */
      tokenIds?: number[];
      finishReason: "stop" | "length" | "cut" | "aborted";
      state: State;
      /** The model ended its answer here. */
      ended: boolean;
    }
  /** Again when a vote compares it anew. `failed`: why it has the failure score; `tokens`: generated for the verdict. */
  | { type: "thought:scored"; thought: ThoughtId; score: number; failed?: string; tokens?: number }
  | { type: "thought:pruned"; thought: ThoughtId; reason: PruneReason }
  /** Children of a thought that waits for its verdict were started ahead of their turn; they have no numbers yet. */
  | { type: "ahead:started"; parent: ThoughtId; thoughts: number }
  /** Of these, as many were not wanted; `tokens` were generated for them in vain. */
  | { type: "ahead:dropped"; parent: ThoughtId; thoughts: number; tokens: number }
  | { type: "level:selected"; depth: number; kept: ThoughtId[]; dropped: ThoughtId[] }
  /** Once, before `done`: the thought the search answers with. */
  | { type: "solution"; thought: ThoughtId; answer: Answer; score: number; solved: boolean }
  | { type: "budget:reached"; budget: BudgetName; limit: number; used: number }
  | { type: "search:aborted" }
  | { type: "done"; stopReason: StopReason; statistics: SearchStatistics };

export type BudgetName = "tokens" | "time" | "thoughts" | "nodes" | "kvBytes";

/**
 * `hopeless`: the problem says that it cannot become right; `unsolved`: its answer is complete and not right;
 * `duplicate`: another thought of the level has the same state; `outscored`: selection kept better ones; `exhausted`:
 * everything below it was tried.
 */
export type PruneReason = "hopeless" | "unsolved" | "duplicate" | "outscored" | "exhausted" | "aborted";

/** `finished`: the strategy came to its end; `solved`: it stopped at a solution; else the budget that ended it. */
export type StopReason = "finished" | "solved" | BudgetName | "aborted";

export interface SearchStatistics {
  strategy: string;
  /** Thoughts started, the root not counted. */
  thoughts: number;
  /** Deepest level that was grown. */
  depth: number;
  generatedTokens: number;
  /** Of `generatedTokens`, those of thoughts that were grown ahead and dropped. */
  wastedTokens: number;
  /** Sum of the contexts that the thoughts started from: what a server without shared prefixes would compute. */
  promptTokens: number;
  /** Of `promptTokens`, those that were not computed again. */
  reusedTokens: number;
  /** KV bytes that attention read, and what reading each branch by itself would have cost; of the whole model meanwhile. */
  kvBytesRead: number;
  kvBytesUnshared: number;
  elapsedMs: number;
  bestScore: number | undefined;
  solved: boolean;
}
