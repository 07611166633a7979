/**
 * Sorting a list of digits 0-9 with repetitions: the task of Graph of Thoughts (Besta et al., AAAI 2024, section 4.1),
 * with 32, 64 or 128 numbers. Generator, prompts, parser and scorer stand here together; the rules of the parser and of
 * the error score are the paper's, the words of the prompts are ours.
 */
import type { Problem, PromptMessage } from "@deftree/search";
import {
  formatList,
  listProposals,
  type NumberListState,
  readNumberList,
  readPartialNumberList,
  sortedCopy,
  splitEvenly,
} from "./number-list.js";
import { promptWithExamples } from "./prompts.js";
import { valueQuestion, voteQuestion } from "./questions.js";
import { badRow, type DataRecord, readCsv } from "./records.js";
import { createRng } from "./rng.js";

/** Error score of an answer in which no list can be read. */
export const SORTING_UNREADABLE = 300;

export interface SortingOptions {
  /** Worked examples in the prompts, 0 to 3. 0 (default) suits a model trained on the task, such as `mini`. */
  fewShot?: 0 | 1 | 2 | 3;
  /** Asks for the answer alone (default), or to sort parts of 16 and merge them before it. */
  style?: "direct" | "chain-of-thought";
  /** `continue` mode: numbers in one thought, about. 8 by default. */
  numbersPerThought?: number;
  /** Tokens a number and its separator take in the model's tokenizer: 2 for `mini` (default), 3 for Llama 3. */
  tokensPerNumber?: number;
}

/** `length` digits, each uniform in 0..9; the same for the same seed. */
export function generateSorting(length: number, seed: number): number[] {
  const rng = createRng(seed);
  return Array.from({ length }, () => rng.int(0, 9));
}

/** The problem of sorting `input`. Throws RangeError when it is empty or holds anything but digits. */
export function sortingProblem(
  input: readonly number[],
  options: SortingOptions = {},
): Problem<NumberListState, readonly number[]> {
  if (input.length === 0 || !input.every(isDigit)) {
    throw new RangeError(`A sorting problem needs a list of digits 0-9, got ${formatList(input.slice(0, 200))}`);
  }
  const { fewShot = 0, style = "direct", numbersPerThought = 8, tokensPerNumber = 2 } = options;
  const length = input.length;
  const inSteps = style === "chain-of-thought";
  const answerTokens = length * tokensPerNumber + 2;
  const stepTokens = inSteps ? 2 * answerTokens + 16 * Math.ceil(length / STEP_LENGTH) : 0;
  const words = {
    task: `Sort the list of digits in ascending order, every repetition kept: ${formatList(input)}`,
    show: ({ numbers }: NumberListState) => numbers && formatList(numbers),
  };
  const thoughts = Math.max(1, Math.ceil(length / numbersPerThought));

  return {
    name: `sorting-${length}`,
    initial: { numbers: [], complete: false },
    prompt: () => taskPrompt(input, fewShot, inSteps),
    improvePrompt: (state) =>
      state.numbers?.length ? improvePrompt(input, state.numbers, fewShot) : taskPrompt(input, fewShot, inSteps),
    thought: { maxTokens: Math.ceil(answerTokens / thoughts) },
    answerMaxTokens: stepTokens + answerTokens + tokensPerNumber * Math.max(4, Math.ceil(length / 8)),
    readPartial: (text, ended) => readPartialNumberList(text, ended, false, inSteps),
    readAnswer: readNumberList,
    failureScore: -SORTING_UNREADABLE,
    proposals: listProposals(words.task),
    value: valueQuestion(words),
    vote: voteQuestion(words),
    score: (state) => 0 - (state.complete ? sortingErrors(input, state.numbers) : prefixErrors(input, state.numbers)),
    hopeless: ({ numbers, complete }) => !complete && numbers?.length !== 0 && prefixErrors(input, numbers) > 0,
    isComplete: (state) => state.complete,
    isReadable: ({ numbers }) => numbers !== undefined,
    isSolved: (state) => state.complete && isSortedCopy(input, state.numbers),
    answer: (state) => state.numbers ?? [],
    split: (parts) => {
      const lists = splitEvenly(input, parts);
      return {
        parts: lists.map((list) => sortingProblem(list, options)),
        merge: (begin, _middle, end, a, b) => ({
          ...sortingProblem(lists.slice(begin, end).flat(), options),
          prompt: () => mergePrompt(a.numbers ?? [], b.numbers ?? [], fewShot),
        }),
      };
    },
  };
}

/**
 * The paper's error score: over all values, how often each stands too often or too rarely in `output`, plus the number
 * of places where `output` descends. Undefined (unreadable) scores 300. The paper sums over the values 0-9 only; here a
 * value outside of 0-9 counts as well, so that only the sorted list scores 0.
 */
export function sortingErrors(input: readonly number[], output: readonly number[] | undefined): number {
  if (output === undefined) return SORTING_UNREADABLE;
  let errors = descents(output);
  for (const excess of countDifferences(input, output).values()) errors += Math.abs(excess);
  return errors;
}

/**
 * The errors already certain in the beginning of an answer: descents, values above the input's count, and values
 * missing though a larger one was already written. 0 exactly when the prefix can still become the sorted list; a prefix
 * without any number counts as one error, so that empty talk never ties with a right beginning.
 */
