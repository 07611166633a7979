/** What mini reads of the sorting task: lists to sort, and wrong answers to correct. */
import { createRng, formatList, generateSorting, type Rng, sortedCopy, sortingProblem } from "@deftree/tasks";

export interface Example {
  prompt: { role: string; content: string }[];
  answer: string;
}

export interface Recipe {
  /** Whole number: how often the task is drawn, against the other tasks' weights. */
  weight: number;
  /** Lists have at most `maxLength` elements. */
  example(rng: Rng, maxLength: number): Example;
}

export const sortingRecipe: Recipe = {
  weight: 1,
  example(rng, maxLength) {
    const input = drawInput(drawLength(rng, maxLength), rng);
    return rng.int(1, 100) <= 70 ? sorting(input) : improving(input, rng);
  },
};

/** The sorting problem of `seed`, to measure on. */
export function sortExample(length: number, seed: number): Example {
  return sorting(generateSorting(length, seed));
}

/** The same problem with an answer that holds mistakes. */
export function improveExample(length: number, seed: number): Example {
  return improving(generateSorting(length, seed), createRng(seed + 1_000_000));
}

function sorting(input: number[]): Example {
  return { prompt: sortingProblem(input).prompt(), answer: formatList(sortedCopy(input)) };
}

function improving(input: number[], rng: Rng): Example {
  const numbers = withMistakes(sortedCopy(input), rng);
  const prompt = sortingProblem(input).improvePrompt!({ numbers, complete: true });
  return { prompt, answer: formatList(sortedCopy(input)) };
}

/** Half of the lists have one of the task's own lengths. */
function drawLength(rng: Rng, maxLength: number): number {
  const lengths = [32, 64, 128].filter((length) => length <= maxLength);
  return rng.int(0, 1) === 0 ? rng.pick(lengths) : rng.int(4, maxLength);
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
  if (rng.int(1, 100) <= 3) return numbers.slice(0, rng.int(1, numbers.length));
  for (let edits = rng.pick([1, 1, 1, 2, 2, 2, 3, 3, 4, 5, 6, 8]); edits > 0; edits--) {
    const at = rng.int(0, numbers.length - 1);
    const kind = rng.int(1, 100);
    if (kind <= 35 && numbers.length > 2) numbers.splice(at, 1);
    else if (kind <= 70) numbers.splice(at, 0, numbers[at]!);
    else if (kind <= 90) numbers[at] = Math.min(9, Math.max(0, numbers[at]! + rng.pick([-1, 1])));
    else numbers.splice(rng.int(0, numbers.length - 1), 0, ...numbers.splice(at, 1));
  }
  return numbers;
}
