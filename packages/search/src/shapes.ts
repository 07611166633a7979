/** The two shapes of a thought: a whole answer, or the next part of one. */
import type { Problem } from "./problem.js";
import type { ThoughtShape } from "./propose.js";
import type { ThoughtSampling } from "./thought-model.js";

/** Sampling of a strategy; each thought's seed comes from the search's. */
export type StrategySampling = Omit<ThoughtSampling, "seed">;

export function wholeAnswer<State, Answer>(
  problem: Problem<State, Answer>,
  sampling: StrategySampling,
  maxTokens: number,
): ThoughtShape<State> {
  return { whole: true, maxTokens, sampling, read: (text) => problem.readAnswer(text) };
}

export function nextPart<State, Answer>(
  problem: Problem<State, Answer>,
  sampling: StrategySampling,
  maxTokens: number,
  cutHopeless: boolean,
): ThoughtShape<State> {
  return {
    whole: false,
    maxTokens,
    stop: problem.thought.stop,
    sampling,
    read: (text, ended) => problem.readPartial(text, ended),
    hopeless: cutHopeless && problem.hopeless ? (state) => problem.hopeless!(state) : undefined,
  };
}
