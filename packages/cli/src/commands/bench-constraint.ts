import { benchConstraint } from "@deftree/bench";
import type { Command } from "commander";
import { addModelOptions, engineOptions, integer, type ModelFlags, number } from "../options.js";
import { formatMs, Output } from "../output.js";

interface BenchConstraintFlags extends ModelFlags {
  branches: number;
  promptTokens: number;
  steps: number;
  rounds: number;
  temperature: number;
  signal: AbortSignal;
}

export function addBenchConstraint(bench: Command): void {
  addModelOptions(bench.command("constraint"))
    .description("what keeping to a JSON Schema adds to a decode step, against free decoding in turns")
    .option("--branches <n>", "decoded side by side", integer(1), 16)
    .option("--prompt-tokens <n>", "that they share", integer(1), 256)
    .option("--steps <n>", "decode steps of a turn", integer(1), 150)
    .option("--rounds <n>", "turns of each kind", integer(1), 20)
    .option("--temperature <t>", "0 is greedy", number(0), 1.5)
    .action(constraint);
}

async function constraint(flags: BenchConstraintFlags): Promise<void> {
  const output = new Output(flags.json);
  const result = await benchConstraint({ ...flags, engine: engineOptions(flags) });
  output.line(`${result.model} on ${result.device}: ${result.branches} branches, vocabulary of ${result.vocabSize}`);
  output.table(
    ["decoding", "step", "of free", "10% to 90%", "compiling"],
    result.rows.map((row) => [
      row.decoding,
      formatMs(row.stepMs),
      row.ratio.toFixed(3),
      `${row.ratioP10.toFixed(3)} to ${row.ratioP90.toFixed(3)}`,
      formatMs(row.compileMs),
    ]),
  );
  if (result.interrupted) output.line("interrupted: this is what was measured so far");
  output.record(result);
}
