import {
  type AttentionPolicy,
  benchAttention,
  DeftreeError,
  type NativeAttentionBenchRequest,
  type NativeAttentionBenchRow,
} from "@deftree/engine";
import { describeMachine, type MachineInfo } from "./machine.js";
import type { NamedTree } from "./tree-file.js";

/**
 * Attention of one decode step, without a model, on any trees.
 *
 * Method (native/attention/bench_tree.h): random K, V and Q; layers with K/V of their own; on a GPU the layers as one CUDA
 * graph; the median after a warm-up; the copy bandwidth measured once in the same run, read and written bytes counted.
 * floor = max(bytes of unique K/V, Q and O / copy bandwidth, flops / 750 TFLOP/s), floor* = floor + 2.5 microseconds a
 * layer; on the CPU only the first term counts.
 */
export interface AttentionBenchOptions {
  trees: readonly NamedTree[];
  policies: readonly AttentionPolicy[];
  device: "cpu" | "cuda";
  layers: number;
  heads: { qo: number; kv: number };
  headDim: number;
  /** Steps of which the median is taken. */
  rounds: number;
  threads?: number;
  /** Ends the run after what is measured; the result holds the trees before. */
  signal?: AbortSignal;
  onTree?(tree: string, rows: readonly AttentionBenchRow[]): void;
}

export interface AttentionBenchRow extends NativeAttentionBenchRow {
  tree: string;
  queries: number;
  /** floor / ms and floor* / ms: 1 is as fast as the memory allows. */
  floorFraction: number;
  floorStarFraction: number;
  /** KV bytes of the tree over the time of the step, in TB/s. */
  tbPerS: number;
  /** Of the bytes that reading each query's keys alone would take, those not read. */
  kvBytesSaved: number;
}

export interface AttentionBenchResult {
  benchmark: "attention";
  machine: MachineInfo;
  device: string;
  kvType: string;
  copyBytesPerS: number;
  layers: number;
  heads: string;
  headDim: number;
  rows: AttentionBenchRow[];
  /** Geometric mean over the trees of ms / floor*. */
  timesFloorStar: { policy: AttentionPolicy; ratio: number }[];
}

/** @throws E_BAD_ARGUMENT, E_OOM, E_DEVICE with the tree's name in the message, E_ABORTED before the first tree is measured. */
export async function benchAttentionTrees(options: AttentionBenchOptions): Promise<AttentionBenchResult> {
  const { trees, policies, device, layers, heads, headDim, rounds, threads = 0, signal } = options;
  const request: NativeAttentionBenchRequest = {
    nodes: [],
    queries: [],
    policies: [...policies],
    device,
    numLayers: layers,
    numQoHeads: heads.qo,
    numKvHeads: heads.kv,
    headDim,
    numRounds: rounds,
    numThreads: threads,
  };
  const { copyBytesPerS, device: deviceName, kvType } = await benchAttention(request, signal);
  const rows: AttentionBenchRow[] = [];
  for (const tree of trees) {
    const measured = await benchOne({ ...request, copyBytesPerS }, tree, signal);
    if (!measured) break;
    rows.push(...measured);
    options.onTree?.(tree.name, measured);
  }
  return {
    benchmark: "attention",
    machine: describeMachine(),
    device: deviceName,
    kvType,
    copyBytesPerS,
    layers,
    heads: `${heads.qo}/${heads.kv}`,
    headDim,
    rows,
    timesFloorStar: policies.map((policy) => ({ policy, ratio: geometricMean(rows, policy) })),
  };
}

/** Nothing when it was aborted. */
async function benchOne(
  request: NativeAttentionBenchRequest,
  tree: NamedTree,
  signal: AbortSignal | undefined,
): Promise<AttentionBenchRow[] | undefined> {
  if (signal?.aborted) return undefined;
  try {
    const bench = await benchAttention({ ...request, nodes: tree.nodes, queries: tree.queries }, signal);
    return bench.rows.map((row) => ({
      ...row,
      tree: tree.name,
      queries: bench.numQueries,
      floorFraction: row.floorMs / row.ms,
      floorStarFraction: row.floorStarMs / row.ms,
      tbPerS: bench.kvBytesUnique / row.ms / 1e9,
      kvBytesSaved: row.kvBytesUnshared - row.kvBytesRead,
    }));
  } catch (error) {
    if (!DeftreeError.isInstance(error)) throw error;
    if (error.code === "E_ABORTED") return undefined;
    throw new DeftreeError(error.code, `tree "${tree.name}": ${error.message}`, {
      cause: error,
      figures: { ...error.figures },
    });
  }
}

function geometricMean(rows: readonly AttentionBenchRow[], policy: AttentionPolicy): number {
  const ratios = rows.filter((row) => row.policy === policy).map((row) => row.ms / row.floorStarMs);
  return Math.exp(ratios.reduce((sum, ratio) => sum + Math.log(ratio), 0) / ratios.length);
}
