/** What is left of a search: its tree for other programs, and pairs that a model can learn preferences from. */
import type { ThoughtId } from "./events.js";
import type { Problem } from "./problem.js";
import type { PromptMessage } from "./thought-model.js";
import { pathTo, type Thought, type ThoughtTree } from "./thought-tree.js";

/** A thought with those that grew from it: plain JSON. */
export type NestedThought<State = unknown> = Thought<State> & { children: NestedThought<State>[] };

/** The tree, nested from its root. A thought that joins several is found below its first parent; `merged` names the others. */
export function nestTree<State>(tree: ThoughtTree<State>): NestedThought<State> {
  const nested = tree.thoughts.map((thought) => ({ ...thought, children: [] as NestedThought<State>[] }));
  for (const thought of nested.slice(1)) nested[thought.parent]!.children.push(thought);
  const [root] = nested;
  if (root === undefined) throw new RangeError("the tree has no root: its search never started");
  return root;
}

/** Two thoughts from one prompt, the first better than the second. */
export interface PreferencePair {
  /** In `continue` mode its last message is the beginning of the model's answer. */
  prompt: PromptMessage[];
  chosen: string;
  rejected: string;
  chosenScore: number;
  rejectedScore: number;
}

export interface PreferenceOptions {
  /** How the search grew: whether a thought continues its parent, or answers a prompt that improves on it. */
  grow: "continue" | "reprompt";
  /** Least difference of the scores; any by default. */
  margin?: number;
}

/**
 * Of each set of thoughts with one parent, the best one against each that scored less. Thoughts that were cut count as worse
 * than any that was scored, with the least score of the set less the margin or 1. Thoughts that answer a part of the problem, or join
 * several, have prompts of their own and are left out.
 */
export function preferencePairs<State, Answer>(
  problem: Problem<State, Answer>,
  tree: ThoughtTree<State>,
  { grow, margin = 0 }: PreferenceOptions,
): PreferencePair[] {
  const siblings = new Map<ThoughtId, Thought<State>[]>();
  for (const thought of tree.thoughts.slice(1)) {
    if (thought.parts || thought.merged || thought.pruneReason === "aborted" || thought.state === undefined) continue;
    siblings.set(thought.parent, [...(siblings.get(thought.parent) ?? []), thought]);
  }
  return [...siblings].flatMap(([parent, thoughts]) => {
    const scored = thoughts.filter(({ score }) => score !== undefined);
    if (scored.length === 0) return [];
    const best = scored.reduce((a, b) => (b.score! > a.score! ? b : a));
    const worst = Math.min(...scored.map(({ score }) => score!)) - (margin || 1);
    const prompt = promptAt(problem, tree, parent, grow);
    const pairs = thoughts.map((thought) => ({
      ...{ prompt, chosen: textOf(best), rejected: textOf(thought) },
      ...{ chosenScore: best.score!, rejectedScore: thought.score ?? worst },
    }));
    return pairs.filter(
      ({ chosen, rejected, chosenScore, rejectedScore }) =>
        chosen !== rejected && chosenScore > rejectedScore && chosenScore - rejectedScore >= margin,
    );
  });
}

function promptAt<State, Answer>(
  problem: Problem<State, Answer>,
  tree: ThoughtTree<State>,
  parent: ThoughtId,
  grow: "continue" | "reprompt",
): PromptMessage[] {
  if (parent === 0) return problem.prompt();
  if (grow === "reprompt") return problem.improvePrompt?.(tree.thoughts[parent]!.state!) ?? problem.prompt();
  const content = pathTo(tree, parent).map(textOf).join("");
  return [...problem.prompt(), { role: "assistant", content }];
}

function textOf<State>({ text, stopString = "" }: Thought<State>): string {
  return text + stopString;
}
