/**
 * What is searched. A task package writes one of these; a strategy knows nothing else of it.
 *
 * `State` is what a thought means (a partial list, say); `Answer` the final result. Higher scores are better; by
 * convention a solved answer scores 0 and each error costs 1, so a score reads as minus the number of errors.
 */
import type { PromptMessage } from "./thought-model.js";

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
  /** `continue` mode: where a thought ends. Several thoughts in a row make an answer. */
  readonly thought: { stop?: string[]; maxTokens: number };
  /** Most tokens a whole answer can take. */
  readonly answerMaxTokens: number;
  /**
   * `continue` mode: what the answer says after `text`, the answer's whole text so far, stop strings included; `ended`
   * when the model ended its answer. Cheap: called for each piece of a thought. Never throws.
   */
  readPartial(text: string, ended: boolean): State;
  /** What a complete answer's text says. Never throws: an unreadable answer is a state that scores worst. */
  readAnswer(text: string): State;
  /** Program scorer, for partial and whole states. */
  score(state: State): number;
  /** True when `state` cannot become a correct answer any more: its branch may be dropped in mid-thought. */
  hopeless?(state: State): boolean;
  isComplete(state: State): boolean;
  isSolved(state: State): boolean;
  answer(state: State): Answer;
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
