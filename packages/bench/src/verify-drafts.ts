import type { Engine, EngineBranch } from "@deftree/engine";
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
 * its path and gets a next token. The drafts' own K/V are written once, by the setup, and read in each step: a speculating
 * engine also writes them in each, 64 tokens beside thousands. Nothing is accepted, so all steps are of one size.
 */
export async function verifyDrafts(engine: Engine, options: DraftOptions): Promise<Replay> {
  const { promptTokens, parents, steps, signal } = options;
  const { vocabSize } = engine.info;
  const root = engine.branch();
  const started = performance.now();
  const prompt = root.extend(manyTokens(promptTokens, engine.stats().steps, vocabSize), { signal });
  const [, first] = await Promise.all([prompt, root.decode({ maxTokens: 1, stopTokens: [], signal })]);
  const ttftMs = performance.now() - started;
  await root.truncate(promptTokens);

  const drafts = await plantDrafts(root, parents, vocabSize, signal);
  const lengths = drafts.map(({ length }) => length);
  const gate = new Gate();
  for (const branch of drafts) gate.hold(branch, signal);
  await gate.reached();
  const clock = new StepClock(0);
  let generatedTokens = 0;
  const verifying = drafts.map(async (branch, draft) => {
    const streams = Array.from({ length: steps }, () => {
      const stream = branch.decode({ maxTokens: 1, stopTokens: [], signal });
      branch.truncate(lengths[draft]!).catch(() => {}); // the decode tells
      return stream;
    });
    await Promise.all(
      streams.map(async (stream, step) => {
        for await (const token of stream) {
          generatedTokens++;
          clock.mark(step, token);
        }
      }),
    );
  });
  const before = engine.stats();
  gate.open();
  await Promise.all(verifying);
  for (const branch of [...drafts, root]) branch.prune();
  const after = engine.stats();
  return {
    ttftMs: first.tokens.length > 0 ? ttftMs : Number.NaN,
    stepMs: clock.stepMs(),
    raggedSteps: clock.numRagged,
    generatedTokens,
    before,
    after,
  };
}

/** A branch for each draft token, which ends in it. */
async function plantDrafts(
  root: EngineBranch,
  parents: readonly number[],
  vocabSize: number,
  signal: AbortSignal | undefined,
): Promise<EngineBranch[]> {
  const drafts: EngineBranch[] = [];
  const extending: Promise<unknown>[] = [];
  const plant = (node: number): EngineBranch => {
    const known = drafts[node];
    if (known) return known;
    const parent = parents[node]!;
    const [branch] = (parent < 0 ? root : plant(parent)).fork(1);
    drafts[node] = branch!;
    extending.push(branch!.extend([node % vocabSize], { signal }));
    return branch!;
  };
  for (const node of parents.keys()) plant(node);
  await Promise.all(extending);
  return drafts;
}
