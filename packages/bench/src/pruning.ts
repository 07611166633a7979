import { type ChatDeftree, thoughtSearch } from "@deftree/langchain";
import { breadthFirst, type SearchResult } from "@deftree/search";
import { generateSorting, sortingProblem } from "@deftree/tasks";
import { firstFixedProblem } from "./compare-strategies.js";

/**
 * What pruning early saves: the same searches on the same sorting problems without it, with hopeless thoughts cut in the
 * middle, and with levels narrowed too where thoughts agree. All else is equal.
 */
export interface PruningBenchOptions {
  model: ChatDeftree;
  /** Numbers per list. */
  length: number;
  /** Problems: the lists `generateSorting(length, firstFixedProblem + i)`. */
  items: number;
  numbersPerThought: number;
  width: number;
  keep: number;
  seed: number;
  /** Ends the run between two problems; the result holds what was measured so far. */
  signal?: AbortSignal;
  onItem?(item: number): void;
}

/** Sums over the problems. */
export interface PruningRow {
  pruning: "late" | "cut hopeless" | "cut hopeless, narrow agreed";
  items: number;
  solved: number;
  generatedTokens: number;
  /** Share of the tokens without early pruning. */
  saved: number;
  /** Share of the tokens that belong to thoughts dropped for a fault, and for saying what a sibling said. */
  hopelessTokens: number;
  duplicateTokens: number;
  seconds: number;
}

const kinds = [
  { pruning: "late", cutHopeless: false, narrowAgreed: false },
  { pruning: "cut hopeless", cutHopeless: true, narrowAgreed: false },
  { pruning: "cut hopeless, narrow agreed", cutHopeless: true, narrowAgreed: true },
] as const;

export async function benchPruning(options: PruningBenchOptions): Promise<PruningRow[]> {
  const { model, length, items, numbersPerThought, width, keep, seed, signal, onItem } = options;
  const depth = Math.ceil(length / numbersPerThought) + 1;
  const rows = kinds.map(({ pruning }) => ({
    ...{ pruning, items: 0, solved: 0, generatedTokens: 0, saved: 0 },
    ...{ hopelessTokens: 0, duplicateTokens: 0, seconds: 0 },
  }));
  for (let item = 0; item < items && !signal?.aborted; item++) {
    const input = generateSorting(length, firstFixedProblem + item);
    for (const [i, { cutHopeless, narrowAgreed }] of kinds.entries()) {
      const search = thoughtSearch({
        ...{ model, seed },
        problem: (numbers: readonly number[]) => sortingProblem(numbers, { numbersPerThought }),
        strategy: breadthFirst({
          ...{ grow: "continue", width, keep, depth, attempts: 4 * width },
          ...{ cutHopeless, narrowAgreed },
        }),
      });
      addResult(rows[i]!, await search.invoke(input));
    }
    onItem?.(item);
  }
  const late = rows[0]!.generatedTokens;
  const share = (part: number, whole: number) => (whole === 0 ? 0 : part / whole);
  return rows.map((row) => ({
    ...row,
    saved: share(late - row.generatedTokens, late),
    hopelessTokens: share(row.hopelessTokens, row.generatedTokens),
    duplicateTokens: share(row.duplicateTokens, row.generatedTokens),
  }));
}

function addResult(row: PruningRow, { solved, statistics, tree }: SearchResult<unknown, unknown>): void {
  const tokensOf = (...reasons: (string | undefined)[]) =>
    tree.thoughts.reduce((sum, { pruneReason, tokens }) => sum + (reasons.includes(pruneReason) ? tokens : 0), 0);
  row.items++;
  row.solved += Number(solved);
  row.generatedTokens += statistics.generatedTokens;
  row.seconds += statistics.elapsedMs / 1000;
  row.hopelessTokens += tokensOf("hopeless", "unsolved");
  row.duplicateTokens += tokensOf("duplicate");
}
