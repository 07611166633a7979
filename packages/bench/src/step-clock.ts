import type { DecodedToken } from "@deftree/engine";

/** When each step of a range ended, by the engine's clock. */
export class StepClock {
  readonly #ends: (number | undefined)[] = [];
  readonly #ragged = new Set<number>();

  constructor(readonly first: number) {}

  mark(step: number, { timeMs }: DecodedToken): void {
    const index = step - this.first;
    const known = this.#ends[index];
    if (known !== undefined && known !== timeMs) this.#ragged.add(step);
    this.#ends[index] = known === undefined || timeMs === undefined ? timeMs : Math.max(known, timeMs);
  }

  /** Milliseconds from step to step, without the first: it starts from nothing. */
  stepMs(): number[] {
    const times: number[] = [];
    for (let i = 1; i < this.#ends.length; i++) {
      const [before, now] = [this.#ends[i - 1], this.#ends[i]];
      if (before !== undefined && now !== undefined) times.push(now - before);
    }
    return times;
  }

  /** Steps whose tokens the engine drew in more than one of its own: their branches did not begin together. */
  get numRagged(): number {
    return this.#ragged.size;
  }
}
