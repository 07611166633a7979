import { readFile } from "node:fs/promises";
import { firstFixedProblem, type SortingOutcome, solveSorting, sortingTree, sumOutcomes } from "@deftree/bench";
import { DeftreeError } from "@deftree/engine";
import { ChatDeftree } from "@deftree/langchain";
import { bestOfN, type Strategy, singleShot } from "@deftree/search";
import { formatList, generateSorting, readSortingCsv } from "@deftree/tasks";
import { type Command, Option } from "commander";
import { LiveTree } from "../live-tree.js";
import {
  addModelOptions,
  addSearchOptions,
  engineOptions,
  integer,
  type ModelFlags,
  type SearchFlags,
} from "../options.js";
import { formatBytes, formatCount, Output } from "../output.js";

interface RunFlags extends ModelFlags, SearchFlags {
  strategy: "tot" | "best-of-n" | "single";
  grow: "continue" | "reprompt";
  data?: string;
  seed: number;
  signal: AbortSignal;
}

export function addRunCommand(program: Command): void {
  const run = program.command("run").description("solve a task's problems, one search each");
  addSearchOptions(addModelOptions(run.command("sorting")), { items: 10 })
    .description("sort lists of digits")
    .addOption(new Option("--strategy <name>", "how to search").choices(["tot", "best-of-n", "single"]).default("tot"))
    .addOption(
      new Option("--grow <way>", "tot: parts of one answer, or whole answers improved by new prompts")
        .choices(["continue", "reprompt"])
        .default("continue"),
    )
    .option("--data <file>", "CSV with the columns ID, Unsorted, Sorted instead of generated lists")
    .option("--seed <n>", "seed of the sampling", integer(0), 1)
    .action(runSorting);
}

async function runSorting(flags: RunFlags): Promise<void> {
  const output = new Output(flags.json);
  const inputs = await readInputs(flags);
  await using model = new ChatDeftree({ ...engineOptions(flags), model: flags.model });
  const { info } = await model.engine();
  output.progress(`${info.modelName} on ${info.description}: ${inputs.length} problems by ${flags.strategy}`);

  const outcomes: SortingOutcome[] = [];
  for (const [item, input] of inputs.entries()) {
    if (flags.signal.aborted) break;
    const view = new LiveTree(`problem ${item + 1} of ${inputs.length}: ${formatList(input)}`, output);
    try {
      const outcome = await solveSorting(
        { ...flags, model },
        input,
        strategyOf(flags, input.length),
        undefined,
        (event) => view.show(event),
      );
      outcomes.push(outcome);
      view.finish(
        `problem ${item + 1}: ${outcome.solved ? "solved" : `${outcome.errors} errors`}, ` +
          `${outcome.statistics.thoughts} thoughts, ${outcome.statistics.generatedTokens} tokens`,
      );
    } catch (error) {
      if (!flags.signal.aborted) throw error;
    }
  }
  if (outcomes.length === 0) return;
  const sums = sumOutcomes(outcomes);
  output.line(
    `${sums.solved} of ${sums.items} exact, ${sums.meanErrors.toFixed(2)} errors on average; ` +
      `${formatCount(sums.generatedTokens)} tokens at ${formatCount(sums.tokensPerSecond)} a second; ` +
      `${formatCount(sums.reusedTokens)} of ${formatCount(sums.promptTokens)} prompt tokens reused; ` +
      `KV read ${formatBytes(sums.kvBytesRead)} instead of ${formatBytes(sums.kvBytesUnshared)}`,
  );
  output.result({
    command: "run",
    task: "sorting",
    model: info.modelName,
    strategy: flags.strategy,
    seed: flags.seed,
    ...sums,
    problems: outcomes.map(({ errors, answer }, i) => ({ input: inputs[i], answer, errors })),
  });
}

async function readInputs(flags: RunFlags): Promise<readonly (readonly number[])[]> {
  if (flags.data === undefined) {
    return Array.from({ length: flags.items }, (_, i) => generateSorting(flags.length, firstFixedProblem + i));
  }
  let text: string;
  try {
    text = await readFile(flags.data, "utf8");
  } catch (cause) {
    throw new DeftreeError("E_BAD_ARGUMENT", `--data ${flags.data} cannot be read: ${(cause as Error).message}`, {
      cause,
    });
  }
  try {
    return readSortingCsv(text)
      .slice(0, flags.items)
      .map((row) => row.unsorted);
  } catch (cause) {
    throw new DeftreeError("E_BAD_ARGUMENT", `--data ${flags.data}: ${(cause as Error).message}`, { cause });
  }
}

function strategyOf(flags: RunFlags, length: number): Strategy {
  switch (flags.strategy) {
    case "single":
      return singleShot();
    case "best-of-n":
      return bestOfN({ n: flags.width });
    case "tot":
      return sortingTree({ ...flags, length });
  }
}
