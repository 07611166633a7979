import type { DecodeResult, Engine, EngineBranch, SpeculationOptions } from "@deftree/engine";
import type { SpeculationWorkload, TokenWorkload } from "./speculation-prompts.js";

export type AnyWorkload = SpeculationWorkload | TokenWorkload;

/** Sums over the groups of decodes of a workload. */
export interface Sums {
  name: string;
  temperature: number;
  decodes: number;
  differing: number;
  plainTokens: number;
  plainMs: number;
  tokens: number;
  ms: number;
  ratios: number[];
  /** Steps of a branch, over the speculative decodes. */
  branchSteps: number;
  counters: Record<Counter, number>;
}

const counterNames = [
  "steps",
  "stepNs",
  "verifySteps",
  "draftTrees",
  "draftedTokens",
  "acceptedDraftTokens",
  "droppedDrafts",
  "refusedDrafts",
  "draftingNs",
] as const;
type Counter = (typeof counterNames)[number];

interface RunnerOptions {
  maxTokens: number;
  seed: number;
  maxDraftTokens: number | undefined;
  signal: AbortSignal | undefined;
}

/** Decodes groups of prompts on one engine, plain and speculative. */
export class Runner {
  constructor(
    private readonly engine: Engine,
    private readonly options: RunnerOptions,
  ) {}

  /** Clocks and caches, with tokens that no workload has. */
  async warmUp(): Promise<void> {
    const prompt = Array.from({ length: 32 }, (_, i) => (7 * i) % this.engine.info.vocabSize);
    const sum = noSums("warm-up", 0);
    for (const isSpeculativeFirst of [false, true]) await this.compare([prompt], sum, isSpeculativeFirst);
  }

  /** Token ids of the prompts whose answers the context holds. */
  fitting({ prompts }: AnyWorkload): (readonly number[])[] {
    const room = this.engine.info.contextLength - this.options.maxTokens;
    const ids = prompts.map((prompt) => (isTokens(prompt) ? prompt : this.engine.encodeChat(prompt)));
    return ids.filter(({ length }) => length <= room);
  }

  async compare(group: readonly (readonly number[])[], sum: Sums, isSpeculativeFirst: boolean): Promise<void> {
    const { maxDraftTokens } = this.options;
    await this.#cache(group);
    const speculatively = () => this.#decode(group, sum.temperature, { maxDraftTokens });
    const early = isSpeculativeFirst ? await speculatively() : undefined;
    const plain = await this.#decode(group, sum.temperature, "off");
    const speculative = early ?? (await speculatively());
    if (this.options.signal?.aborted) return;
    sum.plainTokens += plain.tokens;
    sum.plainMs += plain.ms;
    sum.tokens += speculative.tokens;
    sum.ms += speculative.ms;
    sum.ratios.push(speculative.tokens / speculative.ms / (plain.tokens / plain.ms));
    sum.decodes += group.length;
    sum.branchSteps += speculative.branchSteps;
    const tokensOf = ({ answers }: typeof plain, i: number) => answers[i]!.tokens.join();
    sum.differing += group.filter((_, i) => tokensOf(plain, i) !== tokensOf(speculative, i)).length;
    for (const name of counterNames) sum.counters[name] += speculative.counters[name];
  }

  /** So that both ways begin with the same K/V, found in the forest. */
  async #cache(group: readonly (readonly number[])[]): Promise<void> {
    const branches = await Promise.all(group.map((prompt) => this.#open(prompt)));
    for (const branch of branches) branch.prune({ keepCached: true });
  }

  async #decode(group: readonly (readonly number[])[], temperature: number, speculation: "off" | SpeculationOptions) {
    const { maxTokens, seed, signal } = this.options;
    const branches = await Promise.all(group.map((prompt) => this.#open(prompt)));
    const before = this.engine.stats();
    const started = performance.now();
    const streams = branches.map((branch) => branch.decode({ maxTokens, temperature, seed, speculation, signal }));
    const answers: DecodeResult[] = await Promise.all(streams);
    const ms = performance.now() - started;
    const after = this.engine.stats();
    const steps = await Promise.all(streams.map(countSteps));
    for (const branch of branches) branch.prune();
    const counters = Object.fromEntries(counterNames.map((name) => [name, after[name] - before[name]]));
    return {
      answers,
      ms,
      tokens: answers.reduce((total, { tokens }) => total + tokens.length, 0),
      branchSteps: steps.reduce((total, count) => total + count, 0),
      counters: counters as Record<Counter, number>,
    };
  }

  async #open(prompt: readonly number[]): Promise<EngineBranch> {
    const branch = this.engine.branch();
    await branch.extend(prompt);
    return branch;
  }
}

/** Steps that gave the stream a token. */
async function countSteps(stream: AsyncIterable<{ timeMs?: number }>): Promise<number> {
  const times = new Set<number | undefined>();
  for await (const { timeMs } of stream) times.add(timeMs);
  return times.size;
}

function isTokens(prompt: AnyWorkload["prompts"][number]): prompt is readonly number[] {
  return typeof prompt[0] === "number";
}

export function noSums(name: string, temperature: number): Sums {
  const counters = Object.fromEntries(counterNames.map((counter) => [counter, 0])) as Record<Counter, number>;
  const zero = { decodes: 0, differing: 0, plainTokens: 0, plainMs: 0, tokens: 0, ms: 0, branchSteps: 0 };
  return { name, temperature, ...zero, ratios: [], counters };
}