export function prefixErrors(input: readonly number[], prefix: readonly number[] | undefined): number {
  if (prefix === undefined) return SORTING_UNREADABLE;
  const last = prefix.at(-1);
  if (last === undefined) return 1;
  let errors = descents(prefix);
  for (const [value, excess] of countDifferences(input, prefix)) {
    errors += value < last ? Math.abs(excess) : Math.max(0, excess);
  }
  return errors;
}

export interface SortingRow {
  id: number;
  unsorted: number[];
  sorted: number[];
}

/**
 * Problems of a CSV file with the columns ID, Unsorted and Sorted, as Graph of Thoughts publishes them. Throws
 * RangeError, naming the row, where a list is not one of digits or Sorted is not Unsorted in order.
 */
export function readSortingCsv(text: string): SortingRow[] {
  return readCsv(text, readSortingRow);
}

export function readSortingRow(record: DataRecord, row: number): SortingRow {
  const unsorted = readNumberList(record.Unsorted ?? "").numbers;
  const sorted = readNumberList(record.Sorted ?? "").numbers;
  const id = Number(record.ID ?? "");
  if (!Number.isInteger(id) || !unsorted?.every(isDigit) || !isSortedCopy(unsorted, sorted)) {
    throw badRow(row, "ID, Unsorted, Sorted", record);
  }
  return { id, unsorted: [...unsorted], sorted: [...(sorted ?? [])] };
}

/** Numbers that a chain of thought sorts at a time. */
const STEP_LENGTH = 16;

function taskPrompt(input: readonly number[], fewShot: number, inSteps: boolean): PromptMessage[] {
  const examples = exampleInputs(fewShot).map((example) => {
    const answer = inSteps ? sortingInSteps(example) : `Output: ${formatList(sortedCopy(example))}`;
    return `Input: ${formatList(example)}\n${answer}\n\n`;
  });
  const how = inSteps
    ? ` First split it into parts of ${STEP_LENGTH} digits and sort each, a line each; then merge them, after the word Output:.\n`
    : " Answer with the sorted list only.\n";
  return promptWithExamples(
    `Sort the list of digits in ascending order. Keep every repetition.${how}`,
    examples,
    `Input: ${formatList(input)}`,
  );
}

/** What a chain of thought writes: each part and the part in order, then the whole list. */
export function sortingInSteps(input: readonly number[]): string {
  const parts = splitEvenly(input, Math.ceil(input.length / STEP_LENGTH));
  const steps = parts.map((part, i) => `Part ${i + 1}: ${formatList(part)} sorted: ${formatList(sortedCopy(part))}\n`);
  return `${steps.join("")}Output: ${formatList(sortedCopy(input))}`;
}

function improvePrompt(input: readonly number[], current: readonly number[], fewShot: number): PromptMessage[] {
  const examples = exampleInputs(fewShot).map((example, index) => {
    const wrong = sortedCopy(example);
    const [dropped] = wrong.splice(3 * (index + 1), 1);
    const doubled = wrong.at(-4 - index)!;
    wrong.splice(-4 - index, 0, doubled);
    return [
      `Input: ${formatList(example)}\nIncorrectly sorted: ${formatList(wrong)}\n`,
      `Reason: one ${dropped} is missing, and there is one ${doubled} too many.\n`,
      `Output: ${formatList(sortedCopy(example))}\n\n`,
    ].join("");
  });
  return promptWithExamples(
    `The list of ${input.length} digits was sorted in ascending order, with mistakes. ` +
      "Compare how often each digit stands in both lists, add what is missing, remove what is too many. " +
      "Answer with the corrected sorted list only.\n",
    examples,
    `Input: ${formatList(input)}\nIncorrectly sorted: ${formatList(current)}`,
  );
}

function mergePrompt(first: readonly number[], second: readonly number[], fewShot: number): PromptMessage[] {
  const lists = (a: readonly number[], b: readonly number[]) => `List 1: ${formatList(a)}\nList 2: ${formatList(b)}`;
  const examples = exampleInputs(fewShot).map((example) => {
    const [a, b] = splitEvenly(example, 2);
    return `${lists(sortedCopy(a!), sortedCopy(b!))}\nOutput: ${formatList(sortedCopy(example))}\n\n`;
  });
  return promptWithExamples(
    "Merge the two sorted lists of digits into one sorted list. Keep every repetition. " +
      "Answer with the merged list only.\n",
    examples,
    lists(first, second),
  );
}

/** Inputs of 16, 32 and 64 digits; the same for every problem, so that their tokens are a shared prefix. */
function exampleInputs(count: number): number[][] {
  return [16, 32, 64].slice(0, count).map((length, index) => generateSorting(length, 1000 + index));
}

function descents(numbers: readonly number[]): number {
  let count = 0;
  for (let i = 1; i < numbers.length; i++) if (numbers[i - 1]! > numbers[i]!) count++;
  return count;
}

/** Value -> its count in `output` minus its count in `input`. */
function countDifferences(input: readonly number[], output: readonly number[]): Map<number, number> {
  const differences = new Map<number, number>();
  for (const value of output) differences.set(value, (differences.get(value) ?? 0) + 1);
  for (const value of input) differences.set(value, (differences.get(value) ?? 0) - 1);
  return differences;
}

function isSortedCopy(input: readonly number[], output: readonly number[] | undefined): boolean {
  return output !== undefined && formatList(output) === formatList(sortedCopy(input));
}

function isDigit(value: number): boolean {
  return Number.isInteger(value) && value >= 0 && value <= 9;
}
