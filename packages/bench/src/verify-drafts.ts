import type { DecodeStream, Engine, EngineBranch } from "@deftree/engine";
import { Gate } from "./gate.js";
import { manyTokens, type Replay } from "./replay.js";
import { StepClock } from "./step-clock.js";

export interface DraftOptions {
  promptTokens: number;
  /** Parent of each draft token, -1: the prompt's last token. All -1 is a flat star. */
  parents: readonly number[];
  steps: number;
  signal?: AbortSignal;
}

/**
 * Verifies the same draft tree in each step, as one step of speculative decoding does: every draft token is a query over
 * its path and gets a next token, which is dropped. Nothing is accepted, so all steps are of one size. The drafts' own K/V
 * are written before the first step and read in each: a speculating engine also writes them in each, 64 tokens beside thousands.
 */
export async function verifyDrafts(engine: Engine, options: DraftOptions): Promise<Replay> {
  const { promptTokens, signal } = options;
  const root = engine.branch();
  const gate = new Gate();
  const started = performance.now();
  const prompt = root.extend(manyTokens(promptTokens, engine.stats().steps, engine.info.vocabSize), { signal });
  gate.hold(root, signal);
  await Promise.all([prompt, gate.reached()]);
  const ttftMs = performance.now() - started;
  const drafts = new Drafts(root, options, engine.info.vocabSize);
  const verifying = drafts.queueAll();
  const before = engine.stats();
  gate.open();
  await verifying;
  for (const branch of [...drafts.branches, root]) branch.prune();
  return {
    ttftMs,
    stepMs: drafts.clock.stepMs(),
    raggedSteps: drafts.clock.numRagged,
    generatedTokens: drafts.numVerified,
    before,
    after: engine.stats(),
  };
}

/** A branch for each draft token, which ends in it. */
class Drafts {
  readonly branches: EngineBranch[] = [];
  readonly clock = new StepClock(0);
  numVerified = 0;
  readonly #depths: number[] = [];

  constructor(
    private readonly root: EngineBranch,
    private readonly options: DraftOptions,
    private readonly vocabSize: number,
  ) {}

  async queueAll(): Promise<void> {
    const { parents } = this.options;
    for (const draft of parents.keys()) this.#depths[draft] = this.#depth(draft);
    const deepest = Math.max(...this.#depths);
    // By level: a branch must be forked before its own verifying is queued.
    const writing: Promise<unknown>[] = [];
    for (let depth = 1; depth <= deepest; depth++) {
      for (const draft of parents.keys()) if (this.#depths[draft] === depth) writing.push(this.#plant(draft));
    }
    const verifying = this.branches.map((branch, draft) => this.#verify(branch, this.#depths[draft]!, deepest));
    await Promise.all([...writing, ...verifying]);
  }

  #depth(draft: number): number {
    return draft < 0 ? 0 : 1 + this.#depth(this.options.parents[draft]!);
  }

  async #plant(draft: number): Promise<void> {
    const parent = this.options.parents[draft]!;
    const [branch] = (parent < 0 ? this.root : this.branches[parent]!).fork(1);
    this.branches[draft] = branch!;
    await branch!.extend([draft % this.vocabSize], { signal: this.options.signal });
  }

  /**
   * A level is written in the step after the one above it, and each branch verifies from the step that writes it. So the
   * upper levels verify some times before the deepest is there; these do not count.
   */
  async #verify(branch: EngineBranch, depth: number, deepest: number): Promise<void> {
    const { promptTokens, steps, signal } = this.options;
    const streams = Array.from({ length: deepest - depth + steps }, () => {
      const stream = branch.decode({ maxTokens: 1, stopTokens: [], signal });
      branch.truncate(promptTokens + depth).catch(() => {}); // the decode tells
      return stream;
    });
    await Promise.all(streams.map((stream, i) => this.#watch(stream, i - (deepest - depth))));
  }

  async #watch(stream: DecodeStream, step: number): Promise<void> {
    for await (const token of stream) {
      if (step < 0) continue;
      this.numVerified++;
      this.clock.mark(step, token);
    }
  }
}
