import { type AttentionBenchRow, benchAttentionTrees, readTreeFile } from "@deftree/bench";
import { type AttentionPolicy, attentionPolicies, inspectHost } from "@deftree/engine";
import { type Command, InvalidArgumentError, Option } from "commander";
import { integer } from "../options.js";
import { formatBytes, formatMs, Output } from "../output.js";

interface BenchAttentionFlags {
  trees: string;
  policies: AttentionPolicy[];
  device: "auto" | "cpu" | "cuda";
  layers: number;
  heads: { qo: number; kv: number };
  headDim: number;
  rounds: number;
  threads?: number;
  only?: string;
  json: boolean;
  signal: AbortSignal;
}

export function addBenchAttention(bench: Command): void {
  bench
    .command("attention")
    .description("attention of one decode step on trees from a file, policy by policy, beside what the memory allows")
    .requiredOption("--trees <file>", 'JSON: [{"name", "nodes": [{"parent", "len"}], "queries": [node]}]')
    .option("--only <text>", "only trees whose name contains this")
    .option("--policies <list>", `by commas, of ${attentionPolicies.join(", ")}`, policies, [...attentionPolicies])
    .addOption(
      new Option("--device <device>", "where to compute; auto: on a GPU if there is one")
        .choices(["auto", "cpu", "cuda"])
        .default("auto"),
    )
    .option("--layers <n>", "layers of a step, each with K/V of its own", integer(1), 32)
    .option("--heads <q/kv>", "query heads / KV heads", heads, { qo: 32, kv: 8 })
    .option("--head-dim <n>", "size of a head", integer(1), 128)
    .option("--rounds <n>", "steps of which the median is taken", integer(1), 20)
    .option("--threads <n>", "compute threads of the CPU", integer(1))
    .option("--json", "print one JSON line instead of text", false)
    .action(attention);
}

function policies(text: string): AttentionPolicy[] {
  return text.split(",").map((name) => {
    const policy = attentionPolicies.find((known) => known === name);
    if (!policy) throw new InvalidArgumentError(`"${name}" is none of ${attentionPolicies.join(", ")}.`);
    return policy;
  });
}

function heads(text: string): { qo: number; kv: number } {
  const [qo, kv] = /^([1-9]\d*)\/([1-9]\d*)$/.exec(text)?.slice(1).map(Number) ?? [];
  if (!qo || !kv || qo % kv !== 0)
    throw new InvalidArgumentError('"32/8" is wanted, the first a multiple of the second.');
  return { qo, kv };
}

function presentDevice(): "cpu" | "cuda" {
  return inspectHost().cuda.devices.length > 0 ? "cuda" : "cpu";
}

async function attention(flags: BenchAttentionFlags): Promise<void> {
  const output = new Output(flags.json);
  const all = await readTreeFile(flags.trees);
  const trees = all.filter(({ name }) => name.includes(flags.only ?? ""));
  const device = flags.device === "auto" ? presentDevice() : flags.device;
  output.progress(
    `${trees.length} of ${all.length} trees on ${device}, ${flags.layers} layers, ${flags.policies.join(", ")}`,
  );
  const result = await benchAttentionTrees({
    ...flags,
    device,
    trees,
    onTree: (tree, rows) => output.progress(`${tree}: ${formatMs(rows[0]?.ms ?? Number.NaN)}`),
  });
  output.line(
    `${result.device}: copy ${formatBytes(result.copyBytesPerS)}/s; ${result.heads} heads of ${result.headDim}, ` +
      `${result.kvType}; times and bytes of one step over ${result.layers} layers`,
  );
  output.table(
    [
      "tree",
      "policy",
      "step",
      "of floor",
      "of floor*",
      "rate",
      "KV read",
      "KV saved",
      "masks",
      "partials",
      "items",
      "launches",
      "error",
      "type's",
    ],
    result.rows.map(cells),
  );
  for (const { policy, ratio } of result.timesFloorStar) {
    if (!Number.isNaN(ratio)) output.line(`geometric mean of ${policy}: ${ratio.toFixed(2)} x floor*`);
  }
  output.record(result);
}

function cells(row: AttentionBenchRow): string[] {
  return [
    row.tree,
    row.policy,
    formatMs(row.ms),
    percent(row.floorFraction),
    percent(row.floorStarFraction),
    `${formatBytes(row.tbPerS * 1e12)}/s`,
    formatBytes(row.kvBytesRead),
    formatBytes(row.kvBytesSaved),
    formatBytes(row.maskBytes),
    formatBytes(row.partialBytes),
    String(row.workItems),
    String(row.launches),
    row.maxError.toExponential(1),
    row.typeError?.toExponential(1) ?? "-",
  ];
}

function percent(fraction: number): string {
  return `${(100 * fraction).toFixed(0)}%`;
}
