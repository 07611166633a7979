/** What mini reads: chat turns, drawn task by task. */
import type { Rng } from "@deftree/tasks";

export interface Example {
  prompt: { role: string; content: string }[];
  answer: string;
}

/** Shares of the sizes up to 32, up to 64 and up to 128. */
export type SizeShares = readonly [number, number, number];

/** For the questions that a graph of thoughts asks at its full size, whatever else is drawn: merging, parts. */
export const ALL_SIZES: SizeShares = [34, 33, 33];

/** How large the problems are, in two of the tasks. */
export interface Mix {
  sorting: SizeShares;
  sets: SizeShares;
}

/** What is drawn of one task. */
export interface Recipe {
  /** Whole number: how often the task is drawn, against the other tasks' weights. */
  weight: number;
  /** An example of one of the task's kinds of question. */
  draw(rng: Rng, mix: Mix): Example;
  /** The problems of the generator's seeds 0 to `count` - 1, to measure on: name -> examples. */
  problems(count: number): Record<string, Example[]>;
}

/** A choice with weights, which are whole numbers. */
export function weighted<T>(rng: Rng, choices: readonly (readonly [weight: number, value: T])[]): T {
  let ticket = rng.int(
    1,
    choices.reduce((sum, [weight]) => sum + weight, 0),
  );
  for (const [weight, value] of choices) {
    ticket -= weight;
    if (ticket <= 0) return value;
  }
  throw new RangeError("No choice has a weight");
}

export function chance(rng: Rng, percent: number): boolean {
  return rng.int(1, 100) <= percent;
}

/** A size of a list: in half of the cases or more one that the task or its graphs have, else any from 4. */
export function drawSize(rng: Rng, [small, middle, large]: SizeShares): number {
  const [low, high] = weighted(rng, [
    [small, [4, 32] as const],
    [middle, [33, 64] as const],
    [large, [65, 128] as const],
  ]);
  if (chance(rng, 50)) return high;
  return high === 32 && chance(rng, 40) ? 16 : rng.int(low, high);
}

/** A seed of a task's generator that no measurement uses. */
export function drawSeed(rng: Rng): number {
  return rng.int(1_000_000, 2 ** 31 - 1);
}

/** How many mistakes an answer to correct has. */
export function drawMistakes(rng: Rng): number {
  return rng.pick([1, 1, 1, 2, 2, 2, 3, 3, 4, 5, 6, 8]);
}

/** One example for each of the seeds 0 to `count` - 1. */
export function forSeeds(count: number, example: (seed: number) => Example): Example[] {
  return Array.from({ length: count }, (_, seed) => example(seed));
}
