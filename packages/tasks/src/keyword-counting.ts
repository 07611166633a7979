/**
 * Counting how often each country is named in a passage: the task of Graph of Thoughts (Besta et al., AAAI 2024,
 * section 4.3). Generator, prompts, parser and scorer stand here together; the rules of the parser and of the error
 * score are the paper's, the words of the prompts and the passages are ours.
 */
import type { Problem, PromptMessage } from "@deftree/search";
import { countNames, findCountries, PASSAGE_COUNTRIES } from "./country-names.js";
import { splitEvenly } from "./number-list.js";
import { valueQuestion, voteQuestion } from "./questions.js";
import { badRow, type DataRecord, readCsv } from "./records.js";
import { createRng, type Rng } from "./rng.js";

/** Error score of an answer in which no dictionary can be read. */
export const KEYWORD_COUNTING_UNREADABLE = 100;

/** Country -> how often it is named. */
export type CountryCounts = Readonly<Record<string, number>>;

export interface Passage {
  readonly text: string;
  /** What a right answer says. Never holds a zero. */
  readonly counts: CountryCounts;
}

export interface KeywordCountingState {
  /** The entries written so far; undefined where they cannot be read. */
  readonly counts: CountryCounts | undefined;
  /** False while the dictionary may still grow. */
  readonly complete: boolean;
}

export interface PassageOptions {
  /** Sentences of the passage; 16 by default, as the paper's have 12 to 19. */
  sentences?: number;
  /** Most different countries; 10 by default. */
  countries?: number;
}

export interface KeywordCountingOptions {
  /** Worked examples in the prompts; there are 2. 0 (default) suits a model trained on the task, such as `mini`. */
  fewShot?: 0 | 1 | 2 | 3;
  /** Asks for the answer alone (default), or for the counts of each sentence before it. */
  style?: "direct" | "chain-of-thought";
  /** `continue` mode: tokens of one thought; 32 by default, a few entries. */
  tokensPerThought?: number;
  /** Tokens one entry of the dictionary may take; 10 by default. */
  tokensPerEntry?: number;
}

/**
 * A passage of sentences that name countries, the same for the same seed. Traps stand in it: adjectives ("Norwegian")
 * and names that hold another name ("Nigeria", "South Sudan") are no mentions of the country within.
 */
export function generatePassage(seed: number, options: PassageOptions = {}): Passage {
  const { sentences = 16, countries = 10 } = options;
  const rng = createRng(seed);
  const pool = rng.shuffle(PASSAGE_COUNTRIES).slice(0, countries);
  for (;;) {
    const passage = passageOf(Array.from({ length: sentences }, () => sentence(rng, pool)).join(" "));
    // A few sentences may hold adjectives only.
    if (Object.keys(passage.counts).length > 0) return passage;
  }
}

/** A text with the counts of the countries it names. */
export function passageOf(text: string): Passage {
  return { text, counts: Object.fromEntries(countNames(findCountries(text))) };
}

/** The problem of counting the countries of `passage`. Throws RangeError when it names none. */
export function keywordCountingProblem(
  passage: Passage,
  options: KeywordCountingOptions = {},
): Problem<KeywordCountingState, CountryCounts> {
  if (Object.keys(passage.counts).length === 0) throw new RangeError("The passage names no country");
  return problemOf(passage, options);
}

/** Also for a part of a passage that names no country. */
function problemOf(passage: Passage, options: KeywordCountingOptions): Problem<KeywordCountingState, CountryCounts> {
  const { fewShot = 0, style = "direct", tokensPerThought = 32, tokensPerEntry = 10 } = options;
  const entries = Object.keys(passage.counts).length;
  const numSentences = splitSentences(passage.text).length;
  const words = {
    task: `${INSTRUCTION}\nText: ${passage.text}`,
    show: ({ counts }: KeywordCountingState) => counts && formatCounts(counts),
  };

  return {
    name: "keyword-counting",
    initial: { counts: {}, complete: false },
    prompt: () => taskPrompt(passage, fewShot, style),
    improvePrompt: ({ counts }) =>
      counts === undefined ? taskPrompt(passage, fewShot, style) : improvePrompt(passage, counts, fewShot),
    thought: { maxTokens: tokensPerThought },
    answerMaxTokens: (2 * entries + 4) * tokensPerEntry * (style === "direct" ? 1 : 1 + numSentences),
    readPartial: (text, ended) => readPartialCounts(text, ended, style === "chain-of-thought"),
    readAnswer: (text) => ({ counts: readCounts(text), complete: true }),
    failureScore: -KEYWORD_COUNTING_UNREADABLE,
    value: valueQuestion(words),
    vote: voteQuestion(words),
    score: ({ counts, complete }) =>
      0 - (complete ? keywordCountingErrors(passage.counts, counts) : partialErrors(passage.counts, counts)),
    hopeless: ({ counts, complete }) => !complete && counts !== undefined && wrongEntries(passage.counts, counts) > 0,
    isComplete: (state) => state.complete,
    isSolved: ({ counts, complete }) => complete && keywordCountingErrors(passage.counts, counts) === 0,
    answer: ({ counts }) => counts ?? {},
    split: (parts) => {
      const texts = splitEvenly(splitSentences(passage.text), parts);
      const sub = (begin: number, end: number) =>
        problemOf(passageOf(texts.slice(begin, end).flat().join(" ")), options);
      return {
        parts: texts.map((_, part) => sub(part, part + 1)),
        // The whole passage keeps its own label.
        merge: (begin, _middle, end, a, b) => ({
          ...(end - begin === parts ? problemOf(passage, options) : sub(begin, end)),
          prompt: () => mergePrompt(a.counts ?? {}, b.counts ?? {}),
        }),
      };
    },
  };
}

