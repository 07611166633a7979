/** Seeded random numbers, the same on every machine: Mersenne Twister with unbiased ranges (pure-rand). */
import { uniformInt } from "pure-rand/distribution/uniformInt";
import { mersenne } from "pure-rand/generator/mersenne";

export interface Rng {
  /** A whole number from `min` to `max`, both included, each equally likely. */
  int(min: number, max: number): number;
  pick<T>(items: readonly T[]): T;
  /** A copy in random order, each order equally likely (Fisher-Yates). */
  shuffle<T>(items: readonly T[]): T[];
}

/** Generators of two different seeds (32-bit whole numbers) are independent, neighbouring seeds too. */
export function createRng(seed: number): Rng {
  const generator = mersenne(seed);
  const int = (min: number, max: number) => uniformInt(generator, min, max);
  return {
    int,
    pick: (items) => items[int(0, items.length - 1)]!,
    shuffle: (items) => {
      const shuffled = [...items];
      for (let i = shuffled.length - 1; i > 0; i--) {
        const j = int(0, i);
        [shuffled[i], shuffled[j]] = [shuffled[j]!, shuffled[i]!];
      }
      return shuffled;
    },
  };
}
