/** The comparisons that a tree search has to win: sampling whole answers with the tokens that the search used. */
import type { Problem } from "./problem.js";
import { type SearchOptions, type SearchResult, search } from "./search.js";
import type { StrategySampling } from "./shapes.js";
import { bestOfN } from "./strategies/best-of-n.js";
import { selfConsistency } from "./strategies/self-consistency.js";
import type { Strategy } from "./strategy.js";
import type { ThoughtModel } from "./thought-model.js";

export interface EqualTokensOptions extends Omit<SearchOptions, "budget"> {
  sampling?: StrategySampling;
  /** Most answers that decode side by side. */
  width?: number;
}

/**
 * Runs best-of-n on `problem` until `tokens` are generated or an answer is solved. The last answer is cut to what is left
 * of the budget, so that none of it goes unused for want of a whole answer's room.
 */
export async function bestOfNAtEqualTokens<State, Answer>(
  problem: Problem<State, Answer>,
  model: ThoughtModel,
  tokens: number,
  options: EqualTokensOptions = {},
): Promise<SearchResult<State, Answer>> {
  return sampleUntil(bestOfN, problem, model, tokens, options);
}

/** Runs self-consistency on `problem` until `tokens` are generated: nobody tells it that an answer is solved. */
export async function selfConsistencyAtEqualTokens<State, Answer>(
  problem: Problem<State, Answer>,
  model: ThoughtModel,
  tokens: number,
  options: EqualTokensOptions = {},
): Promise<SearchResult<State, Answer>> {
  return sampleUntil(selfConsistency, problem, model, tokens, options);
}

async function sampleUntil<State, Answer>(
  makeStrategy: (options: Pick<EqualTokensOptions, "sampling" | "width"> & { n: number }) => Strategy,
  problem: Problem<State, Answer>,
  model: ThoughtModel,
  tokens: number,
  { sampling, width, ...rest }: EqualTokensOptions,
): Promise<SearchResult<State, Answer>> {
  const strategy = makeStrategy({ n: Number.POSITIVE_INFINITY, sampling, width });
  return search(problem, strategy, model, { ...rest, budget: { tokens } });
}