/** The paper's error score: the sum over all countries of |counted - right|. Unreadable scores 100. */
export function keywordCountingErrors(wanted: CountryCounts, counted: CountryCounts | undefined): number {
  if (counted === undefined) return KEYWORD_COUNTING_UNREADABLE;
  const names = new Set([...Object.keys(wanted), ...Object.keys(counted)]);
  let errors = 0;
  for (const name of names) errors += Math.abs((counted[name] ?? 0) - (wanted[name] ?? 0));
  return errors;
}

/** The errors already certain in the beginning of an answer; one for a beginning without any entry. */
function partialErrors(wanted: CountryCounts, counted: CountryCounts | undefined): number {
  if (counted === undefined) return KEYWORD_COUNTING_UNREADABLE;
  return Object.keys(counted).length === 0 ? 1 : wrongEntries(wanted, counted);
}

function wrongEntries(wanted: CountryCounts, counted: CountryCounts): number {
  let errors = 0;
  for (const [name, count] of Object.entries(counted)) errors += Math.abs(count - (wanted[name] ?? 0));
  return errors;
}

/** The paper's parser: after the last "Output:", the last "{...}" that is a JSON object of whole numbers. */
export function readCounts(text: string): CountryCounts | undefined {
  const answer = text.slice(Math.max(0, text.lastIndexOf("Output:")));
  const objects = answer.match(/\{[^{}]*\}/g) ?? [];
  for (const candidate of objects.reverse()) {
    const counts = parseCounts(candidate);
    if (counts !== undefined) return counts;
  }
  return undefined;
}

/**
 * The dictionary in an answer that is still being written; its closing brace completes it. `afterOutput`: what stands before
 * "Output:" are steps towards the answer.
 */
export function readPartialCounts(text: string, ended: boolean, afterOutput = false): KeywordCountingState {
  const output = text.lastIndexOf("Output:");
  const begin = output < 0 && afterOutput ? text.length : Math.max(0, output);
  const open = text.lastIndexOf("{");
  if (ended || (open >= begin && text.includes("}", open))) return { counts: readCounts(text), complete: true };
  if (open < begin) return { counts: {}, complete: false };
  // Only entries that a comma ends are whole: a count may get another digit.
  const whole = text.slice(open, Math.max(open + 1, text.lastIndexOf(",")));
  return { counts: parseCounts(`${whole}}`), complete: false };
}

function parseCounts(json: string): CountryCounts | undefined {
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch {
    return undefined;
  }
  const counts = Object.entries(value as object);
  return counts.every(([, count]) => Number.isSafeInteger(count)) ? Object.fromEntries(counts) : undefined;
}

export interface KeywordCountingRow extends Passage {
  id: number;
}

/**
 * Passages of a CSV file with the columns ID, Text and Countries (each mention, "[Norway, Sweden, Norway]"), as Graph of
 * Thoughts publishes them; the column is the right answer, whatever the text says. Throws RangeError, naming the row.
 */
export function readKeywordCountingCsv(text: string): KeywordCountingRow[] {
  return readCsv(text, readKeywordCountingRow);
}

export function readKeywordCountingRow(record: DataRecord, row: number): KeywordCountingRow {
  const id = Number(record.ID ?? "");
  const names = /^\s*\[(.*)\]\s*$/s
    .exec(record.Countries ?? "")?.[1]
    ?.split(",")
    .map((name) => name.trim());
  if (!Number.isInteger(id) || !record.Text || !names?.every((name) => name !== "")) {
    throw badRow(row, "ID, Text, Countries", record);
  }
  return { id, text: record.Text, counts: Object.fromEntries(countNames(names)) };
}

export function formatCounts(counts: CountryCounts): string {
  return `{${Object.entries(counts)
    .map(([name, count]) => `${JSON.stringify(name)}: ${count}`)
    .join(", ")}}`;
}

/** Sentences of a passage, as the generator writes them: each ends with a full stop. */
export function splitSentences(text: string): string[] {
  return (
    text
      .match(/[^.]+\.?/g)
      ?.map((part) => part.trim())
      .filter((part) => part !== "") ?? []
  );
}

