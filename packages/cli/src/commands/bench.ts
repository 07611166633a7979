import { benchDecode, compareStrategies, describeMachine, type MethodScore } from "@deftree/bench";
import { ChatDeftree } from "@deftree/langchain";
import type { Command } from "commander";
import { addModelOptions, engineOptions, integer, type ModelFlags } from "../options.js";
import { formatBytes, formatMs, Output } from "../output.js";
import { printScores } from "../score-table.js";
import { demoLength } from "./demo.js";

export function addBenchCommand(program: Command): void {
  const bench = program
    .command("bench")
    .description("measure; every benchmark prints a table and, with --json, one line");
  addModelOptions(bench.command("decode"))
    .description("one shared prefix, several branches: prefill, tokens/s and where the time of a step goes")
    .option("--prefix <n>", "tokens of the shared prefix", integer(1), 512)
    .option("--branches <list>", "numbers of branches, by commas", counts, [1, 4, 16])
    .option("--tokens <n>", "tokens each branch decodes", integer(1), 32)
    .option("--max-step-tokens <n>", "most query tokens of one step", integer(1))
    .action(decode);
  addModelOptions(bench.command("search"))
    .description("Tree of Thoughts, best-of-n at equal tokens and single-shot on fixed sorting problems")
    .option("--items <n>", "problems", integer(1), 100)
    .option("--length <n>", "numbers per list", integer(1), demoLength)
    .option("--seeds <n>", "seeds 1..n, one run each", integer(1), 3)
    .option("--width <n>", "thoughts per level", integer(1), 8)
    .option("--keep <n>", "thoughts kept per level", integer(1), 3)
    .action(searchQuality);
}

function counts(text: string): number[] {
  return text.split(",").map(integer(1));
}

interface DecodeFlags extends ModelFlags {
  prefix: number;
  branches: number[];
  tokens: number;
  maxStepTokens?: number;
}

async function decode(flags: DecodeFlags): Promise<void> {
  const output = new Output(flags.json);
  const result = await benchDecode({
    ...engineOptions(flags),
    model: flags.model,
    prefixTokens: flags.prefix,
    branches: flags.branches,
    newTokens: flags.tokens,
    maxStepTokens: flags.maxStepTokens,
  });
  output.line(
    `${result.model}, ${result.weights} weights (${formatBytes(result.weightBytes)}), ${result.kvType} KV, ` +
      `${result.threads} threads, ${result.attention}; prefix ${result.prefixTokens}, ${result.newTokens} new tokens`,
  );
  output.table(
    [
      "branches",
      "prefill",
      "n prompts at once",
      "tokens/s",
      "step",
      "linear",
      "attention",
      "sampling",
      "rest",
      "overhead",
      "KV read",
      "unshared",
      "memory",
    ],
    result.rows.map((row) => [
      String(row.branches),
      formatMs(row.prefillMs),
      formatMs(row.concurrentPrefillMs),
      row.decodeTokensPerSecond.toFixed(1),
      formatMs(row.stepMs),
      formatMs(row.linearMs),
      formatMs(row.attentionMs),
      formatMs(row.samplingMs),
      formatMs(row.otherForwardMs),
      `${row.overheadPercent.toFixed(1)}%`,
      formatBytes(row.kvBytesReadPerStep),
      formatBytes(row.kvBytesUnsharedPerStep),
      formatBytes(row.memoryBytes),
    ]),
  );
  output.result(result);
}

interface SearchFlags extends ModelFlags {
  items: number;
  length: number;
  seeds: number;
  width: number;
  keep: number;
  signal: AbortSignal;
}

async function searchQuality(flags: SearchFlags): Promise<void> {
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
  output.result({
    benchmark: "search",
    machine: describeMachine(),
    model: flags.model,
    length: flags.length,
    items: flags.items,
    runs,
  });
}
