/**
 * The intersection of two sets of numbers: the task of Graph of Thoughts (Besta et al., AAAI 2024, section 4.2) with 32,
 * 64 or 128 numbers in each set. Generator, prompts, parser and scorer stand here together; the sets' distribution, the
 * rules of the parser and the error score are the paper's, the words of the prompts are ours.
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
import { passedOver } from "./passed-over.js";
import { promptWithExamples } from "./prompts.js";
import { valueQuestion, voteQuestion } from "./questions.js";
import { badRow, type DataRecord, readCsv } from "./records.js";
import { createRng } from "./rng.js";

/** Error score of an answer in which no list can be read; an empty list counts as none. */
export const SET_INTERSECTION_UNREADABLE = 1000;

export interface SetPair {
  readonly first: readonly number[];
  readonly second: readonly number[];
}

export interface SetIntersectionOptions {
  /** Worked examples in the prompts, 0 to 3. 0 (default) suits a model trained on the task, such as `mini`. */
  fewShot?: 0 | 1 | 2 | 3;
  /** Asks for the answer alone (default), or to go through parts of 8 of the second set before it. */
  style?: "direct" | "chain-of-thought";
  /** `continue` mode: numbers in one thought, about. 8 by default. */
  numbersPerThought?: number;
  /** Tokens a number and its separator take in the model's tokenizer: 3 by default, for Llama 3; 2 for `mini`. */
  tokensPerNumber?: number;
}

/**
 * Two sets of `size` numbers from 0 to 2 size - 1 in random order, of which between a quarter and three quarters of
 * `size` are common, each such count equally likely; the same for the same seed.
 */
export function generateSetPair(size: number, seed: number): SetPair {
  const rng = createRng(seed);
  const numbers = rng.shuffle(Array.from({ length: 2 * size }, (_, i) => i));
  const shared = rng.int(Math.floor(size / 4), Math.floor((3 * size) / 4));
  const first = numbers.slice(0, size);
  return {
    first: rng.shuffle(first),
    second: rng.shuffle([...first.slice(0, shared), ...numbers.slice(size, 2 * size - shared)]),
  };
}

/** The numbers in both sets, in the order of the first. */
export function intersectionOf({ first, second }: SetPair): number[] {
  const inSecond = new Set(second);
  return first.filter((value) => inSecond.has(value));
}

/** The problem of intersecting `pair`. Throws RangeError when a set is empty, repeats a number, or holds anything but whole numbers from 0. */
export function setIntersectionProblem(
  pair: SetPair,
  options: SetIntersectionOptions = {},
): Problem<NumberListState, readonly number[]> {
  for (const set of [pair.first, pair.second]) {
    if (set.length === 0 || !isSet(set)) {
      throw new RangeError(`A set needs distinct whole numbers from 0, got ${formatList(set.slice(0, 200))}`);
    }
  }
  const { fewShot = 0, style = "direct", numbersPerThought = 8, tokensPerNumber = 3 } = options;
  const inSteps = style === "chain-of-thought";
  const stepTokens = inSteps ? (pair.second.length + most(pair)) * tokensPerNumber + 2 * pair.second.length : 0;
  const words = {
    task: `Find the numbers that stand in both sets.\n${formatPair(pair)}`,
    show: ({ numbers }: NumberListState) => numbers && formatList(numbers),
  };
  const wanted = intersectionOf(pair);
  // A model may go through either set.
  const orders = [wanted, intersectionOf({ first: pair.second, second: pair.first })];
  const errors = (state: NumberListState) =>
    state.complete
      ? setIntersectionErrors(wanted, state.numbers)
      : prefixErrors(wanted, state.numbers) + passedOver(orders, state.numbers ?? []);

  return {
    name: `set-intersection-${pair.first.length}`,
    initial: { numbers: [], complete: false },
    prompt: () => taskPrompt(pair, fewShot, inSteps),
    improvePrompt: (state) =>
      state.numbers?.length ? improvePrompt(pair, state.numbers, fewShot) : taskPrompt(pair, fewShot, inSteps),
    thought: { maxTokens: numbersPerThought * tokensPerNumber },
    answerMaxTokens: stepTokens + (most(pair) + 2) * tokensPerNumber,
    readPartial: (text, ended) => orEmptyList(readPartialNumberList(text, ended, true, inSteps), text),
    readAnswer: (text) => orEmptyList(readNumberList(text), text),
    failureScore: -SET_INTERSECTION_UNREADABLE,
    proposals: listProposals(words.task),
    value: valueQuestion(words),
    vote: voteQuestion(words),
    score: (state) => 0 - errors(state),
    hopeless: (state) => isHopeless(wanted, state),
    isComplete: (state) => state.complete,
    isReadable: ({ numbers }) => numbers !== undefined,
    isSolved: (state) => state.complete && setIntersectionErrors(wanted, state.numbers) === 0,
    answer: (state) => state.numbers ?? [],
    split: (parts) => {
      const seconds = splitEvenly(pair.second, parts);
      const sub = (begin: number, end: number) =>
        setIntersectionProblem({ first: pair.first, second: seconds.slice(begin, end).flat() }, options);
      return {
        parts: seconds.map((_, part) => sub(part, part + 1)),
        merge: (begin, _middle, end, a, b) => ({
          ...sub(begin, end),
          prompt: () => mergePrompt(a.numbers ?? [], b.numbers ?? []),
        }),
      };
    },
  };
}

