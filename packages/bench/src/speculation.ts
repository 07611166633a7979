import { DeftreeError, Engine, type EngineOptions } from "@deftree/engine";
import { describeMachine, type MachineInfo, median } from "./machine.js";
import { textWorkloads, tokenWorkloads } from "./speculation-prompts.js";
import { type AnyWorkload, noSums, Runner, type Sums } from "./speculation-runner.js";
import { measureVerificationCost, type VerificationCostRow, verificationKvTokens } from "./verification-cost.js";

/**
 * Plain against speculative decoding of the same prompts, in one process, in alternating order. Each prompt is decoded
 * speculatively once for each engine: a second time, the engine would copy its own answer. Every round has a new engine.
 *
 * Definitions: tokens/s from the decodes' submission to the last one's end, without prefill; acceptance length = 1 +
 * accepted draft tokens / draft trees, as in Spec-Bench (steps without a draft do not count); tokens a step: of one branch,
 * over all steps.
 */
export interface SpeculationBenchOptions {
  model: string;
  /** How to load it; `speculation` has no say here. */
  engine?: EngineOptions;
  /** Names of workloads; all by default. */
  workloads?: readonly string[];
  /** Prompts of a workload; all by default. */
  prompts?: number;
  /** Most tokens of an answer; 128 by default. */
  maxTokens?: number;
  /** 0, greedy, by default. */
  temperature?: number;
  seed?: number;
  /** Prompts decoded side by side; 1 by default. */
  branches?: number;
  /** 1 by default. */
  rounds?: number;
  /** Most tokens of a draft tree. */
  maxDraftTokens?: number;
  /** Measures the cost of verification on this model; by default random:llama-3-8b where the device is a GPU. */
  costModel?: string;
  /** Tokens before the drafts of the cost; 6000 by default. */
  costPromptTokens?: number;
  /** Steps to measure for a row of the cost; 16 by default. */
  costSteps?: number;
  /** Folder of the recorded token trees. */
  templates?: string;
  /** Ends the run; the result holds what was measured so far. */
  signal?: AbortSignal;
  onRow?(row: SpeculationBenchRow): void;
  onCost?(row: VerificationCostRow): void;
  onNotice?(text: string): void;
}

export interface SpeculationBenchRow {
  workload: string;
  /** `real`: a model's answers to texts; `shapes`: token ids without a meaning, which tell of costs only. */
  text: "real" | "shapes";
  temperature: number;
  /** Pairs of a plain and a speculative decode. */
  decodes: number;
  /** Of the speculative decodes. */
  tokens: number;
  plainTokensPerSecond: number;
  speculativeTokensPerSecond: number;
  /** Speculative tokens/s / plain tokens/s, over all decodes. */
  ratio: number;
  /** Of the single groups of decodes. */
  medianRatio: number;
  acceptanceLength: number;
  tokensPerStep: number;
  /** Draft tokens of a step, over all steps. */
  draftedPerStep: number;
  draftedPerTree: number;
  acceptedPerTree: number;
  /** Of all steps, those that verified drafts. */
  verifyPercent: number;
  /** Finding and sizing drafts, of the step time. */
  draftingPercent: number;
  droppedDrafts: number;
  refusedDrafts: number;
  /** Decodes whose tokens were not those of the plain decode: near ties, see docs/speculation.md. */
  differing: number;
}

export interface SpeculationBenchResult {
  benchmark: "speculation";
  machine: MachineInfo;
  device: string;
  model: string;
  weights: string;
  kvType: string;
  threads: number;
  branches: number;
  maxTokens: number;
  rounds: number;
  seed: number;
  interrupted: boolean;
  rows: SpeculationBenchRow[];
  /** From shapes only: what the tokens say does not matter, and none is accepted. */
  verificationCost?: { text: "shapes"; model: string; device: string; rows: VerificationCostRow[] };
}

