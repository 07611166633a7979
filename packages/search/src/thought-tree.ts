/** The thought tree as plain data, reduced from the event stream; a viewer and a trace build it the same way. */
import type { PruneReason, SearchEvent, ThoughtId } from "./events.js";

/**
 * `growing`: decodes; `alive`: finished, may be grown on; `pruned`; `solution`: the thought the search answers with.
 */
export type ThoughtStatus = "growing" | "alive" | "pruned" | "solution";

export interface Thought<State = unknown> {
  id: ThoughtId;
  /** -1 for the root. */
  parent: ThoughtId;
  /** Further thoughts that this one joins with its parent's. */
  merged?: ThoughtId[];
  /** Range [begin, end) of the problem's parts that it answers (Graph of Thoughts). */
  parts?: [number, number];
  depth: number;
  /** The thought's own text, not its ancestors'. */
  text: string;
  /** What followed the text on its branch: the stop string that ended it. */
  stopString?: string;
  tokens: number;
  state?: State;
  score?: number;
  status: ThoughtStatus;
  pruneReason?: PruneReason;
}

export interface ThoughtTree<State = unknown> {
  /** Thought `i` stands at index `i`; the root first. */
  thoughts: Thought<State>[];
}

export function emptyTree<State>(): ThoughtTree<State> {
  return { thoughts: [] };
}

/** Brings `tree` up to date with one more event. */
export function growTree<State>(tree: ThoughtTree<State>, event: SearchEvent<State>): void {
  switch (event.type) {
    case "search:started":
      tree.thoughts = [{ id: 0, parent: -1, depth: 0, text: "", tokens: 0, state: event.state, status: "alive" }];
      return;
    case "thought:started":
      tree.thoughts.push({
        id: event.thought,
        parent: event.parent,
        ...(event.merged && { merged: event.merged }),
        ...(event.parts && { parts: event.parts }),
        depth: event.depth,
        text: "",
        tokens: 0,
        status: "growing",
      });
      return;
    case "thought:tokens": {
      const thought = thoughtOf(tree, event.thought);
      thought.text += event.text;
      thought.tokens = event.tokens;
      return;
    }
    case "thought:finished": {
      const { text, tokens, state, stopString } = event;
      Object.assign(thoughtOf(tree, event.thought), {
        ...{ text, tokens, state, status: "alive" },
        ...(stopString !== undefined && { stopString }),
      });
      return;
    }
    case "thought:scored":
      thoughtOf(tree, event.thought).score = event.score;
      return;
    case "thought:pruned":
      Object.assign(thoughtOf(tree, event.thought), { status: "pruned", pruneReason: event.reason });
      return;
    case "solution":
      thoughtOf(tree, event.thought).status = "solution";
      return;
  }
}

/** Children of a thought in order of creation. */
export function childrenOf<State>(tree: ThoughtTree<State>, parent: ThoughtId): Thought<State>[] {
  return tree.thoughts.filter((thought) => thought.parent === parent);
}

/** The path from the root's child to `id`, the root left out. */
export function pathTo<State>(tree: ThoughtTree<State>, id: ThoughtId): Thought<State>[] {
  const path: Thought<State>[] = [];
  for (let thought = thoughtOf(tree, id); thought.id !== 0; thought = thoughtOf(tree, thought.parent)) {
    path.unshift(thought);
  }
  return path;
}

function thoughtOf<State>(tree: ThoughtTree<State>, id: ThoughtId): Thought<State> {
  const thought = tree.thoughts[id];
  if (thought === undefined) throw new RangeError(`the event stream names thought ${id}, which was never started`);
  return thought;
}
