/**
 * What is searched. A task package writes one of these; a strategy knows nothing else of it.
 *
 * `State` is what a thought means (a partial list, say); `Answer` the final result. Higher scores are better; by
 * convention a solved answer scores 0 and each error costs 1, so a score reads as minus the number of errors.
 */
import type { PromptMessage, ThoughtFormat } from "./thought-model.js";

export interface Problem<State, Answer> {
  readonly name: string;
  /** The state of the root: nothing answered yet. */
  readonly initial: State;
  /** The prompt that asks for a whole answer (and, in `continue` mode, the only prompt). */
  prompt(): PromptMessage[];
  /**
   * `reprompt` mode: the prompt of the next level, that asks to improve on `state` (Graph of Thoughts' improve step).
   * Undefined where the task has none.
   */
  improvePrompt?(state: State): PromptMessage[];
  /**
   * `continue` mode: where a thought ends. Several thoughts in a row make an answer. `ends` is asked as the thought's text
   * grows: true where a program sees that a part is whole. A `format` ends a thought where it is whole in it.
   */
  readonly thought: { stop?: string[]; maxTokens: number; ends?(text: string): boolean; format?: ThoughtFormat };
  /** Most tokens a whole answer can take. */
  readonly answerMaxTokens: number;
  /** Of an answer that is one thought, as best-of-n samples them. */
  readonly answerFormat?: ThoughtFormat;
  /**
   * `continue` mode: what the answer says after `text`, the answer's whole text so far, stop strings included; `ended`
   * when the model ended its answer. Cheap: called for each piece of a thought. Never throws.
   */
  readPartial(text: string, ended: boolean): State;
  /** What a complete answer's text says. Never throws: an unreadable answer is a state that scores worst. */
  readAnswer(text: string): State;
  /** Program scorer, for partial and whole states. One that throws, or gives no finite number, gives {@link failureScore}. */
  score(state: State): number;
  /** What a thought scores that could not be scored; -1000 by default. */
  readonly failureScore?: number;
  /** True when `state` cannot become a correct answer any more: its branch may be dropped in mid-thought. */
  hopeless?(state: State): boolean;
  isComplete(state: State): boolean;
  /** False where nobody can read an answer in `state`: it has no vote among answers. By default all have. */
  isReadable?(state: State): boolean;
  isSolved(state: State): boolean;
  answer(state: State): Answer;
  /** The next parts of an answer, listed in one generation instead of sampled one by one. */
  readonly proposals?: ProposalQuestion<State>;
  /** What a model is asked to judge a thought by itself. */
  readonly value?: ValueQuestion<State>;
  /** What a model is asked to choose among thoughts. */
  readonly vote?: VoteQuestion<State>;
  /** Graph of Thoughts: one prompt that joins several whole answers. */
  joinPrompt?(states: readonly State[]): PromptMessage[];
  /** Graph of Thoughts: the problem cut into parts that are solved apart and joined. Undefined where the task has none. */
  split?(parts: number): SplitProblem<State, Answer>;
  /** Equal for states that mean the same; by default their JSON. */
  stateKey?(state: State): string;
}

/** A problem in parts (Graph of Thoughts). */
export interface SplitProblem<State, Answer> {
  /** Each a problem of its own, in the order of the whole. */
  readonly parts: readonly Problem<State, Answer>[];
  /** The problem of joining `a`, which answers parts [begin, middle), with `b`, which answers [middle, end). */
  merge(begin: number, middle: number, end: number, a: State, b: State): Problem<State, Answer>;
}

/** Asks for several next parts at once (Yao et al. 2023, "propose"). */
export interface ProposalQuestion<State> {
  prompt(state: State, count: number): PromptMessage[];
  /** The parts in the model's answer, each as it is appended to the answer so far, which says `state`. Never throws. */
  read(text: string, state: State): string[];
}

/** Asks a model what a thought is worth. */
export interface ValueQuestion<State> {
  /** Undefined for a state about which there is nothing to ask: it scores `failureScore`. */
  prompt(state: State): PromptMessage[] | undefined;
  /** The marks that one verdict gives; undefined when it gives none. Never throws. */
  read(text: string): readonly number[] | undefined;
  /** Makes a score of the mean of each mark; by default the first mark. */
  score?(means: readonly number[]): number;
  /** Verdicts of one word or so and their marks, for evaluation by log-probability. */
  readonly choices?: Readonly<Record<string, number>>;
  /** When no verdict gives marks. */
  readonly failureScore: number;
}

/** Asks a model which of several thoughts is best. */
export interface VoteQuestion<State> {
  prompt(states: readonly State[]): PromptMessage[];
  /** Which of `count` states a verdict chooses, from 0; undefined when none. Never throws. */
  read(text: string, count: number): number | undefined;
}

/** As the problem says; not solved where it throws. */
export function isSolved<State, Answer>(problem: Problem<State, Answer>, state: State): boolean {
  try {
    return problem.isSolved(state);
  } catch {
    return false;
  }
}

/** As the problem says; not hopeless where it throws, or has no such check. */
export function isHopeless<State, Answer>(problem: Problem<State, Answer>, state: State): boolean {
  try {
    return problem.hopeless?.(state) ?? false;
  } catch {
    return false;
  }
}
