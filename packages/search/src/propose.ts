/** Propose: forks one branch per thought and decodes them side by side. Shared by every strategy. */
import type { ThoughtId } from "./events.js";
import { Growth } from "./growth.js";
import { LazyBranch } from "./lazy-branch.js";
import { isHopeless, type ProposalQuestion } from "./problem.js";
import type { SearchRun } from "./run.js";
import { evaluationSeed } from "./seeds.js";
import { stateKeyOf } from "./select.js";
import type { LiveThought, Place } from "./thought.js";
import type { DecodedThought, ThoughtBranch, ThoughtFormat, ThoughtSampling } from "./thought-model.js";

/** Where the first thoughts grow: after the problem's prompt. */
export async function rootPlace<State, Answer>(run: SearchRun<State, Answer>): Promise<Place> {
  return { parent: 0, depth: 1, branch: await run.open(run.problem.prompt()), text: "" };
}

/** Where the thoughts grow that continue a thought. */
export function placeAfter<State>({ id, branch, text, depth }: LiveThought<State>): Place {
  return { parent: id, depth: depth + 1, branch, text };
}

export interface ThoughtShape<State> {
  maxTokens: number;
  stop?: string[];
  format?: ThoughtFormat;
  /** Ends a thought whose own text is whole. */
  ends?(text: string): boolean;
  sampling: ThoughtSampling;
  /** Each thought is a whole answer; else it is one when the model ended it or the problem calls it complete. */
  whole: boolean;
  /** What the answer says after `text`. */
  read(text: string, ended: boolean): State;
  /** Cuts a thought short as soon as the text so far is hopeless. */
  hopeless?(state: State): boolean;
  /** Thoughts are listed in one generation for each place, instead of decoded one by one. */
  list?: ProposalQuestion<State>;
}

/**
 * Grows one thought at each of `places` (a place may come several times) and returns those that finished, in order of
 * their numbers. Thoughts that were cut or aborted are pruned here. `shape`: one for all, or one for each place.
 */
export async function propose<State, Answer>(
  run: SearchRun<State, Answer>,
  places: readonly Place[],
  shape: ThoughtShape<State> | readonly ThoughtShape<State>[],
): Promise<LiveThought<State>[]> {
  const grown = await Promise.all(sprout(run, places, shape));
  return grown.flat();
}

/**
 * As {@link propose}, with one promise for each thought: what came of it, if it finished. Of a list, one for each place.
 * None rejects: an error ends the run.
 */
export function sprout<State, Answer>(
  run: SearchRun<State, Answer>,
  places: readonly Place[],
  shape: ThoughtShape<State> | readonly ThoughtShape<State>[],
): Promise<LiveThought<State>[]>[] {
  const shapeAt = (i: number) => (Array.isArray(shape) ? shape[i]! : shape) as ThoughtShape<State>;
  if (shapeAt(0).list !== undefined) return listThoughts(run, places, shapeAt(0));
  const children = childrenAt(run, places, shapeAt);
  const seedlings = places.map((place, i) => ({ place, child: children[i]!, id: run.startThought(place) }));
  return seedlings.map(({ place, child, id }, i) => grow(run, place, child, id, shapeAt(i)));
}

/** What a strategy will grow from a thought that it keeps. */
export interface NextThoughts<State> {
  shape: ThoughtShape<State>;
  /** Children that it may want at most. */
  count: number;
}

