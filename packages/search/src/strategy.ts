import type { SearchRun } from "./run.js";
import type { StrategySampling } from "./shapes.js";
import type { TokenSpeculation } from "./thought-model.js";

/** What every strategy can be told about its decodes. */
export interface StrategyOptions {
  /** Temperature 1 by default. */
  sampling?: StrategySampling;
  /** Of all that the search decodes, its verdicts included; by default as the model was made. */
  speculation?: TokenSpeculation;
}

/**
 * A search algorithm: proposes thoughts, evaluates them, and selects which to grow on, until it is done, solved, or
 * `run.stopped`. It need not clean up: the run drops every branch that is still open.
 */
export interface Strategy {
  readonly name: string;
  /** Plain data that decides, with the seed, which tree grows; a log of other settings is not resumed. */
  readonly settings?: object;
  /** {@link StrategyOptions.speculation}: decides no tree, so it is none of the settings. */
  readonly speculation?: TokenSpeculation;
  run<State, Answer>(run: SearchRun<State, Answer>): Promise<void>;
}
