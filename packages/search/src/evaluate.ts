/** Evaluate: gives thoughts their scores by the problem's program and drops the hopeless. Shared by every strategy. */
import type { PruneReason } from "./events.js";
import type { LiveThought, SearchRun } from "./run.js";

/** Scores `thoughts` and returns those that live. Branches of whole answers are dropped: nothing grows on them. */
export function evaluate<State, Answer>(
  run: SearchRun<State, Answer>,
  thoughts: readonly LiveThought<State>[],
): LiveThought<State>[] {
  const { problem } = run;
  return thoughts.filter((thought) => {
    thought.score = problem.score(thought.state);
    run.emit({ type: "thought:scored", thought: thought.id, score: thought.score });
    run.consider(thought);
    if (thought.answered) run.release(thought.branch);
    if (thought.answered || !problem.hopeless?.(thought.state)) return true;
    prune(run, thought, "hopeless");
    return false;
  });
}

export function prune<State, Answer>(
  run: SearchRun<State, Answer>,
  thought: LiveThought<State>,
  reason: PruneReason,
): void {
  run.emit({ type: "thought:pruned", thought: thought.id, reason });
  run.release(thought.branch);
}

/** Growing parts: a wrong answer is no base to grow on. It stays the best so far if nothing better comes. */
export function staysAlive<State, Answer>(run: SearchRun<State, Answer>, thought: LiveThought<State>): boolean {
  if (!thought.answered || run.problem.isSolved(thought.state)) return true;
  prune(run, thought, "unsolved");
  return false;
}