/** Starts the first children of each of `thoughts`, before it is known whether the search wants them. */
export function growAhead<State, Answer>(
  run: SearchRun<State, Answer>,
  thoughts: readonly LiveThought<State>[],
  { shape, count }: NextThoughts<State>,
): void {
  const stateKey = stateKeyOf(run.problem);
  for (const thought of thoughts) {
    if (thought.answered || (run.evaluator.usesProgram && isHopeless(run.problem, thought.state))) continue;
    // Of siblings with one state only one is kept.
    if (!run.ahead.isFirst(`${thought.parent} ${stateKey(thought.state)}`)) continue;
    const granted = run.grantAhead(Math.min(count, run.proposeAhead), shape.maxTokens);
    if (granted === 0) return;
    const place = placeAfter(thought);
    const controller = new AbortController();
    const signal = AbortSignal.any([run.signal, controller.signal]);
    const growths = run
      .forkAhead(place.branch, granted)
      .map((branch, i) => start(run, place, branch, run.seedOfNext(thought.id, i), shape, signal));
    for (const { branch, decoded } of growths) {
      const releaseCut = ({ finishReason }: DecodedThought) => finishReason === "cut" && run.release(branch);
      decoded.then(releaseCut, () => {});
    }
    const first = run.numForked(place.branch);
    run.ahead.add(place.branch, { parent: thought.id, first, shape: shapeKey(shape), growths, controller });
  }
}

/** A new thought's branch, and what grows on it already where it began ahead of its turn. */
interface Child {
  branch: ThoughtBranch;
  ahead?: Growth;
}

async function grow<State, Answer>(
  run: SearchRun<State, Answer>,
  place: Place,
  { branch, ahead }: Child,
  id: ThoughtId,
  shape: ThoughtShape<State>,
): Promise<LiveThought<State>[]> {
  try {
    const past = ahead ? undefined : run.past?.takeThought(id, place, branch);
    const decoded = past ?? (await heard(run, id, ahead ?? start(run, place, branch, run.seedOf(id), shape)));
    return finish(run, place, branch, id, decoded, shape);
  } catch (error) {
    run.fail(error);
    return [];
  }
}

/** What the thought says, each piece told under its number. */
function heard<State, Answer>(run: SearchRun<State, Answer>, thought: ThoughtId, growth: Growth) {
  growth.listen((text, tokens) => run.emit({ type: "thought:tokens", thought, text, tokens }));
  return growth.decoded;
}

function start<State, Answer>(
  run: SearchRun<State, Answer>,
  place: Place,
  branch: ThoughtBranch,
  seed: number,
  { sampling, maxTokens, stop, format, read, hopeless, ends }: ThoughtShape<State>,
  signal = run.signal,
): Growth {
  let { text } = place;
  return new Growth(branch, (onPiece) =>
    run.decode(branch, {
      ...{ ...sampling, seed, maxTokens, stop, format, signal },
      onText: (piece, tokens) => {
        onPiece(piece, tokens);
        text += piece;
        if (hopeless?.(read(text, false))) return false;
        return ends?.(text.slice(place.text.length)) ? "end" : true;
      },
    }),
  );
}

function finish<State, Answer>(
  run: SearchRun<State, Answer>,
  place: Place,
  branch: ThoughtBranch,
  id: ThoughtId,
  decoded: DecodedThought,
  shape: ThoughtShape<State>,
): LiveThought<State>[] {
  const { finishReason, tokens, ended, stopString, tokenIds } = decoded;
  const text = place.text + decoded.text + (stopString ?? "");
  const state = shape.read(text, ended);
  run.emit({
    type: "thought:finished",
    ...{ thought: id, text: decoded.text, tokens, finishReason, state, ended },
    ...(stopString !== undefined && { stopString }),
    ...(tokenIds !== undefined && { tokenIds }),
  });
  if (finishReason === "cut" || finishReason === "aborted") {
    run.emit({ type: "thought:pruned", thought: id, reason: finishReason === "cut" ? "hopeless" : "aborted" });
    run.release(branch);
    return [];
  }
  const { parent, depth } = place;
  const answered = shape.whole || ended || run.problem.isComplete(state);
  return [{ id, parent, depth, place, branch, text, state, ended, answered, score: Number.NEGATIVE_INFINITY }];
}