/**
 * The paper's error score: numbers missing from `output` plus numbers too many in it, repetitions among them. Unreadable
 * scores 1000, and so does an empty list unless the intersection is empty: the paper's parser reads none.
 */
export function setIntersectionErrors(wanted: readonly number[], output: readonly number[] | undefined): number {
  if (output === undefined || (output.length === 0 && wanted.length > 0)) return SET_INTERSECTION_UNREADABLE;
  const missing = new Set(wanted);
  let tooMany = 0;
  for (const value of output) if (!missing.delete(value)) tooMany++;
  return missing.size + tooMany;
}

/** The errors already certain in the beginning of an answer: numbers not in both sets, and repetitions. One for a prefix without any number. */
function prefixErrors(wanted: readonly number[], prefix: readonly number[] | undefined): number {
  if (prefix === undefined) return SET_INTERSECTION_UNREADABLE;
  if (prefix.length === 0) return 1;
  const left = new Set(wanted);
  return prefix.filter((value) => !left.delete(value)).length;
}

/** A number that cannot stand there is written, or begun. */
function isHopeless(wanted: readonly number[], { numbers, complete, growing = "" }: NumberListState): boolean {
  if (complete) return false;
  if (numbers?.length === 0 && growing === "") return false;
  if (numbers === undefined || (numbers.length > 0 && prefixErrors(wanted, numbers) > 0)) return true;
  return !wanted.some((value) => !numbers.includes(value) && String(value).startsWith(growing));
}

/** "[]" reads as an empty list: the right answer for a part of the sets that have nothing in common. */
function orEmptyList(state: NumberListState, text: string): NumberListState {
  return state.numbers === undefined && /\[\s*\]\s*$/.test(text) ? { ...state, numbers: [] } : state;
}

export interface SetIntersectionRow extends SetPair {
  id: number;
  intersection: number[];
}

/**
 * Problems of a CSV file with the columns ID, SET1, SET2 and INTERSECTION, as Graph of Thoughts publishes them. Throws
 * RangeError, naming the row, where a list is not a set of numbers or INTERSECTION is not that of the two.
 */
export function readSetIntersectionCsv(text: string): SetIntersectionRow[] {
  return readCsv(text, readSetIntersectionRow);
}

