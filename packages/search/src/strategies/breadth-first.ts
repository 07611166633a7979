/**
 * Breadth-first Tree of Thoughts with a beam (Yao et al. 2023, ToT-BFS): each level proposes `width` thoughts, scores
 * them, and keeps the best `keep` to grow on.
 *
 * Two ways to grow, which are different programs on the model:
 * - `continue`: a thought is the next part of the answer; children extend the branch of the thought they grow from.
 *   When the search ends without a whole answer, the model finishes the best part, so there always is one.
 * - `reprompt`: a thought is a whole answer; each level is a new prompt that asks to improve the answer kept so far,
 *   which competes with the new ones and stays on ties (Besta et al. 2024, Graph of Thoughts' ToT baseline).
 */
import { evaluate, prune, staysAlive } from "../evaluate.js";
import { finishAnswer } from "../finish-answer.js";
import { checkCount } from "../options.js";
import { type Place, placeAfter, propose, rootPlace } from "../propose.js";
import type { LiveThought, SearchRun } from "../run.js";
import { keepBest, stateKeyOf } from "../select.js";
import { nextPart, type StrategySampling, wholeAnswer } from "../shapes.js";
import type { Strategy } from "../strategy.js";

export interface BreadthFirstOptions {
  grow: "continue" | "reprompt";
  /**
   * Living thoughts to reach at each level, shared evenly among the thoughts kept at the level before. A thought that
   * dies (hopeless, or a wrong answer) is replaced while `attempts` and the budget allow.
   */
  width: number;
  /** Thoughts kept at each level, no two with the same state. 1 by default. */
  keep?: number;
  /** Most levels. */
  depth: number;
  /** Most thoughts started at one level; twice `width` by default. */
  attempts?: number;
  /** End after the first level that holds a solved answer. True by default. */
  stopWhenSolved?: boolean;
  /** `continue`: cut a thought in the middle as soon as the problem calls it hopeless. True by default. */
  cutHopeless?: boolean;
  /** Temperature 1 by default. */
  sampling?: StrategySampling;
}

export function breadthFirst(options: BreadthFirstOptions): Strategy {
  const { grow, width, depth, keep = 1, attempts = 2 * width } = options;
  if (grow !== "continue" && grow !== "reprompt") {
    throw new RangeError(`grow must be "continue" or "reprompt", got ${JSON.stringify(grow)}`);
  }
  checkCount("width", width);
  checkCount("keep", keep);
  checkCount("depth", depth);
  checkCount("attempts", attempts);
  const settings: Settings = {
    ...options,
    keep,
    attempts: Math.max(attempts, width),
    stopWhenSolved: options.stopWhenSolved ?? true,
    cutHopeless: options.cutHopeless ?? true,
    sampling: options.sampling ?? { temperature: 1 },
  };
  return { name: `tot-${grow}`, run: (run) => searchLevels(run, settings) };
}

type Settings = Required<BreadthFirstOptions>;

async function searchLevels<State, Answer>(run: SearchRun<State, Answer>, settings: Settings): Promise<void> {
  const { problem } = run;
  if (settings.grow === "reprompt" && settings.depth > 1 && problem.improvePrompt === undefined) {
    throw new TypeError(`the problem "${problem.name}" has no improvePrompt, which grow: "reprompt" needs`);
  }
  const stateKey = stateKeyOf(problem);
  let kept: LiveThought<State>[] = [];
  for (let depth = 1; depth <= settings.depth; depth++) {
    const places = depth === 1 ? [await rootPlace(run)] : await placesAfter(run, kept, depth, settings);
    const level = await growLevel(run, places, settings);
    const candidates =
      settings.grow === "continue" ? level.filter((thought) => !thought.answered) : [...kept, ...level];
    const selection = keepBest(candidates, settings.keep, stateKey);
    run.emit({
      type: "level:selected",
      depth,
      kept: selection.kept.map(({ id }) => id),
      dropped: selection.dropped.map(({ thought }) => thought.id),
    });
    for (const { thought, reason } of selection.dropped) prune(run, thought, reason);
    const isLast = selection.kept.length === 0 || depth === settings.depth;
    if (settings.grow === "continue" && isLast && !run.best?.answered) {
      const [deepest] = selection.kept;
      await finishAnswer(run, deepest === undefined ? places[0]! : placeAfter(deepest));
    }
    for (const place of places) run.release(place.branch);
    if (settings.stopWhenSolved && run.solved) {
      run.stopReason ??= "solved";
      return;
    }
    kept = selection.kept;
    if (run.stopped || kept.length === 0) return;
  }
}

/** Grows thoughts at `places` in turn until `width` of them live, and returns the living. */
async function growLevel<State, Answer>(
  run: SearchRun<State, Answer>,
  places: readonly Place[],
  settings: Settings,
): Promise<LiveThought<State>[]> {
  const { problem } = run;
  const { sampling, cutHopeless } = settings;
  const living: LiveThought<State>[] = [];
  for (let started = 0; living.length < settings.width && started < settings.attempts; ) {
    const wanted = Math.min(settings.width - living.length, settings.attempts - started);
    const whole = settings.grow === "reprompt";
    const granted = run.grant(wanted, whole ? problem.answerMaxTokens : problem.thought.maxTokens);
    if (granted === undefined) break;
    const shape = whole
      ? wholeAnswer(problem, sampling, granted.maxTokens)
      : nextPart(problem, sampling, granted.maxTokens, cutHopeless);
    const round = Array.from({ length: granted.count }, (_, i) => places[(started + i) % places.length]!);
    const grown = evaluate(run, await propose(run, round, shape));
    living.push(...grown.filter((thought) => whole || staysAlive(run, thought)));
    started += granted.count;
  }
  return living;
}

async function placesAfter<State, Answer>(
  run: SearchRun<State, Answer>,
  kept: readonly LiveThought<State>[],
  depth: number,
  settings: Settings,
): Promise<Place[]> {
  if (settings.grow === "continue") {
    return kept.map(placeAfter);
  }
  const { problem } = run;
  return Promise.all(
    kept.map(async (thought) => {
      const branch = await run.open(problem.improvePrompt!(thought.state));
      return { parent: thought.id, depth, branch, text: "" };
    }),
  );
}
