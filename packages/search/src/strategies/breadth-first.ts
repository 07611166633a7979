import { evaluate, prune, staysAlive } from "../evaluate.js";
import { finishAnswer } from "../finish-answer.js";
import { checkCount } from "../options.js";
import type { Problem } from "../problem.js";
import { type NextThoughts, placeAfter, rootPlace, sprout } from "../propose.js";
import type { SearchRun } from "../run.js";
import { keepBest, stateKeyOf } from "../select.js";
import { nextPart, type ProposeKind, wholeAnswer } from "../shapes.js";
import type { Strategy, StrategyOptions } from "../strategy.js";
import type { LiveThought, Place } from "../thought.js";

export interface BreadthFirstOptions extends StrategyOptions {
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
  /**
   * `continue`: after a level whose living thoughts all had one state, so that one of them is kept, begin the next half as
   * wide, and go on to `width` only where its thoughts differ. True by default.
   */
  narrowAgreed?: boolean;
  /** `continue`: parts are sampled one by one (default), or several listed in one generation. */
  propose?: ProposeKind;
  /**
   * Under a budget of tokens, narrow each level to what is left for it when all levels to come get as much, so that the
   * search reaches its depth. False by default.
   */
  adaptWidth?: boolean;
}

/**
 * Breadth-first Tree of Thoughts with a beam (Yao et al. 2023, ToT-BFS): each level proposes `width` thoughts, scores
 * them, and keeps the best `keep` to grow on.
 *
 * Two ways to grow, which are different programs on the model:
 * - `continue`: a thought is the next part of the answer; children extend the branch of the thought they grow from.
 *   When the search ends without a whole answer, the model finishes the best part, so there always is one.
 * - `reprompt`: a thought is a whole answer; each level is a new prompt that asks to improve the answer kept so far,
 *   which competes with the new ones and stays on ties (Besta et al. 2024, Graph of Thoughts' ToT baseline).
 *
 * Thoughts of a level do not wait for each other: each is scored as soon as it ends, and one that died is replaced at
 * once, while its siblings decode. Yet the tree depends on the seed alone. The thoughts of a level are a sequence: the
 * n-th has its number, place and seed whenever it starts, and it starts when n - width before it have died. So the level
 * is always the shortest beginning of the sequence in which `width` live, or half as many that say the same. Only the
 * selection waits for its whole level, since it compares all of it; so does a vote.
 *
 * @throws RangeError on a count that makes no sense.
 */
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
    ...{ grow, width, keep, depth, attempts: Math.max(attempts, width) },
    stopWhenSolved: options.stopWhenSolved ?? true,
    cutHopeless: options.cutHopeless ?? true,
    narrowAgreed: options.narrowAgreed ?? true,
    propose: options.propose ?? "sample",
    adaptWidth: options.adaptWidth ?? false,
    sampling: options.sampling ?? { temperature: 1 },
  };
  const { speculation } = options;
  return { name: `tot-${grow}`, settings, speculation, run: (run) => searchLevels(run, settings) };
}

type Settings = Required<Omit<BreadthFirstOptions, "speculation">>;

/** Of one level: it needs `agreedWidth` thoughts only where they have one state. */
type LevelSettings = Settings & { agreedWidth: number };

