import { compareStrategies, describeMachine, type MethodScore } from "@deftree/bench";
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
import { Output } from "../output.js";
import { printScores } from "../score-table.js";

interface BenchSearchFlags extends ModelFlags, SearchFlags {
  seeds: number;
  signal: AbortSignal;
}

export function addBenchSearch(bench: Command): void {
  addSearchOptions(addModelOptions(bench.command("search")), { items: 100 })
    .description("Tree of Thoughts, best-of-n at equal tokens and single-shot on fixed sorting problems")
    .option("--seeds <n>", "seeds 1..n, one run each", integer(1), 3)
    .action(searchQuality);
}

async function searchQuality(flags: BenchSearchFlags): Promise<void> {
  const output = new Output(flags.json);
  await using model = new ChatDeftree({ ...engineOptions(flags), model: flags.model });
  const runs: { seed: number; methods: MethodScore[] }[] = [];
  for (let seed = 1; seed <= flags.seeds && !flags.signal.aborted; seed++) {
    const methods = await compareStrategies({
      ...flags,
      model,
      seed,
      onFinish(method, item) {
        if (method === "best-of-n" && (item + 1) % 10 === 0)
          output.progress(`seed ${seed}: ${item + 1} of ${flags.items}`);
      },
    });
    runs.push({ seed, methods });
    output.line(`seed ${seed}`);
    printScores(output, methods);
  }
  output.record({
    benchmark: "search",
    machine: describeMachine(),
    model: flags.model,
    length: flags.length,
    items: flags.items,
    runs,
  });
}
