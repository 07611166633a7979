import { benchPruning, describeMachine } from "@deftree/bench";
import { ChatDeftree } from "@deftree/langchain";
import type { Command } from "commander";
import {
  addModelOptions,
  addSearchOptions,
  engineOptions,
  integer,
  type ModelFlags,
  type SearchFlags,
} from "../options.js";
import { formatCount, Output } from "../output.js";

interface BenchPruningFlags extends ModelFlags, SearchFlags {
  numbersPerThought: number;
  seed: number;
  signal: AbortSignal;
}

export function addBenchPruning(bench: Command): void {
  addSearchOptions(addModelOptions(bench.command("pruning")), { items: 40 })
    .description("tokens that pruning early saves Tree of Thoughts on fixed sorting problems")
    .option("--numbers-per-thought <n>", "about so many", integer(1), 8)
    .option("--seed <n>", "same seed, same trees", integer(0), 1)
    .action(pruning);
}

async function pruning(flags: BenchPruningFlags): Promise<void> {
  const { length, items, numbersPerThought, width, keep, seed, signal } = flags;
  const output = new Output(flags.json);
  await using model = new ChatDeftree({ ...engineOptions(flags), model: flags.model });
  const rows = await benchPruning({
    ...{ model, length, items, numbersPerThought, width, keep, seed, signal },
    onItem: (item) => (item + 1) % 10 === 0 && output.progress(`${item + 1} of ${items}`),
  });
  const percent = (share: number) => `${(100 * share).toFixed(1)}%`;
  output.line(`${length} numbers, ${numbersPerThought} a thought, width ${width}, keep ${keep}`);
  output.table(
    ["pruning", "exact", "tokens", "saved", "of hopeless", "of duplicates", "seconds"],
    rows.map((row) => [
      row.pruning,
      `${row.solved}/${row.items}`,
      formatCount(row.generatedTokens),
      percent(row.saved),
      percent(row.hopelessTokens),
      percent(row.duplicateTokens),
      row.seconds.toFixed(1),
    ]),
  );
  if (signal.aborted) output.line("interrupted: this is what was measured so far");
  output.record({
    ...{ benchmark: "pruning", machine: describeMachine(), model: flags.model },
    ...{ length, items, numbersPerThought, width, keep, seed, rows },
  });
}
