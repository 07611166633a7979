/** Evaluate: gives thoughts their scores and drops the hopeless. Shared by every strategy. */
import type { PruneReason } from "./events.js";
import { isHopeless, isSolved, type Problem } from "./problem.js";
import { growAhead, type NextThoughts } from "./propose.js";
import type { SearchRun } from "./run.js";
import type { LiveThought } from "./thought.js";

/**
 * Scores `thoughts` without booking them; false when the run was stopped before there were verdicts. Meanwhile the first of
 * `next` may grow from each.
 */
export async function judge<State, Answer>(
  run: SearchRun<State, Answer>,
  problem: Problem<State, Answer>,
  thoughts: readonly LiveThought<State>[],
  next?: NextThoughts<State>,
): Promise<boolean> {
  if (thoughts.length === 0) return true;
  const { evaluator, past } = run;
  const known = evaluator.usesModel && past?.takeVerdicts(thoughts.map(({ id }) => id));
  if (!known && evaluator.usesModel && next !== undefined && run.proposeAhead > 0) growAhead(run, thoughts, next);
  const verdicts = known || (await evaluator.score(run, problem, thoughts));
  if (run.signal.aborted) return false;
  for (const [i, thought] of thoughts.entries()) {
    const { score, failed, tokens } = verdicts[i]!;
    thought.score = score;
    run.emit({
      type: "thought:scored",
      thought: thought.id,
      score,
      ...(failed !== undefined && { failed }),
      ...(tokens !== undefined && { tokens }),
    });
  }
  return true;
}

/** Scores `thoughts` and returns those that live. Branches of whole answers are dropped: nothing grows on them. */
export async function evaluate<State, Answer>(
  run: SearchRun<State, Answer>,
  thoughts: readonly LiveThought<State>[],
  next?: NextThoughts<State>,
): Promise<LiveThought<State>[]> {
  if (!(await judge(run, run.problem, thoughts, next))) return [];
  return thoughts.filter((thought) => {
    run.consider(thought);
    if (thought.answered) run.release(thought.branch);
    if (thought.answered || !run.evaluator.usesProgram || !isHopeless(run.problem, thought.state)) return true;
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
  if (!thought.answered || !run.evaluator.usesProgram || isSolved(run.problem, thought.state)) return true;
  prune(run, thought, "unsolved");
  return false;
}
