import { evaluate, prune, staysAlive } from "../evaluate.js";
import { finishAnswer } from "../finish-answer.js";
import { checkCount } from "../options.js";
import { placeAfter, propose, rootPlace } from "../propose.js";
import type { SearchRun } from "../run.js";
import { keepBest, stateKeyOf } from "../select.js";
import { nextPart, type ProposeKind } from "../shapes.js";
import type { Strategy, StrategyOptions } from "../strategy.js";
import type { Place } from "../thought.js";

export interface DepthFirstOptions extends StrategyOptions {
  /** Thoughts proposed side by side below one thought. */
  width: number;
  /** Parts of an answer at most. */
  depth: number;
  /** Of `width`, those that are followed, best first. All by default. */
  keep?: number;
  /** Thoughts that score less are not followed (the paper's value threshold). */
  threshold?: number;
  /** Cut a thought in the middle as soon as the problem calls it hopeless. True by default. */
  cutHopeless?: boolean;
  /** Parts are sampled one by one (default), or several listed in one generation. */
  propose?: ProposeKind;
}

/**
 * Depth-first Tree of Thoughts with backtracking (Yao et al. 2023, arXiv 2305.10601, algorithm 2, ToT-DFS): proposes a
 * few next parts, follows the best to its end, and comes back for the next best where that leads nowhere. Thoughts that
 * wait keep their branches, so coming back costs no prefill. Where no program says what is solved, all is tried: set a
 * threshold, or a budget.
 *
 * @throws RangeError on a count that makes no sense.
 */
export function depthFirst(options: DepthFirstOptions): Strategy {
  const { width, depth, keep = width, threshold = Number.NEGATIVE_INFINITY } = options;
  checkCount("width", width);
  checkCount("depth", depth);
  checkCount("keep", keep);
  const { cutHopeless = true, propose = "sample", sampling = { temperature: 1 } } = options;
  const settings: Settings = { width, depth, keep, threshold, cutHopeless, propose, sampling };
  return {
    name: "tot-depth-first",
    settings,
    speculation: options.speculation,
    async run(run) {
      const root = await rootPlace(run);
      await explore(run, root, settings);
      if (run.solved) run.stopReason ??= "solved";
      else if (!run.best?.answered) await finishAnswer(run, root);
    },
  };
}

type Settings = Required<Omit<DepthFirstOptions, "speculation">>;

/** Tries everything below `place`, best first, until an answer is solved. */
async function explore<State, Answer>(run: SearchRun<State, Answer>, place: Place, settings: Settings): Promise<void> {
  const { problem } = run;
  const granted = run.grant(settings.width, problem.thought.maxTokens);
  if (granted === undefined) return;
  const shape = nextPart(run, settings, granted.maxTokens);
  const goesOn = place.depth < settings.depth && settings.propose === "sample";
  const next = goesOn ? { shape, count: settings.width } : undefined;
  const grown = await evaluate(run, await propose(run, new Array<Place>(granted.count).fill(place), shape), next);
  if (run.signal.aborted) return;
  const living = grown.filter((thought) => staysAlive(run, thought));
  const { kept, dropped } = keepBest(living, settings.keep, stateKeyOf(problem));
  while (kept.length > 0 && kept.at(-1)!.score < settings.threshold) {
    dropped.push({ thought: kept.pop()!, reason: "outscored" });
  }
  run.emit({
    type: "level:selected",
    depth: place.depth,
    kept: kept.map(({ id }) => id),
    dropped: dropped.map(({ thought }) => thought.id),
  });
  for (const { thought, reason } of dropped) prune(run, thought, reason);
  for (const thought of kept) {
    if (run.solved || run.stopped) return;
    if (!thought.answered && place.depth < settings.depth) await explore(run, placeAfter(thought), settings);
    if (run.solved || run.stopped) return;
    prune(run, thought, "exhausted");
  }
}
