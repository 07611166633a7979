/** Sums since the model was loaded. */
export interface StepCounters {
  steps: number;
  decodedTokens: number;
}

/** Engine steps one after another, and the tokens that they decoded: one for each branch, unless speculation adds some. */
export interface StepRun {
  steps: number;
  tokens: number;
}

const mostRuns = 96;

/** How many branches decode in a step, over a search. Reads the engine's counters whenever it is asked to look. */
export class WidthMeter {
  readonly #read: () => StepCounters;
  #last: StepCounters;
  #runs: StepRun[] = [];
  /** Steps that a run has to have before the next begins: doubled whenever there are too many runs. */
  #leastSteps = 1;

  constructor(read: () => StepCounters) {
    this.#read = read;
    this.#last = read();
  }

  look(): void {
    const now = this.#read();
    const steps = now.steps - this.#last.steps;
    if (steps === 0) return;
    const tokens = now.decodedTokens - this.#last.decodedTokens;
    this.#last = now;
    const open = this.#runs.at(-1);
    if (open === undefined || open.steps >= this.#leastSteps) this.#runs.push({ steps, tokens });
    else {
      open.steps += steps;
      open.tokens += tokens;
    }
    if (this.#runs.length > mostRuns) this.#halve();
  }

  /** At most about a hundred runs, whatever the search's length; their sums are exact. */
  get runs(): readonly StepRun[] {
    return this.#runs;
  }

  #halve(): void {
    this.#leastSteps *= 2;
    const joined: StepRun[] = [];
    for (const run of this.#runs) {
      const open = joined.at(-1);
      if (open !== undefined && open.steps < this.#leastSteps) {
        open.steps += run.steps;
        open.tokens += run.tokens;
      } else joined.push({ ...run });
    }
    this.#runs = joined;
  }
}