/** What a chain of thought writes: the counts of each sentence, then all of them. */
export function chainOfThought(passage: Passage): string {
  const steps = splitSentences(passage.text).map((part, i) => `${i + 1}: ${formatCounts(passageOf(part).counts)}\n`);
  return `${steps.join("")}Output: ${formatCounts(passage.counts)}`;
}

const INSTRUCTION =
  "Count how often each country is named in the text. Adjectives such as French are not names. " +
  "Name each country once, with its count, as a JSON object.";

function taskPrompt({ text }: Passage, fewShot: number, style: "direct" | "chain-of-thought"): PromptMessage[] {
  const inSteps = style === "chain-of-thought";
  const examples = examplePassages(fewShot).map((example) => {
    const answer = inSteps ? chainOfThought(example) : `Output: ${formatCounts(example.counts)}`;
    return `Text: ${example.text}\n${answer}\n\n`;
  });
  const how = inSteps
    ? " First count in each sentence, one line each; then add up, after the word Output:.\n"
    : " Answer with the object only.\n";
  const content = [INSTRUCTION, how, ...withTitle(examples), `Text: ${text}`].join("");
  return [{ role: "user", content }];
}

function improvePrompt({ text }: Passage, current: CountryCounts, fewShot: number): PromptMessage[] {
  const examples = examplePassages(fewShot).map((example, index) => {
    const [name, count] = Object.entries(example.counts)[index]!;
    const wrong = { ...example.counts, [name]: count + 1 };
    return [
      `Text: ${example.text}\nIncorrect: ${formatCounts(wrong)}\n`,
      `Reason: ${name} is named ${count === 1 ? "once" : `${count} times`}, not ${count + 1} times.\n`,
      `Output: ${formatCounts(example.counts)}\n\n`,
    ].join("");
  });
  const content = [
    "The object should say how often each country is named in the text, but it has mistakes. ",
    "Count each country again and correct the object. Answer with the corrected JSON object only.\n",
    ...withTitle(examples),
    `Text: ${text}\nIncorrect: ${formatCounts(current)}`,
  ].join("");
  return [{ role: "user", content }];
}

function mergePrompt(first: CountryCounts, second: CountryCounts): PromptMessage[] {
  const content = [
    "Add the two JSON objects: for each country the sum of its counts. Answer with the JSON object only.\n",
    `Counts 1: ${formatCounts(first)}\nCounts 2: ${formatCounts(second)}`,
  ].join("");
  return [{ role: "user", content }];
}

/** Passages of 4 and 8 sentences; the same for every problem, so that their tokens are a shared prefix. */
function examplePassages(count: number): Passage[] {
  return [4, 8].slice(0, count).map((sentences, index) => generatePassage(1000 + index, { sentences, countries: 4 }));
}

function withTitle(examples: string[]): string[] {
  return examples.length === 0 ? [] : ["\nExamples\n", ...examples, "Your turn\n"];
}

type Country = (typeof PASSAGE_COUNTRIES)[number];

/** Sentences with two names, one of them perhaps twice, and an adjective in half of them. */
const TEMPLATES: readonly ((a: Country, b: Country, c: Country) => string)[] = [
  (a, b) => `Maria left ${a.name} in spring and reached ${b.name} before the first snow.`,
  (a, b) => `The old trade road from ${a.name} to ${b.name} was closed for years.`,
  (a, b, c) => `A ${c.adjective} engineer compared the bridges of ${a.name} with those of ${b.name}.`,
  (a, b) => `Farmers in ${a.name} sell more tea than those in ${b.name}, but ${a.name} exports less.`,
  (a, _, c) => `The ${c.adjective} team trained in ${a.name} all winter.`,
  (a, b) => `Letters between ${a.name} and ${b.name} took three weeks in those days.`,
  (a, b, c) => `In ${a.name} he met a ${c.adjective} painter who longed for ${b.name}.`,
  (a) => `Nobody knew why the train stopped so long at the border of ${a.name}.`,
  (a, b) => `Her brother studied in ${a.name}, her sister in ${b.name}.`,
  (a, b) => `When the harvest failed in ${a.name}, ships came from ${b.name} and went back to ${a.name} empty.`,
  (_, b, c) => `Two ${c.adjective} musicians crossed ${b.name} on foot.`,
  (a, b) => `The museum holds maps of ${a.name}, coins of ${b.name} and a clock nobody can date.`,
  (a, b, c) => `Prices rose in ${a.name}, fell in ${b.name}, and ${c.adjective} merchants waited.`,
  (a) => `She had always wanted to see ${a.name}, and ${a.name} did not disappoint her.`,
  (_, __, c) => `A ${c.adjective} newspaper printed the story first.`,
  (a, b) => `The match between ${a.name} and ${b.name} ended without a goal.`,
];

function sentence(rng: Rng, pool: readonly Country[]): string {
  return rng.pick(TEMPLATES)(rng.pick(pool), rng.pick(pool), rng.pick(pool));
}
