/** A thought while its search runs: where it grows, and what it came to. */
import type { ThoughtId } from "./events.js";
import type { ThoughtBranch } from "./thought-model.js";

/** Where thoughts grow from. */
export interface Place {
  /** The thought that theirs follow in the thought tree. */
  parent: ThoughtId;
  /** Of the new thoughts. */
  depth: number;
  branch: ThoughtBranch;
  /** The answer's text on `branch` already. */
  text: string;
  /** Thoughts that theirs join with `parent`'s (Graph of Thoughts). */
  merged?: readonly ThoughtId[];
  /** Range [begin, end) of the problem's parts that they answer (Graph of Thoughts). */
  parts?: readonly [number, number];
}

/** A finished thought whose branch may still be open. */
export interface LiveThought<State> {
  readonly id: ThoughtId;
  readonly parent: ThoughtId;
  readonly depth: number;
  /** Where it grew. */
  readonly place: Place;
  readonly branch: ThoughtBranch;
  /** The answer's whole text on the branch, ancestors' text and stop strings included. */
  readonly text: string;
  readonly state: State;
  /** The model ended its answer: nothing can follow. */
  readonly ended: boolean;
  /** `text` is a whole answer, right or wrong; else a part of one. */
  readonly answered: boolean;
  /** -Infinity until scored. */
  score: number;
}