/** @throws what Engine.load throws, and E_BAD_ARGUMENT for an unknown workload. */
export async function benchSpeculation(options: SpeculationBenchOptions): Promise<SpeculationBenchResult> {
  const { model, engine: load = {}, workloads, prompts, branches = 1, rounds = 1, seed = 1, signal } = options;
  const { maxTokens = 128, temperature = 0, maxDraftTokens, onRow, onNotice } = options;
  const isText = !model.startsWith("random:");
  const sums = new Map<string, Sums>();
  let info: Engine["info"] | undefined;
  for (let round = 0; round < rounds && !signal?.aborted; round++) {
    await using engine = await Engine.load(model, { ...load, speculation: "auto", signal });
    info = engine.info;
    const runner = new Runner(engine, { maxTokens, seed: seed + round, maxDraftTokens, signal });
    await runner.warmUp();
    for (const workload of chooseWorkloads(isText ? textWorkloads() : tokenWorkloads(info.vocabSize), workloads)) {
      const sum = sums.get(workload.name) ?? noSums(workload.name, workload.temperature ?? temperature);
      sums.set(workload.name, sum);
      const fitting = runner.fitting(workload).slice(0, prompts);
      if (fitting.length === 0)
        onNotice?.(`${workload.name}: no prompt fits the context of ${info.contextLength} tokens`);
      for (let first = 0; first < fitting.length && !signal?.aborted; first += branches) {
        const isSpeculativeFirst = (first / branches + round) % 2 === 1;
        await runner.compare(fitting.slice(first, first + branches), sum, isSpeculativeFirst);
      }
      if (round === rounds - 1 && sum.decodes > 0) onRow?.(summarize(sum, isText));
    }
  }
  if (!info) throw new DeftreeError("E_ABORTED", "The benchmark was aborted before it began");
  const costModel = options.costModel ?? (info.device === "cuda" ? "random:llama-3-8b" : undefined);
  const cost = costModel === undefined || signal?.aborted ? undefined : await measureCost(costModel, options);
  return {
    benchmark: "speculation",
    machine: describeMachine(),
    device: info.description,
    model: info.modelName,
    weights: info.weightFormat,
    kvType: info.kvType,
    threads: info.numThreads,
    ...{ branches, maxTokens, rounds, seed },
    interrupted: signal?.aborted ?? false,
    rows: [...sums.values()].filter(({ decodes }) => decodes > 0).map((sum) => summarize(sum, isText)),
    ...(cost && { verificationCost: cost }),
  };
}

async function measureCost(
  model: string,
  { engine: load, costPromptTokens, costSteps = 16, templates, signal, onCost }: SpeculationBenchOptions,
): Promise<SpeculationBenchResult["verificationCost"]> {
  const promptTokens = costPromptTokens ?? 6000;
  await using engine = await Engine.load(model, {
    ...load,
    kvTokens: load?.kvTokens ?? verificationKvTokens(promptTokens),
    speculation: "off",
    signal,
  });
  const { modelName, description } = engine.info;
  const rows = await measureVerificationCost(engine, {
    ...{ promptTokens, templates, signal },
    steps: costSteps,
    onRow: onCost,
  });
  return { text: "shapes", model: modelName, device: description, rows };
}

function chooseWorkloads(all: readonly AnyWorkload[], names: readonly string[] | undefined): AnyWorkload[] {
  const unknown = names?.find((name) => !all.some((one) => one.name === name));
  if (unknown !== undefined) {
    const known = all.map(({ name }) => name).join(", ");
    throw new DeftreeError("E_BAD_ARGUMENT", `workload "${unknown}" is unknown for this model; there are ${known}`);
  }
  return all.filter(({ name }) => names === undefined || names.includes(name));
}

function summarize(sum: Sums, isText: boolean): SpeculationBenchRow {
  const { counters } = sum;
  const rate = (tokens: number, ms: number) => (tokens * 1e3) / ms;
  const share = (part: number, whole: number) => (whole === 0 ? 0 : part / whole);
  const plain = rate(sum.plainTokens, sum.plainMs);
  const speculative = rate(sum.tokens, sum.ms);
  return {
    workload: sum.name,
    text: isText ? "real" : "shapes",
    temperature: sum.temperature,
    decodes: sum.decodes,
    tokens: sum.tokens,
    plainTokensPerSecond: plain,
    speculativeTokensPerSecond: speculative,
    ratio: speculative / plain,
    medianRatio: median(sum.ratios),
    acceptanceLength: 1 + share(counters.acceptedDraftTokens, counters.draftTrees),
    tokensPerStep: share(sum.tokens, sum.branchSteps),
    draftedPerStep: share(counters.draftedTokens, counters.steps),
    draftedPerTree: share(counters.draftedTokens, counters.draftTrees),
    acceptedPerTree: share(counters.acceptedDraftTokens, counters.draftTrees),
    verifyPercent: 100 * share(counters.verifySteps, counters.steps),
    draftingPercent: 100 * share(counters.draftingNs, counters.stepNs),
    droppedDrafts: counters.droppedDrafts,
    refusedDrafts: counters.refusedDrafts,
    differing: sum.differing,
  };
}
