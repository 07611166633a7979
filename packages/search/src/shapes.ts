/** The two shapes of a thought: a whole answer, or the next part of one. */
import { isHopeless, type Problem } from "./problem.js";
import type { ThoughtShape } from "./propose.js";
import type { SearchRun } from "./run.js";
import type { ThoughtFormat, ThoughtSampling } from "./thought-model.js";

/** Sampling of a strategy; each thought's seed comes from the search's. */
export type StrategySampling = Omit<ThoughtSampling, "seed">;

export function wholeAnswer<State, Answer>(
  problem: Problem<State, Answer>,
  sampling: StrategySampling,
  maxTokens: number,
): ThoughtShape<State> {
  const format = formatWithin(problem.answerFormat, maxTokens, problem.answerMaxTokens);
  return { whole: true, maxTokens, format, sampling, read: (text) => problem.readAnswer(text) };
}

/** How next parts come: each sampled by itself, or several listed in one generation (Yao et al. 2023). */
export type ProposeKind = "sample" | "list";

export interface PartOptions {
  sampling: StrategySampling;
  /** Cut a thought in the middle as soon as the problem calls it hopeless. */
  cutHopeless: boolean;
  propose: ProposeKind;
}

/** @throws TypeError when parts are to be listed and the problem has no question for that. */
export function nextPart<State, Answer>(
  run: SearchRun<State, Answer>,
  options: PartOptions,
  maxTokens: number,
): ThoughtShape<State> {
  const { problem } = run;
  if (options.propose === "list" && problem.proposals === undefined) {
    throw new TypeError(`the problem "${problem.name}" has no proposals question, which propose: "list" needs`);
  }
  const cuts = options.cutHopeless && run.evaluator.usesProgram && problem.hopeless !== undefined;
  return {
    whole: false,
    maxTokens,
    stop: problem.thought.stop,
    format: formatWithin(problem.thought.format, maxTokens, problem.thought.maxTokens),
    ends: problem.thought.ends && ((text) => problem.thought.ends!(text)),
    sampling: options.sampling,
    read: (text, ended) => problem.readPartial(text, ended),
    hopeless: cuts ? (state) => isHopeless(problem, state) : undefined,
    ...(options.propose === "list" && { list: problem.proposals }),
  };
}

/** The rest of an answer: what ends a part does not end it, so it runs on to the model's own end. */
export function restOfAnswer<State, Answer>(
  run: SearchRun<State, Answer>,
  sampling: StrategySampling,
  maxTokens: number,
): ThoughtShape<State> {
  return {
    ...nextPart(run, { sampling, cutHopeless: false, propose: "sample" }, maxTokens),
    stop: undefined,
    format: undefined,
    ends: undefined,
  };
}

/** What the last of a budget cuts is not refused for it. */
function formatWithin(format: ThoughtFormat | undefined, maxTokens: number, wanted: number): ThoughtFormat | undefined {
  return format && maxTokens < wanted ? { ...format, mayStayOpen: true } : format;
}
