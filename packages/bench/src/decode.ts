import { type AttentionPolicy, benchAttention, DeftreeError, Engine, type EngineOptions } from "@deftree/engine";
import { describeMachine, type MachineInfo, mean, median, percentile } from "./machine.js";
import { type Replay, replayTree } from "./replay.js";
import { replaySchedule } from "./replay-tree.js";
import { verifyDrafts } from "./verify-drafts.js";
import { makeWorkloads, type Workload, type WorkloadOptions } from "./workloads.js";

/**
 * The decode steps of a workload on a whole model: shapes are replayed, what the tokens say does not matter.
 *
 * Definitions, as in the tables of the DeFT paper (Yao et al., ICLR 2025, arXiv 2404.00242, Table 5 and appendix) and in its
 * code (LINs-lab/DeFT, perf_metrics.py):
 * - TTFT: from the prompt's submission to its first token at the caller.
 * - decode latency: the sum of all steps after the first token. The paper sums its forward passes and leaves the tree's
 *   upkeep and branching out; here a step is all of it, from the end of the step before.
 * - TPOT: decode latency / generated tokens of the whole tree, so n branches that step together divide a step by n.
 * - attention latency: attention of all layers. On a GPU only a run with `profile` can tell, and is slower itself.
 * - KV, mask and partial bytes: what the plan reads and writes, all layers; unshared: KV that each query reading its own
 *   path would take (the paper's Radix and Flash-Decoding). The paper counts the same per run, here it is per step.
 * Of a draft tree every token counts as generated, since none is accepted: its TPOT is no speed of speculation.
 *
 * Floor of a step: (weight bytes that a step reads + KV bytes of the live tree, each once) / copy bandwidth of the same run.
 */
export interface DecodeBenchOptions extends EngineOptions, WorkloadOptions {
  model: string;
  /** Ends the run; the result holds what was measured so far. */
  signal?: AbortSignal;
  onRow?(row: DecodeBenchRow): void;
  onNotice?(text: string): void;
}

/** Times in milliseconds; per step unless the name says otherwise. */
export interface DecodeBenchRow {
  workload: string;
  promptTokens: number;
  /** Steps measured: fewer than asked for after an abort. */
  steps: number;
  /** Of these, steps that the engine cut in two: 0 unless the machine stalled when they began. */
  raggedSteps: number;
  /** Mean number of query rows. */
  branches: number;
  generatedTokens: number;
  ttftMs: number;
  stepMs: number;
  stepP99Ms: number;
  /** Of all measured steps. */
  decodeMs: number;
  tpotMs: number;
  tokensPerSecond: number;
  floorMs: number;
  /** stepMs / floorMs */
  timesFloor: number;
  /** Undefined where the device does not tell: a GPU without `profile`. */
  parts?: { linearMs: number; attentionMs: number; samplingMs: number; otherForwardMs: number };
  /** Scheduling, snapshot, plan, publishing: the step outside the forward pass. */
  overheadMs: number;
  overheadPercent: number;
  kvBytesRead: number;
  kvBytesUnshared: number;
  kvBytesUnique: number;
  maskBytes: number;
  partialBytes: number;
}

export interface DecodeBenchResult {
  benchmark: "decode";
  machine: MachineInfo;
  device: string;
  model: string;
  weights: string;
  kvType: string;
  attention: AttentionPolicy;
  weightBytes: number;
  stepWeightBytes: number;
  /** Of the pages that the run takes. */
  kvBytes: number;
  /** On a GPU weights and pages; on the CPU resident memory that the process gained since before the load. */
  memoryBytes: number;
  threads: number;
  copyBytesPerS: number;
  interrupted: boolean;
  rows: DecodeBenchRow[];
}

