/**
 * Few-shot prompting: examples of a rule nobody states, and one more input. It is the workload in which many branches share
 * one long prompt (DeFT's "few-shot prompting", Yao et al., ICLR 2025, section 4). Generator, prompts, parser and scorer stand
 * here together; rules are on lists of digits, so that a program knows the right output and the distance to it.
 */
import type { Problem, PromptMessage } from "@deftree/search";
import { sortedCopy } from "./number-list.js";
import { valueQuestion, voteQuestion } from "./questions.js";
import { badRow, type DataRecord } from "./records.js";
import { createRng } from "./rng.js";

/** Error score of an answer in which no output can be read. */
export const FEW_SHOT_UNREADABLE = 100;

export interface FewShotExample {
  readonly input: string;
  readonly output: string;
}

/** `output` is the right answer to `input`. */
export interface FewShotItem extends FewShotExample {
  readonly examples: readonly FewShotExample[];
}

export interface FewShotState {
  /** The output so far; undefined where none can be read. */
  readonly output: string | undefined;
  /** False while the output may still grow. */
  readonly complete: boolean;
}

export interface FewShotOptions {
  /** Asks for the output alone (default), or to say the rule before it. */
  style?: "direct" | "chain-of-thought";
  /** `continue` mode: tokens of one thought; 8 by default. */
  tokensPerThought?: number;
  /** Tokens that an output's word may take with the space before it; 4 by default. */
  tokensPerWord?: number;
}

/** `shots` examples of one rule and an input, the same for the same seed. */
export function generateFewShot(shots: number, seed: number): FewShotItem {
  const rng = createRng(seed);
  const rule = rng.pick(RULES);
  const shift = rng.pick(SHIFTS);
  const example = (): FewShotExample => {
    const input = Array.from({ length: rng.int(5, 9) }, () => rng.int(0, 9));
    return { input: input.join(" "), output: rule.apply(input, shift).join(" ") };
  };
  return { examples: Array.from({ length: shots }, example), ...example() };
}

/** @throws RangeError without an example, or where an output is empty. */
export function fewShotProblem(item: FewShotItem, options: FewShotOptions = {}): Problem<FewShotState, string> {
  if (item.examples.length === 0) throw new RangeError("A few-shot problem needs an example");
  if (wordsOf(item.output).length === 0) throw new RangeError("A few-shot problem needs an output that is not empty");
  const { style = "direct", tokensPerThought = 8, tokensPerWord = 4 } = options;
  const inSteps = style === "chain-of-thought";
  const [question] = taskPrompt(item, inSteps);
  const words = { task: question!.content, show: ({ output }: FewShotState) => output || undefined };
  const errors = ({ output, complete }: FewShotState) =>
    complete ? fewShotErrors(item.output, output) : beginningErrors(item.output, output);

  return {
    name: `few-shot-${item.examples.length}`,
    initial: { output: "", complete: false },
    prompt: () => taskPrompt(item, inSteps),
    improvePrompt: ({ output }) => (output ? improvePrompt(item, output) : taskPrompt(item, inSteps)),
    thought: { maxTokens: tokensPerThought },
    answerMaxTokens: (wordsOf(item.output).length + 4) * tokensPerWord + (inSteps ? 128 : 0),
    readPartial: (text, ended) => readOutput(text, ended, inSteps),
    readAnswer: (text) => readOutput(text, true, inSteps),
    failureScore: -FEW_SHOT_UNREADABLE,
    score: (state) => 0 - errors(state),
    hopeless: (state) => !state.complete && state.output !== "" && beginningErrors(item.output, state.output) > 0,
    isComplete: (state) => state.complete,
    isReadable: ({ output }) => output !== undefined,
    isSolved: (state) => state.complete && fewShotErrors(item.output, state.output) === 0,
    answer: ({ output }) => output ?? "",
    value: valueQuestion(words),
    vote: voteQuestion(words),
  };
}

/** Words to insert, remove or replace to make `output` the right one (Levenshtein distance). Unreadable scores 100. */
export function fewShotErrors(wanted: string, output: string | undefined): number {
  if (output === undefined) return FEW_SHOT_UNREADABLE;
  const [a, b] = [wordsOf(wanted), wordsOf(output)];
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (const [i, word] of a.entries()) {
    const next = [i + 1];
    for (const [j, other] of b.entries()) {
      next.push(Math.min(row[j + 1]! + 1, next[j]! + 1, row[j]! + Number(word !== other)));
    }
    row = next;
  }
  return row.at(-1)!;
}

