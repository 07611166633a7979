/**
 * Why two decodes of one prompt may part: the order of sums decides between two tokens that nearly tie. Greedy tokens tie by
 * their logits; sampled ones where the position's random number lies on the border between them, so that needs the number.
 */
import { expect } from "vitest";
import type { DecodeOptions, EngineBranch } from "../src/index.js";

const bits64 = (value: bigint) => BigInt.asUintN(64, value);

/** SplitMix64's step (Steele et al., OOPSLA 2014). */
function mix(value: bigint): bigint {
  let x = bits64(value + 0x9e3779b97f4a7c15n);
  x = bits64((x ^ (x >> 30n)) * 0xbf58476d1ce4e5b9n);
  x = bits64((x ^ (x >> 27n)) * 0x94d049bb133111ebn);
  return x ^ (x >> 31n);
}

/** The engine's random number of a token on a branch that was not forked. */
function uniformRandom(seed: number, position: number): number {
  return Number(mix(mix(mix(BigInt(seed))) ^ BigInt(position)) >> 11n) * 2 ** -53;
}

/**
 * @param branch holds the tokens that both decodes agree on, and was not forked.
 * @param tolerance how far two computations of a logit, or of a sum of probabilities, may be apart.
 */
export async function expectNearTie(
  branch: EngineBranch,
  pair: readonly [number, number],
  { temperature = 0, seed = 0 }: Pick<DecodeOptions, "temperature" | "seed">,
  tolerance: number,
): Promise<void> {
  const logits = await branch.logits();
  const [lower, upper] = [Math.min(...pair), Math.max(...pair)];
  if (temperature === 0) return expect(Math.abs(logits[lower]! - logits[upper]!)).toBeLessThan(tolerance);
  const largest = Math.max(...logits);
  const weights = [...logits].map((logit) => Math.exp((logit - largest) / temperature));
  const sum = (values: number[]) => values.reduce((total, value) => total + value, 0);
  const below = (token: number) => sum(weights.slice(0, token)) / sum(weights);
  const drawn = uniformRandom(seed, branch.length);
  // The lower token ends where the number is, and the upper one begins there.
  expect(Math.abs(below(lower + 1) - drawn)).toBeLessThan(tolerance);
  expect(Math.abs(below(upper) - drawn)).toBeLessThan(tolerance);
}