/** @throws what Engine.load throws, and E_BAD_ARGUMENT for a workload that is unknown or too long for the model. */
export async function benchDecode(options: DecodeBenchOptions): Promise<DecodeBenchResult> {
  const { model, signal, onRow, onNotice, ...rest } = options;
  const { workload, promptTokens, widths, steps, firstStep, tree, templates, ...engineOptions } = rest;
  const { workloads, notice } = await makeWorkloads(options);
  if (notice) onNotice?.(notice);
  const isUnshared = engineOptions.attention === "flash-decoding";
  const rssBefore = process.memoryUsage.rss();
  await using engine = await Engine.load(model, {
    ...engineOptions,
    // By default the pages that the run needs, so that the memory figure says what it costs.
    kvTokens: engineOptions.kvTokens ?? Math.max(...workloads.map((one) => tokensNeeded(one, isUnshared))),
    signal,
  });
  const { info } = engine;
  for (const one of workloads) checkFits(one, info.contextLength);
  const { copyBytesPerS } = await copyRate(info.device, info.numThreads);
  const rows: DecodeBenchRow[] = [];
  for (const one of workloads) {
    await warmUp(engine, one, signal);
    if (signal?.aborted) break;
    const row = await measure(engine, one, copyBytesPerS, signal);
    if (!row) break;
    rows.push(row);
    onRow?.(row);
  }
  return {
    benchmark: "decode",
    machine: describeMachine(),
    device: info.description,
    model: info.modelName,
    weights: info.weightFormat,
    kvType: info.kvType,
    attention: info.attention,
    weightBytes: info.weightBytes,
    stepWeightBytes: info.stepWeightBytes,
    kvBytes: info.kvBytes,
    memoryBytes: info.device === "cuda" ? info.weightBytes + info.kvBytes : process.memoryUsage.rss() - rssBefore,
    threads: info.numThreads,
    copyBytesPerS,
    interrupted: signal?.aborted ?? false,
    rows,
  };
}

/** Nothing when it was aborted before two steps had come. */
async function measure(
  engine: Engine,
  workload: Workload,
  copyBytesPerS: number,
  signal: AbortSignal | undefined,
): Promise<DecodeBenchRow | undefined> {
  const replay = await run(engine, workload, signal);
  if (!replay || replay.stepMs.length === 0) return undefined;
  return summarize(workload, replay, engine.info, copyBytesPerS);
}

/** Nothing when it was aborted before its prompt was there. */
async function run(engine: Engine, workload: Workload, signal: AbortSignal | undefined): Promise<Replay | undefined> {
  try {
    return workload.kind === "replay"
      ? await replayTree(engine, workload.tree, { ...workload, signal })
      : await verifyDrafts(engine, { ...workload, signal });
  } catch (error) {
    if (DeftreeError.isInstance(error) && error.code === "E_ABORTED") return undefined;
    throw error;
  }
}

export function summarize(
  workload: Workload,
  { ttftMs, stepMs: times, raggedSteps, generatedTokens, before, after }: Replay,
  info: { stepWeightBytes: number; kvBytesPerToken: number },
  copyBytesPerS: number,
): DecodeBenchRow {
  const shape = meanShape(workload, times.length);
  const engineSteps = Math.max(1, after.steps - before.steps);
  const perStep = (key: Exclude<keyof typeof after, "draftSources">) => (after[key] - before[key]) / engineSteps;
  const decodeMs = times.reduce((sum, ms) => sum + ms, 0);
  // The first step's tokens came before the first interval.
  const tokens = shape.branches * times.length;
  const kvBytesUnique = shape.uniqueTokens * info.kvBytesPerToken;
  const floorMs = ((info.stepWeightBytes + kvBytesUnique) / copyBytesPerS) * 1e3;
  const stepMs = median(times);
  const hasParts = after.linearNs > before.linearNs;
  return {
    workload: workload.label,
    promptTokens: workload.kind === "replay" ? workload.tree.nodes[0]!.tokens : workload.promptTokens,
    steps: times.length,
    raggedSteps,
    branches: shape.branches,
    generatedTokens,
    ttftMs,
    stepMs,
    stepP99Ms: percentile(times, 99),
    decodeMs,
    tpotMs: decodeMs / tokens,
    tokensPerSecond: (tokens * 1e3) / decodeMs,
    floorMs,
    timesFloor: stepMs / floorMs,
    ...(hasParts && {
      parts: {
        linearMs: perStep("linearNs") / 1e6,
        attentionMs: perStep("attentionNs") / 1e6,
        samplingMs: perStep("samplingNs") / 1e6,
        otherForwardMs: perStep("otherForwardNs") / 1e6,
      },
    }),
    overheadMs: perStep("overheadNs") / 1e6,
    overheadPercent: (100 * perStep("overheadNs")) / perStep("stepNs"),
    kvBytesRead: perStep("kvBytesRead"),
    kvBytesUnshared: perStep("kvBytesUnshared"),
    kvBytesUnique,
    maskBytes: perStep("maskBytes"),
    partialBytes: perStep("partialBytes"),
  };
}

