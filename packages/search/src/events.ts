/**
 * The one event stream of a search: plain data, so that a viewer, a trace and a test read the same thing. Thoughts are
 * numbered in order of creation; 0 is the root (the problem itself).
 */
export type ThoughtId = number;

export type SearchEvent<State = unknown, Answer = unknown> =
  | { type: "search:started"; strategy: string; problem: string; seed: number }
  | { type: "thought:started"; thought: ThoughtId; parent: ThoughtId; depth: number }
  | { type: "thought:tokens"; thought: ThoughtId; text: string; tokens: number }
  | {
      type: "thought:finished";
      thought: ThoughtId;
      text: string;
      tokens: number;
      finishReason: "stop" | "length" | "cut" | "aborted";
      state: State;
      ended: boolean;
    }
  | { type: "thought:scored"; thought: ThoughtId; score: number }
  | { type: "thought:pruned"; thought: ThoughtId; reason: string }
  | { type: "level:selected"; depth: number; kept: ThoughtId[]; dropped: ThoughtId[] }
  | { type: "solution"; thought: ThoughtId; answer: Answer; score: number; solved: boolean }
  | { type: "budget:reached"; budget: "tokens" | "time" | "thoughts" | "aborted"; limit: number; used: number }
  | { type: "done"; statistics: SearchStatistics };

export interface SearchStatistics {
  strategy: string;
  thoughts: number;
  /** Deepest level that was grown. */
  depth: number;
  generatedTokens: number;
  promptTokens: number;
  reusedTokens: number;
  kvBytesRead: number;
  kvBytesUnshared: number;
  elapsedMs: number;
  bestScore: number | undefined;
  solved: boolean;
}