async function searchLevels<State, Answer>(run: SearchRun<State, Answer>, settings: Settings): Promise<void> {
  const { problem } = run;
  if (settings.grow === "reprompt" && settings.depth > 1 && problem.improvePrompt === undefined) {
    throw new TypeError(`the problem "${problem.name}" has no improvePrompt, which grow: "reprompt" needs`);
  }
  const stateKey = stateKeyOf(problem);
  let kept: LiveThought<State>[] = [];
  let narrow = false;
  for (let depth = 1; depth <= settings.depth; depth++) {
    const places = depth === 1 ? [await rootPlace(run)] : await placesAfter(run, kept, depth, settings);
    const width = widthAt(run, depth, settings);
    const limits: LevelSettings = {
      ...settings,
      width,
      agreedWidth: narrow ? Math.max(2, Math.ceil(width / 2)) : width,
    };
    const level: LiveThought<State>[] = await growLevel(run, places, kept, limits, nextThoughts(run, depth, settings));
    if (run.signal.aborted) return;
    narrow = settings.grow === "continue" && settings.narrowAgreed && level.length > 1 && numStates(run, level) === 1;
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

/** What grows from a thought of level `depth` that is kept. */
function nextThoughts<State, Answer>(
  run: SearchRun<State, Answer>,
  depth: number,
  settings: Settings,
): NextThoughts<State> | undefined {
  if (settings.grow === "reprompt" || settings.propose === "list" || depth === settings.depth) return undefined;
  return { shape: nextPart(run, settings, run.problem.thought.maxTokens), count: settings.width };
}

function widthAt<State, Answer>(run: SearchRun<State, Answer>, depth: number, settings: Settings): number {
  if (!settings.adaptWidth || run.tokensLeft === Number.POSITIVE_INFINITY) return settings.width;
  const perThought = partTokens(run.problem, settings);
  const affordable = Math.floor(run.tokensLeft / perThought / (settings.depth - depth + 1));
  return Math.max(1, Math.min(settings.width, affordable));
}

function partTokens<State, Answer>(problem: Problem<State, Answer>, settings: Settings): number {
  return settings.grow === "reprompt" ? problem.answerMaxTokens : problem.thought.maxTokens;
}

/**
 * Grows thoughts at `places` in turn until `width` of them live, or `agreedWidth` that all have one state, and returns the
 * living in order of their numbers.
 */
async function growLevel<State, Answer>(
  run: SearchRun<State, Answer>,
  places: readonly Place[],
  kept: readonly LiveThought<State>[],
  settings: LevelSettings,
  next: NextThoughts<State> | undefined,
): Promise<LiveThought<State>[]> {
  const { width, agreedWidth, attempts, grow, sampling } = settings;
  const comparesLevel = run.evaluator.scope === "level";
  const living: LiveThought<State>[] = [];
  const growing = new Set<Promise<void>>();
  let awaited = 0;
  let started = 0;

  const settle = async (thoughts: LiveThought<State>[]) => {
    const scored = comparesLevel ? thoughts : await evaluate(run, thoughts, next);
    living.push(...scored.filter((thought) => comparesLevel || grow === "reprompt" || staysAlive(run, thought)));
  };
  const start = (): boolean => {
    const target = agreedWidth < width && numStates(run, living) < 2 ? agreedWidth : width;
    const wanted = Math.min(target - living.length - awaited, attempts - started);
    if (wanted < 1) return false;
    const granted = run.grant(wanted, partTokens(run.problem, settings), living.length + awaited > 0);
    if (granted === undefined) return false;
    const shape =
      grow === "reprompt"
        ? wholeAnswer(run.problem, sampling, granted.maxTokens)
        : nextPart(run, settings, granted.maxTokens);
    const round = Array.from({ length: granted.count }, (_, i) => places[(started + i) % places.length]!);
    started += granted.count;
    for (const grown of sprout(run, round, shape)) {
      awaited++;
      const settled = grown
        .then(settle)
        .catch((error) => run.fail(error))
        .finally(() => {
          awaited--;
          growing.delete(settled);
        });
      growing.add(settled);
    }
    return true;
  };
  for (;;) {
    // A list may hold fewer parts than were asked for: the next is asked for when all are there.
    while (start() && settings.propose === "sample");
    if (growing.size === 0) break;
    await (settings.propose === "sample" ? Promise.race(growing) : Promise.all(growing));
  }
  living.sort((a, b) => a.id - b.id);
  return comparesLevel ? compareLevel(run, kept, living, settings, next) : living;
}

function numStates<State, Answer>(run: SearchRun<State, Answer>, thoughts: readonly LiveThought<State>[]): number {
  const stateKey = stateKeyOf(run.problem);
  return new Set(thoughts.map(({ state }) => stateKey(state))).size;
}

/** Scores a level's thoughts, and with `reprompt` those kept before, against each other. */
async function compareLevel<State, Answer>(
  run: SearchRun<State, Answer>,
  kept: readonly LiveThought<State>[],
  level: readonly LiveThought<State>[],
  { grow }: Settings,
  next: NextThoughts<State> | undefined,
): Promise<LiveThought<State>[]> {
  const rivals = grow === "reprompt" ? [...kept, ...level] : level;
  const scored = await evaluate(run, rivals, next);
  return scored.filter((thought) => level.includes(thought) && (grow === "reprompt" || staysAlive(run, thought)));
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
