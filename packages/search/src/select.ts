/** Select, the pure part: ranks thoughts and drops duplicates. */
import type { PruneReason } from "./events.js";
import type { Problem } from "./problem.js";
import type { LiveThought } from "./thought.js";

interface Selection<State> {
  kept: LiveThought<State>[];
  dropped: { thought: LiveThought<State>; reason: PruneReason }[];
}

/**
 * The `keep` best of `thoughts`, best first, no two with the same key. Of equal scores the earlier in `thoughts` wins:
 * put an old best first and it stays until something is better.
 */
export function keepBest<State>(
  thoughts: readonly LiveThought<State>[],
  keep: number,
  stateKey: (state: State) => string,
): Selection<State> {
  const ranked = [...thoughts].sort((a, b) => b.score - a.score);
  const seen = new Set<string>();
  const selection: Selection<State> = { kept: [], dropped: [] };
  for (const thought of ranked) {
    const key = stateKey(thought.state);
    if (seen.has(key)) selection.dropped.push({ thought, reason: "duplicate" });
    else if (selection.kept.length === keep) selection.dropped.push({ thought, reason: "outscored" });
    else {
      seen.add(key);
      selection.kept.push(thought);
    }
  }
  return selection;
}

/** What two thoughts must share to count as the same. */
export function stateKeyOf<State, Answer>(problem: Problem<State, Answer>): (state: State) => string {
  return (state) => problem.stateKey?.(state) ?? JSON.stringify(state);
}
