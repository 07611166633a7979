/** Sorting, in the words that `mini` was trained on. The package `@deftree/tasks` has the whole task. */
import type { Problem } from "@deftree/search";

export interface SortingState {
  numbers: number[];
  complete: boolean;
}

export function sortPrompt(input: readonly number[]): string {
  return `Sort the list of digits in ascending order. Keep every repetition. Answer with the sorted list only.\nInput: [${input.join(", ")}]`;
}

export function sortingProblem(input: readonly number[]): Problem<SortingState, number[]> {
  const sorted = [...input].sort((a, b) => a - b);
  const wrong = (numbers: number[]) => numbers.filter((digit, i) => digit !== sorted[i]).length;
  const read = (text: string) => ({ numbers: (text.match(/\d/g) ?? []).map(Number), complete: text.includes("]") });
  return {
    name: `sorting-${input.length}`,
    initial: { numbers: [], complete: false },
    prompt: () => [{ role: "user", content: sortPrompt(input) }],
    thought: { maxTokens: 16 },
    answerMaxTokens: 3 * input.length + 8,
    readPartial: (text, ended) => ({ ...read(text), complete: ended || text.includes("]") }),
    readAnswer: (text) => ({ ...read(text), complete: true }),
    score: ({ numbers, complete }) => 0 - wrong(numbers) - (complete ? Math.abs(input.length - numbers.length) : 0),
    hopeless: ({ numbers, complete }) => !complete && wrong(numbers) > 0,
    isComplete: ({ complete }) => complete,
    isSolved: ({ numbers, complete }) => complete && numbers.join() === sorted.join(),
    answer: ({ numbers }) => numbers,
  };
}

/** The same `length` digits for the same seed. */
export function digits(length: number, seed: number): number[] {
  let state = seed + 1;
  return Array.from({ length }, () => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    return (state >>> 16) % 10;
  });
}
