/** The comparison that a tree search has to win: best-of-n with the tokens that the search used. */
import type { Problem } from "./problem.js";
import { type SearchOptions, type SearchResult, search } from "./search.js";
import type { StrategySampling } from "./shapes.js";
import { bestOfN } from "./strategies/best-of-n.js";
import type { ThoughtModel } from "./thought-model.js";

/**
 * Runs best-of-n on `problem` until `tokens` are generated or an answer is solved. Answers are cut to what is left of
 * the budget, so that none of it goes unused for want of a whole answer's room.
 */
export async function bestOfNAtEqualTokens<State, Answer>(
  problem: Problem<State, Answer>,
  model: ThoughtModel,
  tokens: number,
  options: Omit<SearchOptions, "budget"> & { sampling?: StrategySampling; width?: number } = {},
): Promise<SearchResult<State, Answer>> {
  const { sampling, width, ...rest } = options;
  const strategy = bestOfN({ n: Number.POSITIVE_INFINITY, sampling, width });
  return search(problem, strategy, model, { ...rest, budget: { tokens } });
}
