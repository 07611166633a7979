/** What mini reads of the sorting task: lists to sort, at once or in steps, sorted lists to merge, wrong answers to correct. */
import {
  createRng,
  formatList,
  generateSorting,
  type Rng,
  sortedCopy,
  sortingInSteps,
  sortingProblem,
} from "@deftree/tasks";
import { ALL_SIZES, chance, drawMistakes, drawSize, type Example, forSeeds, type Recipe, weighted } from "./example.js";

export const sortingRecipe: Recipe = {
  weight: 22,
  draw(rng, mix) {
    const kind = weighted(rng, [
      [40, sorting],
      [25, improving],
      [20, merging],
      [15, sortingSteps],
    ]);
    return kind(drawInput(drawSize(rng, kind === merging ? ALL_SIZES : mix.sorting), rng), rng);
  },
  problems: (count) => ({
    ...bySize("sort", [16, 32, 48, 64, 80, 96, 128], count, sorting),
    ...bySize("sort-steps", [32, 64, 128], count, sortingSteps),
    ...bySize("sort-improve", [32, 64, 128], count, improving),
    ...bySize("sort-merge", [32, 64, 128], count, mergingHalves),
  }),
};

function bySize(
  name: string,
  sizes: readonly number[],
  count: number,
  kind: (input: number[], rng: Rng) => Example,
): Record<string, Example[]> {
  const examples = (size: number) =>
    forSeeds(count, (seed) => kind(generateSorting(size, seed), createRng(seed + 1_000_000)));
  return Object.fromEntries(sizes.map((size) => [`${name}-${size}`, examples(size)]));
}

function sorting(input: number[]): Example {
  return { prompt: sortingProblem(input).prompt(), answer: formatList(sortedCopy(input)) };
}

function sortingSteps(input: number[]): Example {
  return { prompt: sortingProblem(input, { style: "chain-of-thought" }).prompt(), answer: sortingInSteps(input) };
}

function improving(input: number[], rng: Rng): Example {
  const numbers = withMistakes(sortedCopy(input), rng);
  const prompt = sortingProblem(input).improvePrompt!({ numbers, complete: true });
  return { prompt, answer: formatList(sortedCopy(input)) };
}

/** Two lists of about the same length, or of any; one in ten holds mistakes of its own, which stay. */
function merging(input: number[], rng: Rng): Example {
  const middle = chance(rng, 70) ? Math.floor(input.length / 2) : rng.int(1, input.length - 1);
  const halves = [sortedCopy(input.slice(0, middle)), sortedCopy(input.slice(middle))];
  const [first, second] = halves.map((half) => (chance(rng, 10) ? withMistakes(half, rng) : half));
  return merge(first!, second!);
}

function mergingHalves(input: number[]): Example {
  const middle = Math.floor(input.length / 2);
  return merge(sortedCopy(input.slice(0, middle)), sortedCopy(input.slice(middle)));
}

function merge(first: number[], second: number[]): Example {
  const both = [...first, ...second];
  const states = [first, second].map((numbers) => ({ numbers, complete: true }));
  const merged = sortingProblem(both).split!(2).merge(0, 1, 2, states[0]!, states[1]!);
  return { prompt: merged.prompt(), answer: formatList(sortedCopy(both)) };
}

/** Mostly uniform digits, as the task has them; some lists of few digits, some made of sorted runs. */
function drawInput(length: number, rng: Rng): number[] {
  const ticket = rng.int(1, 100);
  if (ticket <= 80) return Array.from({ length }, () => rng.int(0, 9));
  if (ticket <= 90) {
    const digits = Array.from({ length: rng.int(2, 8) }, () => rng.int(0, 9));
    return Array.from({ length }, () => rng.pick(digits));
  }
  const runs: number[] = [];
  while (runs.length < length) {
    const run = Array.from({ length: Math.min(length - runs.length, rng.int(4, 32)) }, () => rng.int(0, 9));
    runs.push(...sortedCopy(run));
  }
  return runs;
}

/** The mistakes a model makes: a digit too few or too many, a neighbour in its stead, one out of place, an early end. */
function withMistakes(sorted: number[], rng: Rng): number[] {
  const numbers = [...sorted];
  if (chance(rng, 3)) return numbers.slice(0, rng.int(1, numbers.length));
  for (let edits = drawMistakes(rng); edits > 0; edits--) {
    const at = rng.int(0, numbers.length - 1);
    const kind = rng.int(1, 100);
    if (kind <= 35 && numbers.length > 2) numbers.splice(at, 1);
    else if (kind <= 70) numbers.splice(at, 0, numbers[at]!);
    else if (kind <= 90) numbers[at] = Math.min(9, Math.max(0, numbers[at]! + rng.pick([-1, 1])));
    else numbers.splice(rng.int(0, numbers.length - 1), 0, ...numbers.splice(at, 1));
  }
  return numbers;
}
