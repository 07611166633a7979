/** Evaluate: gives thoughts their scores and drops the hopeless. Shared by every strategy. */
import type { PruneReason } from "./events.js";
import { isHopeless, isSolved, type Problem } from "./problem.js";
import type { LiveThought, SearchRun } from "./run.js";

/** What a thought is worth, and why it scores a failure. */
export interface Verdict {
  score: number;
  /** Why there is no proper score. */
  failed?: string;
  /** Generated for this verdict. */
  tokens?: number;
}

/** A way to score thoughts. */
export interface Evaluator {
  readonly name: string;
  /** `level`: thoughts are compared with each other, so a strategy scores all candidates of a level at once. */
  readonly scope: "thought" | "level";
  /**
   * Whether the problem's program may decide meanwhile: cut what is hopeless, end at what is solved. Where false, only the
   * verdicts count, and the program is asked nothing but `solved` of the result.
   */
  readonly usesProgram: boolean;
  /** A model gives the verdicts, so a resumed search takes them from its log. */
  readonly usesModel: boolean;
  /** One verdict for each of `thoughts`, which answer `problem`. Rejects with errors of the model only. */
  score<State, Answer>(
    run: SearchRun<State, Answer>,
    problem: Problem<State, Answer>,
    thoughts: readonly LiveThought<State>[],
  ): Promise<Verdict[]>;
}

const defaultFailureScore = -1000;

/** The problem's own scorer: the default. */
export function programScore(): Evaluator {
  return {
    name: "program",
    scope: "thought",
    usesProgram: true,
    usesModel: false,
    async score(_run, problem, thoughts) {
      return thoughts.map(({ state }) => checkedScore(() => problem.score(state), problem.failureScore));
    },
  };
}

/** Runs a scorer of somebody else's: what it throws, or gives instead of a finite number, is a failure. */
export function checkedScore(scorer: () => number, failureScore = defaultFailureScore): Verdict {
  try {
    const score = scorer();
    return Number.isFinite(score) ? { score } : { score: failureScore, failed: `the scorer answered ${score}` };
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    return { score: failureScore, failed: `the scorer threw: ${reason}` };
  }
}

/** Scores `thoughts` without booking them; false when the run was stopped before there were verdicts. */
export async function judge<State, Answer>(
  run: SearchRun<State, Answer>,
  problem: Problem<State, Answer>,
  thoughts: readonly LiveThought<State>[],
): Promise<boolean> {
  if (thoughts.length === 0) return true;
  const { evaluator, past } = run;
  const verdicts =
    (evaluator.usesModel && past?.takeVerdicts(thoughts.map(({ id }) => id))) ||
    (await evaluator.score(run, problem, thoughts));
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
): Promise<LiveThought<State>[]> {
  if (!(await judge(run, run.problem, thoughts))) return [];
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
