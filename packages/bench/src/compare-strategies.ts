import type { ChatDeftree } from "@deftree/langchain";
import { treeOfThoughts } from "@deftree/langchain";
import {
  bestOfN,
  breadthFirst,
  type SearchEvent,
  type SearchStatistics,
  type Strategy,
  singleShot,
} from "@deftree/search";
import {
  generateSorting,
  type NumberListState,
  SORTING_UNREADABLE,
  sortingErrors,
  sortingProblem,
} from "@deftree/tasks";

/**
 * Three ways to spend tokens on the same sorting problems: one greedy answer, Tree of Thoughts, and best-of-n with as
 * many generated tokens as Tree of Thoughts took on that problem. All three run through LangChain.
 */
export interface CompareOptions {
  model: ChatDeftree;
  /** Numbers per list. */
  length: number;
  /** Problems: the lists `generateSorting(length, firstProblem + i)`. */
  items: number;
  firstProblem?: number;
  /** Seed of all sampling. */
  seed: number;
  width?: number;
  keep?: number;
  grow?: "continue" | "reprompt";
  signal?: AbortSignal;
  onStart?(method: CompareMethod, item: number, input: readonly number[]): void;
  onEvent?(method: CompareMethod, item: number, event: SearchEvent<NumberListState, readonly number[]>): void;
  onFinish?(method: CompareMethod, item: number, outcome: SortingOutcome): void;
}

export type CompareMethod = "single-shot" | "best-of-n" | "tree-of-thoughts";

export interface SortingOutcome {
  /** The paper's error score; 0 exactly when solved. */
  errors: number;
  solved: boolean;
  answer: readonly number[] | undefined;
  statistics: SearchStatistics;
}

/** Sums over the problems. */
export interface OutcomeSums {
  items: number;
  solved: number;
  meanErrors: number;
  generatedTokens: number;
  promptTokens: number;
  reusedTokens: number;
  kvBytesRead: number;
  kvBytesUnshared: number;
  seconds: number;
  tokensPerSecond: number;
}

export interface MethodScore extends OutcomeSums {
  method: CompareMethod;
}

/** Problems that neither training data nor tuning used: the seeds start far from those of the corpus. */
export const firstFixedProblem = 7_000_000;

export async function compareStrategies(options: CompareOptions): Promise<MethodScore[]> {
  const { length, items, firstProblem = firstFixedProblem, signal } = options;
  const outcomes: Record<CompareMethod, SortingOutcome[]> = {
    "single-shot": [],
    "best-of-n": [],
    "tree-of-thoughts": [],
  };
  for (let item = 0; item < items && !signal?.aborted; item++) {
    const input = generateSorting(length, firstProblem + item);
    const run = async (method: CompareMethod, strategy: Strategy, tokens?: number) => {
      options.onStart?.(method, item, input);
      const outcome = await solveSorting(options, input, strategy, tokens, (event) =>
        options.onEvent?.(method, item, event),
      );
      outcomes[method].push(outcome);
      options.onFinish?.(method, item, outcome);
      return outcome;
    };
    try {
      await run("single-shot", singleShot());
      const tree = await run("tree-of-thoughts", sortingTree(options));
      await run("best-of-n", bestOfN({ n: Number.POSITIVE_INFINITY }), tree.statistics.generatedTokens);
    } catch (error) {
      // What was measured before an interruption still counts.
      if (!signal?.aborted) throw error;
    }
  }
  return Object.entries(outcomes)
    .filter(([, list]) => list.length > 0)
    .map(([method, list]) => ({ method: method as CompareMethod, ...sumOutcomes(list) }));
}

/** The Tree of Thoughts that demo, run and benchmark share: thoughts of 8 numbers, the best `keep` grow on. */
export function sortingTree(options: Pick<CompareOptions, "length" | "width" | "keep" | "grow">): Strategy {
  const { length, grow = "continue", width = 8, keep = 3 } = options;
  const depth = grow === "continue" ? Math.ceil(length / 8) + 1 : 4;
  return breadthFirst({ grow, width, keep: grow === "continue" ? keep : 1, depth, attempts: 4 * width });
}

/** One search on one list, through the LangChain Runnable. Rejects when `signal` aborts. */
export async function solveSorting(
  options: { model: ChatDeftree; seed: number; signal?: AbortSignal },
  input: readonly number[],
  strategy: Strategy,
  tokens?: number,
  onEvent?: (event: SearchEvent<NumberListState, readonly number[]>) => void,
): Promise<SortingOutcome> {
  const runnable = treeOfThoughts({
    model: options.model,
    problem: (numbers: readonly number[]) => sortingProblem(numbers),
    strategy,
    seed: options.seed,
    budget: tokens === undefined ? undefined : { tokens },
  });
  let answer: readonly number[] | undefined;
  let statistics: SearchStatistics | undefined;
  for await (const event of await runnable.stream(input, { signal: options.signal })) {
    onEvent?.(event);
    if (event.type === "solution") answer = event.answer;
    if (event.type === "done") statistics = event.statistics;
  }
  if (statistics === undefined) throw new Error("the search ended without its statistics");
  const errors = answer === undefined ? SORTING_UNREADABLE : sortingErrors(input, answer);
  return { errors, solved: errors === 0, answer, statistics };
}

/** Sums of a method's outcomes; at least one. */
export function sumOutcomes(outcomes: readonly Omit<SortingOutcome, "answer">[]): OutcomeSums {
  const sum = (value: (outcome: Omit<SortingOutcome, "answer">) => number) =>
    outcomes.reduce((total, outcome) => total + value(outcome), 0);
  const generatedTokens = sum((outcome) => outcome.statistics.generatedTokens);
  const seconds = sum((outcome) => outcome.statistics.elapsedMs) / 1000;
  return {
    items: outcomes.length,
    solved: outcomes.filter((outcome) => outcome.solved).length,
    meanErrors: sum((outcome) => outcome.errors) / outcomes.length,
    generatedTokens,
    promptTokens: sum((outcome) => outcome.statistics.promptTokens),
    reusedTokens: sum((outcome) => outcome.statistics.reusedTokens),
    kvBytesRead: sum((outcome) => outcome.statistics.kvBytesRead),
    kvBytesUnshared: sum((outcome) => outcome.statistics.kvBytesUnshared),
    seconds,
    tokensPerSecond: generatedTokens / seconds,
  };
}
