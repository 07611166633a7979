/**
 * Counting how often each country is named in a passage: the task of Graph of Thoughts (Besta et al., AAAI 2024,
 * section 4.3). Prompts, parser and scorer stand here together, the generator in passages.ts; the rules of the parser and of the error
 * score are the paper's, the words of the prompts and the passages are ours.
 */
import type { Problem, PromptMessage } from "@deftree/search";
import { countNames } from "./country-names.js";
import { splitEvenly } from "./number-list.js";
import { type CountryCounts, generatePassage, type Passage, passageOf, splitSentences } from "./passages.js";
import { passedOver } from "./passed-over.js";
import { promptWithExamples } from "./prompts.js";
import { valueQuestion, voteQuestion } from "./questions.js";
import { badRow, type DataRecord, readCsv } from "./records.js";

/** Error score of an answer in which no dictionary can be read. */
export const KEYWORD_COUNTING_UNREADABLE = 100;

export interface KeywordCountingState {
  /** The entries written so far; undefined where they cannot be read. */
  readonly counts: CountryCounts | undefined;
  /** False while the dictionary may still grow. */
  readonly complete: boolean;
  /** What is written of the next entry. */
  readonly growing?: string;
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
    hopeless: (state) => isHopeless(passage.counts, state),
    isComplete: (state) => state.complete,
    isReadable: ({ counts }) => counts !== undefined,
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

/** The errors in the beginning of an answer, and the countries that it passed over; one for a beginning without any entry. */
function partialErrors(wanted: CountryCounts, counted: CountryCounts | undefined): number {
  if (counted === undefined) return KEYWORD_COUNTING_UNREADABLE;
  const names = Object.keys(counted);
  return names.length === 0 ? 1 : wrongEntries(wanted, counted) + passedOver([Object.keys(wanted)], names);
}

/** An entry that cannot stand there is written, or begun. White space means nothing. */
function isHopeless(wanted: CountryCounts, { counts, complete, growing = "" }: KeywordCountingState): boolean {
  if (complete || counts === undefined) return false;
  if (wrongEntries(wanted, counts) > 0) return true;
  if (growing === "" && Object.keys(counts).length === 0) return false;
  const begun = growing.replace(/\s/g, "");
  return !Object.entries(wanted).some(
    ([name, count]) => !(name in counts) && `${JSON.stringify(name)}:${count}`.replace(/\s/g, "").startsWith(begun),
  );
}

function wrongEntries(wanted: CountryCounts, counted: CountryCounts): number {
  let errors = 0;
  for (const [name, count] of Object.entries(counted)) errors += Math.abs(count - (wanted[name] ?? 0));
  return errors;
}

/** The paper's parser: after the last "Output:", the last "{...}" that is a JSON object of whole numbers. */
function readCounts(text: string): CountryCounts | undefined {
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
function readPartialCounts(text: string, ended: boolean, afterOutput = false): KeywordCountingState {
  const output = text.lastIndexOf("Output:");
  const begin = output < 0 && afterOutput ? text.length : Math.max(0, output);
  const open = text.lastIndexOf("{");
  if (ended || (open >= begin && text.includes("}", open))) return { counts: readCounts(text), complete: true };
  if (open < begin) return { counts: {}, complete: false };
  // Only entries that a comma ends are whole: a count may get another digit.
  const end = Math.max(open + 1, text.lastIndexOf(","));
  const growing = text.slice(end).replace(/^,/, "").trim();
  const counts = parseCounts(`${text.slice(open, end)}}`);
  return { counts, complete: false, ...(growing !== "" && { growing }) };
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
  return promptWithExamples(INSTRUCTION + how, examples, `Text: ${text}`);
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
  return promptWithExamples(
    "The object should say how often each country is named in the text, but it has mistakes. " +
      "Count each country again and correct the object. Answer with the corrected JSON object only.\n",
    examples,
    `Text: ${text}\nIncorrect: ${formatCounts(current)}`,
  );
}

function mergePrompt(first: CountryCounts, second: CountryCounts): PromptMessage[] {
  return promptWithExamples(
    "Add the two JSON objects: for each country the sum of its counts. Answer with the JSON object only.\n",
    [],
    `Counts 1: ${formatCounts(first)}\nCounts 2: ${formatCounts(second)}`,
  );
}

/** Passages of 4 and 8 sentences; the same for every problem, so that their tokens are a shared prefix. */
function examplePassages(count: number): Passage[] {
  return [4, 8].slice(0, count).map((sentences, index) => generatePassage(1000 + index, { sentences, countries: 4 }));
}
