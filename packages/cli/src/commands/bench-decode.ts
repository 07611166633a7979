import { benchDecode, type DecodeBenchRow, workloadNames } from "@deftree/bench";
import type { Command } from "commander";
import { addModelOptions, engineOptions, integer, integers, type ModelFlags } from "../options.js";
import { formatBytes, formatMs, Output } from "../output.js";

interface BenchDecodeFlags extends ModelFlags {
  workload: string;
  promptTokens?: number;
  width?: number[];
  steps?: number;
  firstStep?: number;
  tree?: number;
  templates?: string;
  maxStepTokens?: number;
  profile: boolean;
  signal: AbortSignal;
}

export function addBenchDecode(bench: Command): void {
  addModelOptions(bench.command("decode"))
    .description(
      "the decode steps of a workload on a whole model: time to first token, time per step and where it goes",
    )
    .option("--workload <name>", `one of ${workloadNames.join(", ")}; medusa-N for any N`, "few-shot")
    .option("--prompt-tokens <n>", "tokens of the prompt (default: 512, or as recorded)", integer(1))
    .option(
      "--width <list>",
      "few-shot, same-prompt: branches, thoughts: a level's; by commas, a row each",
      integers(1),
    )
    .option("--steps <n>", "steps to measure (default: 32, or the recorded run); thoughts: tokens of one", integer(1))
    .option("--first-step <n>", "begin at this step of the run, with the tree it has then", integer(1))
    .option("--tree <n>", "which of the recorded trees (default: 0)", integer(0))
    .option("--templates <folder>", "folder of recorded shapes: sorting128ToT.json, medusa.json and so on")
    .option("--max-step-tokens <n>", "most query tokens of one step", integer(1))
    .option("--profile", "on a GPU: time the parts of a step, which slows it down", false)
    .action(decode);
}

async function decode(flags: BenchDecodeFlags): Promise<void> {
  const output = new Output(flags.json);
  const { width, workload, promptTokens, steps, firstStep, tree, templates, maxStepTokens, profile, signal } = flags;
  const result = await benchDecode({
    ...engineOptions(flags),
    ...{ model: flags.model, workload, promptTokens, widths: width, steps, firstStep, tree, templates },
    ...{ maxStepTokens, profile, signal },
    onNotice: (text) => output.progress(text),
    onRow: (row) => output.progress(`${row.workload}: ${formatMs(row.stepMs)} a step`),
  });
  output.line(
    `${result.model} on ${result.device}: ${result.weights} weights ${formatBytes(result.weightBytes)}, ` +
      `${result.kvType} KV ${formatBytes(result.kvBytes)}, memory ${formatBytes(result.memoryBytes)}, ` +
      `${result.attention}; copy ${formatBytes(result.copyBytesPerS)}/s`,
  );
  output.table(
    ["workload", "prompt", "steps", "branches", "TTFT", "step", "p99", "of floor", "per token", "tokens/s", "overhead"],
    result.rows.map(timeCells),
  );
  output.line("of a step:");
  output.table(
    ["workload", "attention", "linear", "sampling", "rest", "KV read", "unshared", "KV once", "masks", "partials"],
    result.rows.map(stepCells),
  );
  if (result.interrupted) output.line("interrupted: this is what was measured so far");
  output.record(result);
}

function timeCells(row: DecodeBenchRow): string[] {
  return [
    row.workload,
    String(row.promptTokens),
    String(row.steps),
    row.branches.toFixed(1),
    formatMs(row.ttftMs),
    formatMs(row.stepMs),
    formatMs(row.stepP99Ms),
    `${row.timesFloor.toFixed(2)} x ${formatMs(row.floorMs)}`,
    formatMs(row.tpotMs),
    row.tokensPerSecond.toFixed(1),
    `${row.overheadPercent.toFixed(1)}%`,
  ];
}

function stepCells({ parts, ...row }: DecodeBenchRow): string[] {
  const times = parts ? [parts.attentionMs, parts.linearMs, parts.samplingMs, parts.otherForwardMs] : [];
  return [
    row.workload,
    ...(parts ? times.map(formatMs) : ["-", "-", "-", "-"]),
    formatBytes(row.kvBytesRead),
    formatBytes(row.kvBytesUnshared),
    formatBytes(row.kvBytesUnique),
    formatBytes(row.maskBytes),
    formatBytes(row.partialBytes),
  ];
}
