import { benchAgents } from "@deftree/bench";
import type { Command } from "commander";
import { addModelOptions, engineOptions, integer, type ModelFlags } from "../options.js";
import { formatMs, Output } from "../output.js";

interface BenchAgentsFlags extends ModelFlags {
  agents: number;
  promptTokens: number;
  maxTokens: number;
  rounds: number;
  signal: AbortSignal;
}

export function addBenchAgents(bench: Command): void {
  addModelOptions(bench.command("agents"))
    .description("agents asked at one moment with one system prompt: what is computed, and how long each waits")
    .option("--agents <n>", "asked together", integer(1), 8)
    .option("--prompt-tokens <n>", "of the system prompt, at least", integer(1), 1000)
    .option("--max-tokens <n>", "of an answer", integer(1), 32)
    .option("--rounds <n>", "each with a new system prompt", integer(1), 5)
    .action(agents);
}

async function agents(flags: BenchAgentsFlags): Promise<void> {
  const output = new Output(flags.json);
  const result = await benchAgents({
    ...flags,
    engine: engineOptions(flags),
    onRound: ({ firstMs, lastMs }) => output.progress(`first tokens after ${formatMs(firstMs)} to ${formatMs(lastMs)}`),
  });
  output.line(`${result.model} on ${result.device}: ${result.agents} agents`);
  output.table(
    ["round", "prompt of each", "computed of all", "first token, first agent", "last agent", "last / first"],
    result.rounds.map((round, i) => [
      String(i + 1),
      round.promptTokens.toFixed(0),
      String(round.computedTokens),
      formatMs(round.firstMs),
      formatMs(round.lastMs),
      (round.lastMs / round.firstMs).toFixed(2),
    ]),
  );
  if (result.interrupted) output.line("interrupted: this is what was measured so far");
  output.record(result);
}