/** One generation for each distinct place; its parts become thoughts by extending the place's branch. */
function listThoughts<State, Answer>(
  run: SearchRun<State, Answer>,
  places: readonly Place[],
  shape: ThoughtShape<State>,
): Promise<LiveThought<State>[]>[] {
  const counts = new Map<Place, number>();
  for (const place of places) counts.set(place, (counts.get(place) ?? 0) + 1);
  const firstNumber = run.thoughts + 1;
  const asked = [...counts].map(([place, count], i) => askForParts(run, place, count, firstNumber + i, shape));
  // Thoughts are numbered when all lists are there, so that their numbers do not depend on which came first.
  const listed = Promise.all(asked);
  return [...counts.keys()].map(async (place, i) => {
    try {
      const parts = (await listed)[i]!;
      const branches = parts.length === 0 || run.stopped ? [] : run.fork(place.branch, parts.length);
      const ids = branches.map(() => run.startThought(place));
      return (
        await Promise.all(branches.map((branch, k) => adopt(run, place, branch, ids[k]!, parts[k]!, shape)))
      ).flat();
    } catch (error) {
      run.fail(error);
      return [];
    }
  });
}

async function askForParts<State, Answer>(
  run: SearchRun<State, Answer>,
  place: Place,
  count: number,
  question: number,
  { list, maxTokens, sampling, read }: ThoughtShape<State>,
): Promise<string[]> {
  const state = read(place.text, false);
  const root = await run.open(list!.prompt(state, count));
  const past = run.past?.takeList(question);
  if (past !== undefined && root instanceof LazyBranch) {
    root.adopt({ text: "", tokens: past.tokens, finishReason: "stop", ended: false });
    run.release(root);
    run.emit({ type: "parts:listed", question, parent: place.parent, ...past });
    return past.parts;
  }
  const seed = evaluationSeed(run.seed, question, 0);
  try {
    const { text, tokens, finishReason } = await run.decode(root, { ...sampling, seed, maxTokens: count * maxTokens });
    if (finishReason === "aborted") return [];
    const parts = list!.read(text, state).slice(0, count);
    run.emit({ type: "parts:listed", question, parent: place.parent, parts, tokens });
    return parts;
  } finally {
    run.release(root);
  }
}

async function adopt<State, Answer>(
  run: SearchRun<State, Answer>,
  place: Place,
  branch: ThoughtBranch,
  id: ThoughtId,
  text: string,
  shape: ThoughtShape<State>,
): Promise<LiveThought<State>[]> {
  await branch.extend(text, run.signal);
  return finish(run, place, branch, id, { text, tokens: 0, finishReason: "stop", ended: false }, shape);
}

/** A child for each place, in their order: one that grows ahead already, or a branch, forked in one call from each branch. */
function childrenAt<State, Answer>(
  run: SearchRun<State, Answer>,
  places: readonly Place[],
  shapeAt: (i: number) => ThoughtShape<State>,
): Child[] {
  const wanted = new Map<ThoughtBranch, { count: number; shape: ThoughtShape<State> }>();
  places.forEach(({ branch }, i) => {
    const known = wanted.get(branch);
    if (known) known.count++;
    else wanted.set(branch, { count: 1, shape: shapeAt(i) });
  });
  const children = new Map<ThoughtBranch, Child[]>();
  for (const [branch, { count, shape }] of wanted) {
    const ahead = run.takeAhead(branch, count, shapeKey(shape));
    const forked = run.fork(branch, count - ahead.length);
    children.set(branch, [
      ...ahead.map((growth) => ({ branch: growth.branch, ahead: growth })),
      ...forked.map((fork) => ({ branch: fork })),
    ]);
  }
  return places.map(({ branch }) => children.get(branch)!.shift()!);
}

/** Equal for shapes that decode the same, of one strategy on one problem. */
function shapeKey<State>({ hopeless, ends, ...shape }: ThoughtShape<State>): string {
  return JSON.stringify([shape, hopeless !== undefined, ends !== undefined]);
}
