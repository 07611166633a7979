/** Propose: forks one branch per thought and decodes them side by side. Shared by every strategy. */
import type { ThoughtId } from "./events.js";
import type { LiveThought, SearchRun } from "./run.js";
import { thoughtSeed } from "./seeds.js";
import type { DecodedThought, ThoughtBranch, ThoughtSampling } from "./thought-model.js";

/** Where thoughts grow from. */
export interface Place {
  /** The thought that theirs follow in the thought tree. */
  parent: ThoughtId;
  /** Of the new thoughts. */
  depth: number;
  branch: ThoughtBranch;
  /** The answer's text on `branch` already. */
  text: string;
  /** Thoughts that theirs join with `parent`'s (Graph of Thoughts). */
  merged?: readonly ThoughtId[];
}

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
  sampling: ThoughtSampling;
  /** Each thought is a whole answer; else it is one when the model ended it or the problem calls it complete. */
  whole: boolean;
  /** What the answer says after `text`. */
  read(text: string, ended: boolean): State;
  /** Cuts a thought short as soon as the text so far is hopeless. */
  hopeless?(state: State): boolean;
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
  const branches = forkEach(run, places);
  const seedlings = places.map((place, i) => ({
    place,
    branch: branches[i]!,
    id: run.startThought(place.parent, place.depth, place.merged),
    shape: Array.isArray(shape) ? (shape[i] as ThoughtShape<State>) : (shape as ThoughtShape<State>),
  }));
  const grown = await Promise.all(
    seedlings.map(async ({ place, branch, id, shape }) => {
      let text = place.text;
      try {
        const decoded = await branch.decode({
          ...shape.sampling,
          seed: thoughtSeed(run.seed, id),
          maxTokens: shape.maxTokens,
          stop: shape.stop,
          signal: run.signal,
          onText: (piece, tokens) => {
            run.emit({ type: "thought:tokens", thought: id, text: piece, tokens });
            text += piece;
            return !shape.hopeless?.(shape.read(text, false));
          },
        });
        return finish(run, place, branch, id, decoded, shape);
      } catch (error) {
        run.fail(error);
        return undefined;
      }
    }),
  );
  return grown.filter((thought) => thought !== undefined);
}

function finish<State, Answer>(
  run: SearchRun<State, Answer>,
  place: Place,
  branch: ThoughtBranch,
  id: ThoughtId,
  decoded: DecodedThought,
  shape: ThoughtShape<State>,
): LiveThought<State> | undefined {
  const { finishReason, tokens, ended } = decoded;
  const text = place.text + decoded.text + (decoded.stopString ?? "");
  const state = shape.read(text, ended);
  run.emit({ type: "thought:finished", thought: id, text: decoded.text, tokens, finishReason, state, ended });
  if (finishReason === "cut" || finishReason === "aborted") {
    run.emit({ type: "thought:pruned", thought: id, reason: finishReason === "cut" ? "hopeless" : "aborted" });
    run.release(branch);
    return undefined;
  }
  const { parent, depth } = place;
  const answered = shape.whole || ended || run.problem.isComplete(state);
  return { id, parent, depth, place, branch, text, state, ended, answered, score: Number.NEGATIVE_INFINITY };
}

/** One child branch per place, forked in one call per distinct branch; children keep the order of `places`. */
function forkEach<State, Answer>(run: SearchRun<State, Answer>, places: readonly Place[]): ThoughtBranch[] {
  const counts = new Map<ThoughtBranch, number>();
  for (const { branch } of places) counts.set(branch, (counts.get(branch) ?? 0) + 1);
  const children = new Map<ThoughtBranch, ThoughtBranch[]>();
  for (const [branch, count] of counts) children.set(branch, run.fork(branch, count));
  return places.map(({ branch }) => children.get(branch)!.shift()!);
}
