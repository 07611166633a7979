/** Ends a search that has no whole answer yet with one. */
import { evaluate } from "./evaluate.js";
import { propose } from "./propose.js";
import type { SearchRun } from "./run.js";
import { restOfAnswer } from "./shapes.js";
import type { Place } from "./thought.js";

/**
 * The search has ended without a whole answer, because every thought of a level was wrong or the levels ran out. The
 * model then finishes the best part greedily, so that the user gets an answer and not a part of one.
 */
export async function finishAnswer<State, Answer>(run: SearchRun<State, Answer>, place: Place): Promise<void> {
  const granted = run.grant(1, run.problem.answerMaxTokens);
  if (granted === undefined) return;
  await evaluate(run, await propose(run, [place], restOfAnswer(run, { temperature: 0 }, granted.maxTokens)));
}
