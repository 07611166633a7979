import type { SearchRun } from "./run.js";

/**
 * A search algorithm: proposes thoughts, evaluates them, and selects which to grow on, until it is done, solved, or
 * `run.stopped`. It need not clean up: the run drops every branch that is still open.
 */
export interface Strategy {
  readonly name: string;
  /** Plain data that decides, with the seed, which tree grows; a log of other settings is not resumed. */
  readonly settings?: object;
  run<State, Answer>(run: SearchRun<State, Answer>): Promise<void>;
}
