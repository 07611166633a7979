import { benchSpeculation, type SpeculationBenchRow, speculationWorkloadNames } from "@deftree/bench";
import type { Command } from "commander";
import { addModelOptions, engineOptions, integer, type ModelFlags, number } from "../options.js";
import { formatMs, Output } from "../output.js";

interface BenchSpeculationFlags extends ModelFlags {
  workload?: string[];
  prompts?: number;
  maxTokens: number;
  temperature: number;
  seed: number;
  branches: number;
  rounds: number;
  maxDraftTokens?: number;
  costModel?: string;
  costPromptTokens?: number;
  costSteps?: number;
  templates?: string;
  signal: AbortSignal;
}

export function addBenchSpeculation(bench: Command): void {
  addModelOptions(bench.command("speculation"))
    .description("plain against speculative decoding of the same prompts, in alternating order")
    .option("--workload <names>", `by commas, of ${speculationWorkloadNames.join(", ")} (default: all)`, (names) =>
      names.split(","),
    )
    .option("--prompts <n>", "prompts of a workload (default: all)", integer(1))
    .option("--max-tokens <n>", "most tokens of an answer", integer(1), 128)
    .option("--temperature <t>", "0 is greedy", number(0), 0)
    .option("--seed <n>", "of all sampling", integer(0), 1)
    .option("--branches <n>", "prompts decoded side by side", integer(1), 1)
    .option("--rounds <n>", "each with a new engine and the next seed", integer(1), 1)
    .option("--max-draft-tokens <n>", "most tokens of a branch's draft tree in a step (default: 32)", integer(1))
    .option(
      "--cost-model <model>",
      "also measure what verifying 1 to 256 tokens costs, on this model (default: on a GPU random:llama-3-8b)",
    )
    .option("--cost-prompt-tokens <n>", "tokens before the drafts of the cost (default: 6000)", integer(1))
    .option("--cost-steps <n>", "steps for a row of the cost (default: 16)", integer(1))
    .option("--templates <folder>", "folder of recorded shapes with medusa.json, for the cost of its token tree")
    .action(speculation);
}

async function speculation(flags: BenchSpeculationFlags): Promise<void> {
  const output = new Output(flags.json);
  const result = await benchSpeculation({
    ...flags,
    engine: engineOptions(flags),
    workloads: flags.workload,
    onRow: ({ workload, ratio }) => output.progress(`${workload}: ${ratio.toFixed(2)}`),
    onCost: ({ shape, queryTokens, stepMs }) => output.progress(`${shape} of ${queryTokens}: ${formatMs(stepMs)}`),
    onNotice: (text) => output.progress(text),
  });
  output.line(
    `${result.model} on ${result.device}: ${result.weights} weights, ${result.kvType} KV; ` +
      `${result.branches} at once, ${result.rounds} rounds; ` +
      (result.rows.some(({ text }) => text === "real") ? "real text" : "token ids without a meaning"),
  );
  output.table(
    [
      "workload",
      "plain",
      "speculative",
      "ratio",
      "acceptance",
      "tokens/step",
      "drafted, accepted",
      "drafting",
      "differ",
    ],
    result.rows.map(cells),
  );
  if (result.verificationCost) {
    const { model, rows } = result.verificationCost;
    output.line(`Verifying drafts on ${model}, shapes only; a step against one of one query token:`);
    output.table(
      ["shape", "query tokens", "prompt", "step", "ratio"],
      rows.map((row) => [
        row.shape,
        String(row.queryTokens),
        String(row.promptTokens),
        formatMs(row.stepMs),
        row.ratio.toFixed(2),
      ]),
    );
  }
  if (result.interrupted) output.line("interrupted: this is what was measured so far");
  output.record(result);
}

function cells(row: SpeculationBenchRow): string[] {
  return [
    row.temperature === 0 ? row.workload : `${row.workload}, t=${row.temperature}`,
    `${row.plainTokensPerSecond.toFixed(0)} tokens/s`,
    `${row.speculativeTokensPerSecond.toFixed(0)} tokens/s`,
    row.ratio.toFixed(2),
    row.acceptanceLength.toFixed(2),
    row.tokensPerStep.toFixed(2),
    `${row.draftedPerTree.toFixed(1)}, ${row.acceptedPerTree.toFixed(1)}`,
    `${row.draftingPercent.toFixed(1)}%`,
    `${row.differing}/${row.decodes}`,
  ];
}
