import { uniformFloat64 } from "pure-rand/distribution/uniformFloat64";
import { mersenne } from "pure-rand/generator/mersenne";
import { describe, expect, it } from "vitest";
import { bootstrapMean, quantile } from "./bootstrap.js";

describe("bootstrapMean", () => {
  it("is as wide as the normal interval where that holds", () => {
    const generator = mersenne(7);
    const values = Array.from({ length: 400 }, () => uniformFloat64(generator));
    const { mean, low, high } = bootstrapMean(values, { resamples: 4000 });
    const variance = values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length;
    const half = 1.96 * Math.sqrt(variance / values.length);
    // The quantiles of 4,000 draws are known to about 3%.
    expect((high - mean) / half).toBeCloseTo(1, 1);
    expect((mean - low) / half).toBeCloseTo(1, 1);
  });

  it("holds the true mean about as often as it says", () => {
    const generator = mersenne(3);
    let held = 0;
    for (let trial = 0; trial < 400; trial++) {
      const values = Array.from({ length: 60 }, () => Number(uniformFloat64(generator) < 0.4));
      const { low, high } = bootstrapMean(values, { level: 0.8, resamples: 300, seed: trial });
      if (low <= 0.4 && 0.4 <= high) held++;
    }
    // Of 400 trials at 80%: standard deviation 8.
    expect(Math.abs(held - 320)).toBeLessThan(32);
  });

  it("has no width where nothing varies, and one seed gives one interval", () => {
    expect(bootstrapMean([3, 3, 3])).toEqual({ mean: 3, low: 3, high: 3 });
    expect(bootstrapMean([5])).toEqual({ mean: 5, low: 5, high: 5 });
    expect(bootstrapMean([1, 2, 9])).toEqual(bootstrapMean([1, 2, 9]));
  });

  it("refuses no values and impossible levels", () => {
    expect(() => bootstrapMean([])).toThrow(RangeError);
    for (const level of [0, 1, Number.NaN]) expect(() => bootstrapMean([1], { level })).toThrow(RangeError);
  });
});

describe("quantile", () => {
  it("is linear between neighbours", () => {
    expect([0, 0.25, 0.5, 1].map((share) => quantile([1, 2, 4, 8, 16], share))).toEqual([1, 2, 4, 16]);
    expect(quantile([1, 3], 0.5)).toBe(2);
    expect(quantile([], 0.5)).toBeNaN();
  });
});
