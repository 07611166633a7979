import type { DecodeResult, DecodeStream, Engine, EngineBranch, NativeStats } from "@deftree/engine";
import { Gate } from "./gate.js";
import { type ReplayTree, type StepRange, tokensBefore } from "./replay-tree.js";
import { StepClock } from "./step-clock.js";

export interface Replay {
  /** From the prompt's submission to the first token; with a later first step, until the tree of that step is there. */
  ttftMs: number;
  stepMs: number[];
  /** Steps whose tokens the engine drew in more than one of its own; 0 unless JavaScript stalled at the start. */
  raggedSteps: number;
  generatedTokens: number;
  /** The engine's counters when the first step was about to begin, and at the end. */
  before: NativeStats;
  after: NativeStats;
}

export interface ReplayOptions {
  range: StepRange;
  /** Instead of forking one prompt, as many branches as its children extend the same prompt at the same time. */
  samePrompt?: boolean;
  signal?: AbortSignal;
}

/**
 * Grows a recorded tree on an engine: what the tokens say does not matter, only how many there are, where branches fork and
 * when they end. The first token of a thought is sampled, so that siblings differ, the others are greedy. The commands of
 * all steps are queued in advance, so the engine never waits for JavaScript. An abort ends it with what was replayed.
 */
export async function replayTree(engine: Engine, tree: ReplayTree, options: ReplayOptions): Promise<Replay> {
  return new Replayer(engine, tree, options).run();
}

/** A node that is written as far as it is before the first step, at the end of a branch. */
interface Frontier {
  id: number;
  branch: EngineBranch;
}

class Replayer {
  readonly #clock: StepClock;
  readonly #planting: Promise<unknown>[] = [];
  readonly #frontier: Frontier[] = [];
  readonly #planted: EngineBranch[] = [];
  #generatedTokens = 0;
  /** Another one for each replay, so that none finds the prompt of one before in the cache. */
  readonly #seed: number;

  constructor(
    private readonly engine: Engine,
    private readonly tree: ReplayTree,
    private readonly options: ReplayOptions,
  ) {
    this.#clock = new StepClock(options.range.first);
    this.#seed = engine.stats().steps * tree.nodes.length;
  }

  async run(): Promise<Replay> {
    const { signal, samePrompt } = this.options;
    const started = performance.now();
    if (samePrompt) this.#plantSamePrompt();
    else this.#plant(0, this.engine.branch());
    const gate = new Gate();
    for (const { branch } of this.#frontier) gate.hold(branch, signal);
    await Promise.all([...this.#planting, gate.reached()]);
    const ttftMs = performance.now() - started;
    const growing = Promise.all(this.#frontier.map(({ id, branch }) => this.#grow(id, branch)));
    const before = this.engine.stats();
    gate.open();
    await growing;
    for (const branch of this.#planted) branch.prune();
    const after = this.engine.stats();
    return {
      ttftMs,
      stepMs: this.#clock.stepMs(),
      raggedSteps: this.#clock.numRagged,
      generatedTokens: this.#generatedTokens,
      before,
      after,
    };
  }

  /** Writes what is there before the first step. */
  #plant(id: number, branch: EngineBranch): void {
    const { range, signal } = this.options;
    const node = this.tree.nodes[id]!;
    const known = tokensBefore(node, range.first);
    if (known > 0) this.#planting.push(branch.extend(this.#tokens(known, id), { signal }));
    this.#planted.push(branch);
    const children = known === node.tokens ? this.#neededChildren(id) : [];
    if (children.length === 0 || this.tree.nodes[children[0]!]!.start >= range.first) {
      this.#frontier.push({ id, branch });
      return;
    }
    for (const [i, fork] of branch.fork(children.length).entries()) this.#plant(children[i]!, fork);
  }

  #plantSamePrompt(): void {
    for (const id of this.tree.nodes[0]!.children) {
      const branch = this.engine.branch();
      this.#planting.push(branch.extend(this.#tokens(this.tree.nodes[0]!.tokens, 0), { signal: this.options.signal }));
      this.#frontier.push({ id, branch });
      this.#planted.push(branch);
    }
  }

  /** Queues the rest of a node and all below it. */
  async #grow(id: number, branch: EngineBranch): Promise<void> {
    const { first, last } = this.options.range;
    const { start, end } = this.tree.nodes[id]!;
    const step = Math.max(start, first);
    const parts = [this.#decode(branch, step, Math.min(end, last) - step + 1, step === start)];
    const children = end < last ? this.#neededChildren(id) : [];
    if (children.length > 0) {
      for (const [i, fork] of branch.fork(children.length).entries()) parts.push(this.#grow(children[i]!, fork));
    }
    await Promise.all(parts);
    branch.prune();
  }

  async #decode(branch: EngineBranch, step: number, count: number, isFirst: boolean): Promise<void> {
    if (count <= 0) return;
    const { signal } = this.options;
    const numSampled = isFirst ? 1 : 0;
    const streams: [step: number, stream: DecodeStream][] = [];
    if (isFirst) {
      streams.push([step, branch.decode({ maxTokens: 1, stopTokens: [], temperature: 1, seed: 1, signal })]);
    }
    if (count > numSampled) {
      streams.push([step + numSampled, branch.decode({ maxTokens: count - numSampled, stopTokens: [], signal })]);
    }
    await Promise.all(streams.map(([begin, stream]) => this.#watch(begin, stream)));
  }

  async #watch(begin: number, stream: DecodeStream): Promise<DecodeResult> {
    let step = begin;
    for await (const token of stream) {
      this.#generatedTokens++;
      this.#clock.mark(step++, token);
    }
    return stream;
  }

  /** Children of which anything is live in the range. */
  #neededChildren(id: number): number[] {
    const { first, last } = this.options.range;
    const isNeeded = (child: number): boolean => {
      const { start, end, children } = this.tree.nodes[child]!;
      return start <= last && (Math.max(start, first) <= end || children.some(isNeeded));
    };
    return this.tree.nodes[id]!.children.filter(isNeeded);
  }

  /** Any tokens, those of two nodes different, so that nothing but the recorded prefix is shared. */
  #tokens(count: number, node: number): number[] {
    return manyTokens(count, this.#seed + node, this.engine.info.vocabSize);
  }
}

/** `count` token ids that look random, by `seed`. */
export function manyTokens(count: number, seed: number, vocabSize: number): number[] {
  let state = Math.imul(seed, 2654435761) >>> 0;
  return Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * vocabSize);
  });
}
