import { type BranchEngine, Engine, type EngineBranch, type EngineOptions } from "@deftree/engine";
import { describeMachine, type MachineInfo } from "./machine.js";

/**
 * One prefix, several branches that each add one token of their own and then decode greedily: the decode benchmark on
 * real weights. Two ways to get the branches are measured: forking one prefilled branch, and giving the engine the same
 * prompt once per branch at the same time, as concurrent LangChain calls do.
 */
export interface DecodeBenchOptions extends EngineOptions {
  model: string;
  /** Prompt tokens that all branches share. */
  prefixTokens: number;
  /** Numbers of branches to measure, one row each. */
  branches: readonly number[];
  /** Tokens that each branch decodes. */
  newTokens: number;
}

export interface DecodeBenchRow {
  branches: number;
  /** One prompt, forked afterwards. */
  prefillMs: number;
  /** The same prompt submitted once per branch, all at once. */
  concurrentPrefillMs: number;
  decodeTokensPerSecond: number;
  stepMs: number;
  linearMs: number;
  attentionMs: number;
  samplingMs: number;
  otherForwardMs: number;
  /** Scheduling, snapshot, plan, publishing: the step outside the forward pass. */
  overheadMs: number;
  overheadPercent: number;
  kvBytesReadPerStep: number;
  kvBytesUnsharedPerStep: number;
  /** Resident memory that the process gained since before the model was loaded: weights, pages and the rest. */
  memoryBytes: number;
}

export interface DecodeBenchResult {
  benchmark: "decode";
  machine: MachineInfo;
  model: string;
  weights: string;
  kvType: string;
  weightBytes: number;
  kvBytes: number;
  threads: number;
  attention: string;
  prefixTokens: number;
  newTokens: number;
  rows: DecodeBenchRow[];
}

const proseSentence =
  "The history of computing is long and full of surprises, and each part of it has its own heroes. ";

export async function benchDecode(options: DecodeBenchOptions): Promise<DecodeBenchResult> {
  const { model, prefixTokens, branches, newTokens, ...engineOptions } = options;
  const most = Math.max(...branches);
  const rssBefore = process.memoryUsage.rss();
  await using engine = await Engine.load(model, {
    ...engineOptions,
    // By default the pages that the run needs, so that the memory figure says what it costs.
    kvTokens: engineOptions.kvTokens ?? prefixTokens + most * (newTokens + 2 * 16) + 256,
  });
  const prefix = proseTokens(engine, prefixTokens);
  await warmUp(engine, prefix);

  const rows: DecodeBenchRow[] = [];
  for (const count of branches) {
    rows.push(await measure(engine, prefix, count, newTokens, rssBefore));
  }
  const { info } = engine;
  return {
    benchmark: "decode",
    machine: describeMachine(),
    model: info.modelName,
    weights: info.weightFormat,
    kvType: info.kvType,
    weightBytes: info.weightBytes,
    kvBytes: info.kvBytes,
    threads: info.numThreads,
    attention: info.attention,
    prefixTokens,
    newTokens,
    rows,
  };
}

function proseTokens(engine: BranchEngine, count: number): number[] {
  const tokens = engine.tokenizer.encode(proseSentence.repeat(Math.ceil(count / 16) + 1));
  return tokens.slice(0, count);
}

async function warmUp(engine: BranchEngine, prefix: readonly number[]): Promise<void> {
  using branch = engine.branch();
  await branch.extend(prefix.slice(0, 64));
  await branch.decode({ maxTokens: 4, stopTokens: [] });
}

async function measure(
  engine: BranchEngine,
  prefix: readonly number[],
  count: number,
  newTokens: number,
  rssBefore: number,
): Promise<DecodeBenchRow> {
  const concurrentPrefillMs = await timePrefill(engine, prefix, count);
  const root = engine.branch();
  let start = performance.now();
  await root.extend(prefix);
  const prefillMs = performance.now() - start;

  const forks = root.fork(count);
  const own = forks.map((branch, i) => branch.extend([firstOwnToken(engine, i)]));
  await Promise.all(own);

  const before = engine.stats();
  start = performance.now();
  await Promise.all(forks.map((branch) => branch.decode({ maxTokens: newTokens, stopTokens: [] })));
  const decodeMs = performance.now() - start;
  const after = engine.stats();
  const memoryBytes = process.memoryUsage.rss() - rssBefore;
  drop([root, ...forks]);

  const steps = after.steps - before.steps;
  const perStepMs = (key: "linearNs" | "attentionNs" | "samplingNs" | "otherForwardNs" | "overheadNs" | "stepNs") =>
    (after[key] - before[key]) / steps / 1e6;
  return {
    branches: count,
    prefillMs,
    concurrentPrefillMs,
    decodeTokensPerSecond: (count * newTokens * 1000) / decodeMs,
    stepMs: decodeMs / steps,
    linearMs: perStepMs("linearNs"),
    attentionMs: perStepMs("attentionNs"),
    samplingMs: perStepMs("samplingNs"),
    otherForwardMs: perStepMs("otherForwardNs"),
    overheadMs: perStepMs("overheadNs"),
    overheadPercent: (100 * perStepMs("overheadNs")) / perStepMs("stepNs"),
    kvBytesReadPerStep: (after.kvBytesRead - before.kvBytesRead) / steps,
    kvBytesUnsharedPerStep: (after.kvBytesUnshared - before.kvBytesUnshared) / steps,
    memoryBytes,
  };
}

async function timePrefill(engine: BranchEngine, prefix: readonly number[], count: number): Promise<number> {
  const branches = Array.from({ length: count }, () => engine.branch());
  const start = performance.now();
  await Promise.all(branches.map((branch) => branch.extend(prefix)));
  const elapsed = performance.now() - start;
  drop(branches);
  return elapsed;
}

/** Pruned without keeping the cache, so that the next measurement prefills again. */
function drop(branches: readonly EngineBranch[]): void {
  for (const branch of branches) branch.prune({ keepCached: false });
}

/** A different first token per branch, so that no two branches are the same. */
function firstOwnToken(engine: BranchEngine, index: number): number {
  const { vocabSize } = engine.info;
  return (Math.min(1000, vocabSize >> 1) + index) % vocabSize;
}
