/**
 * Intervals by the bootstrap (Efron 1979; the percentile interval): the items are drawn again with replacement, and the mean
 * of each draw computed; the interval holds the middle of these means. Items are what was drawn at random, so all seeds of
 * an item belong together: give one value for each item.
 */
import { uniformInt } from "pure-rand/distribution/uniformInt";
import { mersenne } from "pure-rand/generator/mersenne";

export interface Interval {
  mean: number;
  low: number;
  high: number;
}

export interface BootstrapOptions {
  /** Share of the means that the interval holds; 0.95 by default. */
  level?: number;
  /** Draws; 2,000 by default. */
  resamples?: number;
  /** The same seed, the same interval; 1 by default. */
  seed?: number;
}

/** Mean of `values` with its interval. One value, or equal ones, make an interval of no width. @throws RangeError on none. */
export function bootstrapMean(values: readonly number[], options: BootstrapOptions = {}): Interval {
  const { level = 0.95, resamples = 2000, seed = 1 } = options;
  if (values.length === 0) throw new RangeError("a bootstrap needs a value");
  if (!(level > 0 && level < 1)) throw new RangeError(`level must be between 0 and 1, got ${level}`);
  const generator = mersenne(seed);
  const last = values.length - 1;
  const means = Float64Array.from({ length: resamples }, () => {
    let sum = 0;
    for (let i = 0; i <= last; i++) sum += values[uniformInt(generator, 0, last)]!;
    return sum / values.length;
  }).sort();
  return { mean: meanOf(values), low: quantile(means, (1 - level) / 2), high: quantile(means, (1 + level) / 2) };
}

export function meanOf(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** The `share`-quantile of ascending values, linear between neighbours (Hyndman and Fan 1996, type 7); NaN of none. */
export function quantile(sorted: ArrayLike<number>, share: number): number {
  const place = (sorted.length - 1) * share;
  const below = sorted[Math.floor(place)] ?? Number.NaN;
  const above = sorted[Math.ceil(place)] ?? Number.NaN;
  return below + (above - below) * (place - Math.floor(place));
}