export function readSetIntersectionRow(record: DataRecord, row: number): SetIntersectionRow {
  const first = readNumberList(record.SET1 ?? "").numbers;
  const second = readNumberList(record.SET2 ?? "").numbers;
  const intersection = readNumberList(record.INTERSECTION ?? "").numbers;
  const id = Number(record.ID ?? "");
  const isValid = first && second && intersection && isSet(first) && isSet(second) && Number.isInteger(id);
  if (!isValid || formatList(sortedCopy(intersectionOf({ first, second }))) !== formatList(sortedCopy(intersection))) {
    throw badRow(row, "ID, SET1, SET2, INTERSECTION", record);
  }
  return { id, first, second, intersection: [...intersection] };
}

/** Most numbers that can be common. */
function most({ first, second }: SetPair): number {
  return Math.min(first.length, second.length);
}

/** Numbers of the second set that a chain of thought looks up at a time. */
const STEP_LENGTH = 8;

function taskPrompt(pair: SetPair, fewShot: number, inSteps: boolean): PromptMessage[] {
  const examples = examplePairs(fewShot).map((example) => {
    const answer = inSteps ? intersectionInSteps(example) : `Output: ${formatList(intersectionOf(example))}`;
    return `${formatPair(example)}\n${answer}\n\n`;
  });
  const how = inSteps
    ? ` First split Set 2 into parts of ${STEP_LENGTH} and find those of each that stand in Set 1, a line each; then join them, after the word Output:.\n`
    : " Answer with the list of these numbers only.\n";
  return promptWithExamples(`Find the numbers that stand in both sets.${how}`, examples, formatPair(pair));
}

/** What a chain of thought writes: the common numbers of each part of the second set, then all of them. */
export function intersectionInSteps({ first, second }: SetPair): string {
  const parts = splitEvenly(second, Math.ceil(second.length / STEP_LENGTH));
  const found = parts.map((part) => intersectionOf({ first: part, second: first }));
  const steps = parts.map((part, i) => `Part ${i + 1}: ${formatList(part)} in Set 1: ${formatList(found[i]!)}\n`);
  return `${steps.join("")}Output: ${formatList(found.flat())}`;
}

function improvePrompt(pair: SetPair, current: readonly number[], fewShot: number): PromptMessage[] {
  const examples = examplePairs(fewShot).map((example, index) => {
    const right = intersectionOf(example);
    const wrong = [...right];
    const [dropped] = wrong.splice(index + 1, 1);
    const added = example.first.find((value) => !right.includes(value))!;
    wrong.push(added);
    return [
      `${formatPair(example)}\nIncorrect intersection: ${formatList(wrong)}\n`,
      `Reason: ${added} is not in Set 2, and ${dropped} stands in both sets but is missing.\n`,
      `Output: ${formatList(right)}\n\n`,
    ].join("");
  });
  return promptWithExamples(
    "The list should hold the numbers that stand in both sets, but it has mistakes. " +
      "Remove each number that is not in both sets, then go through Set 2 and add each missing one. " +
      "Answer with the corrected list only.\n",
    examples,
    `${formatPair(pair)}\nIncorrect intersection: ${formatList(current)}`,
  );
}

function mergePrompt(first: readonly number[], second: readonly number[]): PromptMessage[] {
  return promptWithExamples(
    "Join the two lists of numbers into one that holds all of them. Answer with the joined list only.\n",
    [],
    `List 1: ${formatList(first)}\nList 2: ${formatList(second)}`,
  );
}

function formatPair({ first, second }: SetPair): string {
  return `Set 1: ${formatList(first)}\nSet 2: ${formatList(second)}`;
}

/** Pairs of sets of 8, 16 and 32; the same for every problem, so that their tokens are a shared prefix. */
function examplePairs(count: number): SetPair[] {
  return [8, 16, 32].slice(0, count).map((size, index) => generateSetPair(size, 1000 + index));
}

function isSet(numbers: readonly number[]): boolean {
  return (
    numbers.every((value) => Number.isSafeInteger(value) && value >= 0) && new Set(numbers).size === numbers.length
  );
}
