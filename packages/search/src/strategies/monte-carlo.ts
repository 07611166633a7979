import { evaluate, prune, staysAlive } from "../evaluate.js";
import { checkCount } from "../options.js";
import { placeAfter, propose, rootPlace } from "../propose.js";
import type { SearchRun } from "../run.js";
import { keepBest, stateKeyOf } from "../select.js";
import { nextPart, type ProposeKind, restOfAnswer, type StrategySampling } from "../shapes.js";
import type { Strategy, StrategyOptions } from "../strategy.js";
import type { LiveThought, Place } from "../thought.js";

export interface MonteCarloOptions extends StrategyOptions {
  /** Expansions. */
  iterations: number;
  /** Next parts proposed at an expansion; 5 by default. */
  width?: number;
  /** Parts of an answer at most, before the rollout finishes it; 8 by default. */
  depth?: number;
  /** Weight of exploration in UCT, for scores brought to 0..1; sqrt(2) by default. */
  exploration?: number;
  /** Of the rollouts; those of the parts by default, temperature 0 for the model's most likely end. */
  rollout?: StrategySampling;
  /** End as soon as an answer is solved. True by default. */
  stopWhenSolved?: boolean;
  /** Parts are sampled one by one (default), or several listed in one generation. */
  propose?: ProposeKind;
}

/**
 * Monte-Carlo tree search over thoughts, as LATS does it (Zhou et al. 2024, arXiv 2310.04406): descend by UCT (Kocsis and
 * Szepesvári 2006), expand a thought into several next parts, play each to a whole answer, and pass its score up the
 * path. The children of one expansion and their rollouts decode side by side.
 *
 * @throws RangeError on a count that makes no sense.
 */
export function monteCarlo(options: MonteCarloOptions): Strategy {
  const { iterations, width = 5, depth = 8, exploration = Math.SQRT2, stopWhenSolved = true } = options;
  checkCount("iterations", iterations);
  checkCount("width", width);
  checkCount("depth", depth);
  if (!(exploration >= 0)) throw new RangeError(`exploration must be a number of at least 0, got ${exploration}`);
  const sampling = options.sampling ?? { temperature: 1 };
  const settings: Settings = {
    ...{ iterations, width, depth, exploration, stopWhenSolved, sampling },
    rollout: options.rollout ?? sampling,
    propose: options.propose ?? "sample",
  };
  const { speculation } = options;
  return { name: `mcts-${iterations}`, settings, speculation, run: (run) => searchTree(run, settings) };
}

type Settings = Required<Omit<MonteCarloOptions, "speculation">>;

interface Node<State> {
  /** Undefined for the root. */
  thought?: LiveThought<State>;
  place: Place;
  children: Node<State>[];
  visits: number;
  /** Of the scores that came up through here. */
  sum: number;
  /** Nothing new can come from here. */
  closed: boolean;
}

async function searchTree<State, Answer>(run: SearchRun<State, Answer>, settings: Settings): Promise<void> {
  const root = nodeAt<State>(await rootPlace(run));
  const range = { min: Number.POSITIVE_INFINITY, max: Number.NEGATIVE_INFINITY };
  for (let i = 0; i < settings.iterations && !root.closed; i++) {
    const path = descend(root, range, settings.exploration);
    const leaf = path.at(-1)!;
    leaf.children = await expand(run, leaf, settings);
    const scores = await play(run, leaf.children, settings);
    for (const [child, score] of scores) {
      range.min = Math.min(range.min, score);
      range.max = Math.max(range.max, score);
      for (const node of [...path, child]) {
        node.visits++;
        node.sum += score;
      }
    }
    close(run, path);
    if (settings.stopWhenSolved && run.solved) {
      run.stopReason ??= "solved";
      return;
    }
    if (run.stopped) return;
  }
}

function nodeAt<State>(place: Place, thought?: LiveThought<State>): Node<State> {
  return { thought, place, children: [], visits: 0, sum: 0, closed: false };
}

/** From the root to a thought that is not expanded yet, always to the child with the highest upper confidence bound. */
function descend<State>(root: Node<State>, range: { min: number; max: number }, exploration: number): Node<State>[] {
  const path = [root];
  for (let node = root; node.children.length > 0; ) {
    const open = node.children.filter((child) => !child.closed);
    const span = range.max - range.min || 1;
    const bound = (child: Node<State>) =>
      (child.sum / child.visits - range.min) / span + exploration * Math.sqrt(Math.log(node.visits) / child.visits);
    node = open.reduce((best, child) => (bound(child) > bound(best) ? child : best));
    path.push(node);
  }
  return path;
}

/** The leaf's next parts that live and differ. */
async function expand<State, Answer>(
  run: SearchRun<State, Answer>,
  { place }: Node<State>,
  { width, sampling, rollout, propose: kind }: Settings,
): Promise<Node<State>[]> {
  const granted = run.grant(width, run.problem.thought.maxTokens);
  if (granted === undefined) return [];
  const places = new Array<Place>(granted.count).fill(place);
  const shape = nextPart(run, { sampling, cutHopeless: true, propose: kind }, granted.maxTokens);
  const next = { shape: restOfAnswer(run, rollout, run.problem.answerMaxTokens), count: 1 };
  const grown = await evaluate(run, await propose(run, places, shape), next);
  const living = grown.filter((thought) => staysAlive(run, thought));
  const { kept, dropped } = keepBest(living, living.length, stateKeyOf(run.problem));
  for (const { thought, reason } of dropped) prune(run, thought, reason);
  return kept.map((thought) => nodeAt(placeAfter(thought), thought));
}

/** A score for each child: that of a whole answer that begins with it. */
async function play<State, Answer>(
  run: SearchRun<State, Answer>,
  children: readonly Node<State>[],
  settings: Settings,
): Promise<Map<Node<State>, number>> {
  const scores = new Map<Node<State>, number>();
  for (const child of children) if (child.thought!.answered) scores.set(child, child.thought!.score);
  const open = children.filter((child) => !child.thought!.answered);
  for (let next = 0; next < open.length; ) {
    const granted = run.grant(open.length - next, run.problem.answerMaxTokens);
    if (granted === undefined) break;
    const round = open.slice(next, next + granted.count);
    const places = round.map(({ place }) => place);
    const rollouts = await propose(run, places, restOfAnswer(run, settings.rollout, granted.maxTokens));
    const answers = await evaluate(run, rollouts);
    for (const answer of answers) {
      scores.set(round.find(({ place }) => place.parent === answer.parent)!, answer.score);
      if (!answer.answered) prune(run, answer, "unsolved");
    }
    next += granted.count;
  }
  return scores;
}

/** Closes what cannot be expanded any more, from the leaf upwards, and drops its branch. */
function close<State, Answer>(run: SearchRun<State, Answer>, path: readonly Node<State>[]): void {
  const leaf = path.at(-1)!;
  for (const child of leaf.children) {
    // A child without a visit has no rollout: the budget or the caller ended it.
    if (child.thought!.answered || child.visits === 0) child.closed = true;
  }
  for (const node of [...path].reverse()) {
    if (!node.children.every((child) => child.closed)) return;
    node.closed = true;
    if (node.thought !== undefined && !run.stopped) prune(run, node.thought, "exhausted");
  }
}