/** Of the steps that were timed: the first is not. */
function meanShape(workload: Workload, timed: number): { branches: number; uniqueTokens: number } {
  if (workload.kind === "drafts") {
    const { parents, promptTokens } = workload;
    return { branches: parents.length, uniqueTokens: promptTokens + parents.length };
  }
  const first = workload.range.first + 1;
  const { liveBranches, uniqueTokens } = replaySchedule(workload.tree, { first, last: first + timed - 1 });
  return { branches: mean(liveBranches), uniqueTokens: mean(uniqueTokens) };
}

const slackPerBranch = 64; // partly filled pages, and what is decoded behind the gate

/** KV tokens that a workload needs when nothing is freed in between. */
function tokensNeeded(workload: Workload, isUnshared: boolean): number {
  if (workload.kind === "drafts") {
    const { promptTokens, parents } = workload;
    const copies = isUnshared ? parents.length + 1 : 1;
    return promptTokens * copies + parents.length * (1 + slackPerBranch) + 1024;
  }
  const { tree, range } = workload;
  const ever = tree.nodes.filter(({ start }) => start <= range.last);
  const shared = ever.reduce((sum, { tokens }) => sum + tokens, 0) + ever.length * slackPerBranch + 1024;
  if (!isUnshared) return shared;
  return shared + Math.max(...replaySchedule(tree, range).pathTokens);
}

function checkFits(workload: Workload, contextLength: number): void {
  const longest = longestPath(workload);
  if (longest <= contextLength) return;
  throw new DeftreeError(
    "E_BAD_ARGUMENT",
    `${workload.label} has branches of ${longest} tokens and the model's context holds ${contextLength}: ` +
      "ask for fewer --prompt-tokens or --steps",
    { figures: { wanted: longest, contextLength } },
  );
}

/** With the two tokens that the gate may add. */
function longestPath(workload: Workload): number {
  const gate = 2;
  if (workload.kind === "drafts") {
    const { parents, promptTokens } = workload;
    const depth = (draft: number): number => (draft < 0 ? 0 : 1 + depth(parents[draft]!));
    return promptTokens + Math.max(...parents.map((_, draft) => depth(draft))) + gate;
  }
  const { tree, range } = workload;
  return tree.nodes[0]!.tokens + range.last + gate;
}

async function copyRate(device: "cpu" | "cuda", numThreads: number): Promise<{ copyBytesPerS: number }> {
  const shape = { numLayers: 1, numQoHeads: 1, numKvHeads: 1, headDim: 128, numRounds: 1 };
  return benchAttention({ nodes: [], queries: [], policies: [], device, numThreads, ...shape });
}

const warmUpSteps = 4;

/** A few steps; on a GPU of the workload itself, whose prefill chooses algorithms and whose steps are recorded as graphs. */
async function warmUp(engine: Engine, workload: Workload, signal: AbortSignal | undefined): Promise<void> {
  if (engine.info.device === "cuda") {
    const short =
      workload.kind === "drafts"
        ? { ...workload, steps: warmUpSteps }
        : { ...workload, range: { ...workload.range, last: workload.range.first + warmUpSteps - 1 } };
    await run(engine, short, signal);
    return;
  }
  using branch = engine.branch();
  const length = Math.min(64, engine.info.contextLength - warmUpSteps);
  await branch.extend(Array.from({ length }, (_, i) => (7 * i) % engine.info.vocabSize));
  await branch.decode({ maxTokens: warmUpSteps, stopTokens: [] });
}
