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
export function uniformRandom(seed: number, position: number): number {
  return Number(mix(mix(mix(BigInt(seed))) ^ BigInt(position)) >> 11n) * 2 ** -53;
}

/** The probability of all tokens with a smaller id than `token`, and of those with one up to it. */
export async function probabilitiesBelow(
  branch: EngineBranch,
  temperature: number,
): Promise<[below: (token: number) => number, upTo: (token: number) => number]> {
  const logits = await branch.logits();
  const largest = Math.max(...logits);
  let total = 0;
  const sums = [0, ...[...logits].map((logit) => (total += Math.exp((logit - largest) / temperature)))];
  return [(token) => sums[token]! / total, (token) => sums[token + 1]! / total];
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
  const [lower, upper] = [Math.min(...pair), Math.max(...pair)];
  if (temperature === 0) {
    const logits = await branch.logits();
    expect(Math.abs(logits[lower]! - logits[upper]!)).toBeLessThan(tolerance);
    return;
  }
  const [below, upTo] = await probabilitiesBelow(branch, temperature);
  const number = uniformRandom(seed, branch.length);
  expect(Math.abs(upTo(lower) - number)).toBeLessThan(tolerance);
  expect(Math.abs(below(upper) - number)).toBeLessThan(tolerance);
}