/** Words of a beginning that differ from the right output's; one for a beginning without any. The last word may still grow. */
function beginningErrors(wanted: string, output: string | undefined): number {
  if (output === undefined) return FEW_SHOT_UNREADABLE;
  const words = wordsOf(output);
  if (words.length === 0) return 1;
  const right = wordsOf(wanted);
  const isGrowing = !/[\s,]$/.test(output);
  return words.filter((word, i) =>
    isGrowing && i === words.length - 1 ? !right[i]?.startsWith(word) : word !== right[i],
  ).length;
}

/** The line after the last "Output:", else the first that is not empty. A line end completes it. */
function readOutput(text: string, ended: boolean, afterOutput: boolean): FewShotState {
  const label = text.lastIndexOf("Output:");
  if (label < 0 && afterOutput) return { output: ended ? undefined : "", complete: ended };
  const answer = text.slice(label < 0 ? 0 : label + "Output:".length).trimStart();
  const end = answer.indexOf("\n");
  // The label itself may still be on its way.
  if (!ended && label < 0 && "Output:".startsWith(answer)) return { output: "", complete: false };
  if (end < 0 && !ended) return { output: answer, complete: false };
  return { output: (end < 0 ? answer : answer.slice(0, end)).trim() || undefined, complete: true };
}

/** A row with the fields examples (a JSON list of objects with input and output), input and output. */
export function readFewShotRow(record: DataRecord, row: number): FewShotItem {
  const { input, output } = record;
  const examples = parseExamples(record.examples ?? "");
  if (!input || !output || examples === undefined) throw badRow(row, "examples, input, output", record);
  return { examples, input, output };
}

function parseExamples(json: string): FewShotExample[] | undefined {
  let examples: unknown;
  try {
    examples = JSON.parse(json);
  } catch {
    return undefined;
  }
  const isExample = (value: unknown): value is FewShotExample =>
    typeof value === "object" &&
    value !== null &&
    typeof (value as FewShotExample).input === "string" &&
    typeof (value as FewShotExample).output === "string";
  return Array.isArray(examples) && examples.length > 0 && examples.every(isExample) ? examples : undefined;
}

function taskPrompt({ examples, input }: FewShotItem, inSteps: boolean): PromptMessage[] {
  const how = inSteps
    ? "First say the rule, then give the output of the last input after the word Output:."
    : "Give the output of the last input, nothing else.";
  const content = [
    `One rule makes each output of its input. ${how}\n\n`,
    ...examples.map((example) => `Input: ${example.input}\nOutput: ${example.output}\n\n`),
    `Input: ${input}`,
  ].join("");
  return [{ role: "user", content }];
}

function improvePrompt({ examples, input }: FewShotItem, output: string): PromptMessage[] {
  const content = [
    "One rule makes each output of its input. The output of the last input has mistakes. ",
    "Compare it with the examples and correct it. Give the corrected output, nothing else.\n\n",
    ...examples.map((example) => `Input: ${example.input}\nOutput: ${example.output}\n\n`),
    `Input: ${input}\nIncorrect: ${output}`,
  ].join("");
  return [{ role: "user", content }];
}

function wordsOf(text: string): string[] {
  return text.match(/[^\s,]+/g) ?? [];
}

/** What a chain of thought writes: the rule in words, then the output. Undefined where no rule of the generator fits. */
export function fewShotInSteps({ examples, input, output }: FewShotItem): string | undefined {
  const pairs = [...examples, { input, output }].map((pair) => [wordsOf(pair.input).map(Number), pair.output] as const);
  for (const { words, apply } of RULES) {
    for (const shift of SHIFTS) {
      const fits = pairs.every(([digits, wanted]) => apply(digits, shift).join(" ") === wanted);
      if (fits) return `Rule: ${words(shift)}\nOutput: ${output}`;
    }
  }
  return undefined;
}

interface Rule {
  words(shift: number): string;
  /** Gives a list that is not empty. */
  apply(input: readonly number[], shift: number): number[];
}

const SHIFTS = [1, 2, 3, 4];

const RULES: readonly Rule[] = [
  { words: () => "the digits in reverse order", apply: (input) => [...input].reverse() },
  { words: () => "the digits in ascending order", apply: sortedCopy },
  { words: () => "the digits in descending order", apply: (input) => sortedCopy(input).reverse() },
  { words: () => "each digit once, where it comes first", apply: (input) => [...new Set(input)] },
  {
    words: (shift) => `${shift} added to each digit, the last digit of the sum`,
    apply: (input, shift) => input.map((digit) => (digit + shift) % 10),
  },
  {
    words: (shift) => `the first ${shift} moved to the end`,
    apply: (input, shift) => [...input.slice(shift), ...input.slice(0, shift)],
  },
  { words: () => "each digit twice", apply: (input) => input.flatMap((digit) => [digit, digit]) },
  {
    words: () => "each digit added to the one before it, the last digit of the sum",
    apply: (input) => input.map((digit, i) => (digit + (input[i - 1] ?? 0)) % 10),
  },
];
