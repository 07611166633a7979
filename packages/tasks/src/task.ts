/** All tasks behind one interface, for programs that treat them alike. */
import type { Problem } from "@deftree/search";
import {
  type DocumentMergingOptions,
  type DocumentMergingState,
  type DocumentSet,
  documentMergingProblem,
  generateDocumentSet,
  markMerge,
  mergeScore,
  readDocumentMergingRow,
} from "./document-merging.js";
import {
  FEW_SHOT_UNREADABLE,
  type FewShotItem,
  type FewShotOptions,
  type FewShotState,
  fewShotErrors,
  fewShotProblem,
  generateFewShot,
  readFewShotRow,
} from "./few-shot.js";
import {
  KEYWORD_COUNTING_UNREADABLE,
  type KeywordCountingOptions,
  type KeywordCountingState,
  keywordCountingErrors,
  keywordCountingProblem,
  readKeywordCountingRow,
} from "./keyword-counting.js";
import { formatList, type NumberListState } from "./number-list.js";
import { type CountryCounts, generatePassage, type Passage, splitSentences } from "./passages.js";
import { type DataFormat, readRows, type TaskRow } from "./records.js";
import {
  generateSetPair,
  intersectionOf,
  readSetIntersectionRow,
  SET_INTERSECTION_UNREADABLE,
  type SetIntersectionOptions,
  type SetPair,
  setIntersectionErrors,
  setIntersectionProblem,
} from "./set-intersection.js";
import {
  generateSorting,
  readSortingRow,
  SORTING_UNREADABLE,
  type SortingOptions,
  sortingErrors,
  sortingProblem,
} from "./sorting.js";

export type TaskName = "sorting" | "set-intersection" | "keyword-counting" | "document-merging" | "few-shot";

/** What every task understands; each has options of its own beside. */
export interface TaskOptions {
  style?: "direct" | "chain-of-thought";
  /** Worked examples in the prompts, where the task has such, and as many as it has. */
  fewShot?: 0 | 1 | 2 | 3;
}

export interface Task<Instance, State, Answer, Options extends TaskOptions = TaskOptions> {
  readonly name: TaskName;
  /** What a size counts: "digits", "sentences". */
  readonly sizeUnit: string;
  /** The paper's sizes, the smallest first. */
  readonly sizes: readonly number[];
  /** Columns of users' data. */
  readonly columns: readonly string[];
  /** An instance of any size of at least 1 (documents: 2), the same for the same seed. */
  generate(size: number, seed: number): Instance;
  /** Rows of users' data; one that cannot be read tells why. @throws RangeError when the text is no CSV. */
  readData(text: string, format: DataFormat): TaskRow<Instance>[];
  problem(instance: Instance, options?: Options): Problem<State, Answer>;
  sizeOf(instance: Instance): number;
  /** Most parts that its problem can be split into; 1 where it cannot be. */
  mostParts(instance: Instance): number;
  /** In one line, for people. */
  describe(instance: Instance): string;
  /** The task's error measure; 0 is right. Undefined answers have the task's failure score. */
  errors(instance: Instance, answer: Answer | undefined): number;
}

/** A task whose types nobody looks at: instances come from it and go back to it. */
export type AnyTask = Task<unknown, unknown, unknown>;

/**
 * The errors of what a search on `problem` answers with: the task's failure score where there is no answer, where nobody can
 * read it, and where the scorer throws.
 */
export function answerErrors<Instance, State, Answer>(
  task: Task<Instance, State, Answer>,
  instance: Instance,
  problem: Problem<State, Answer>,
  state: State | undefined,
): number {
  const failure = task.errors(instance, undefined);
  try {
    if (state === undefined || problem.score(state) <= -failure) return failure;
    return task.errors(instance, problem.answer(state));
  } catch {
    return failure;
  }
}

const sorting: Task<readonly number[], NumberListState, readonly number[], SortingOptions> = {
  name: "sorting",
  sizeUnit: "digits",
  sizes: [32, 64, 128],
  columns: ["ID", "Unsorted", "Sorted"],
  generate: generateSorting,
  readData: (text, format) => readRows(text, format, (record, row) => readSortingRow(record, row).unsorted),
  problem: sortingProblem,
  sizeOf: (input) => input.length,
  mostParts: (input) => input.length,
  describe: formatList,
  errors: (input, answer) => (answer ? sortingErrors(input, answer) : SORTING_UNREADABLE),
};

const setIntersection: Task<SetPair, NumberListState, readonly number[], SetIntersectionOptions> = {
  name: "set-intersection",
  sizeUnit: "numbers",
  sizes: [32, 64, 128],
  columns: ["ID", "SET1", "SET2", "INTERSECTION"],
  generate: generateSetPair,
  readData: (text, format) => readRows(text, format, readSetIntersectionRow),
  problem: setIntersectionProblem,
  sizeOf: ({ first }) => first.length,
  mostParts: ({ second }) => second.length,
  describe: ({ first, second }) => `${formatList(first)} and ${formatList(second)}`,
  errors: (pair, answer) =>
    answer ? setIntersectionErrors(intersectionOf(pair), answer) : SET_INTERSECTION_UNREADABLE,
};

const keywordCounting: Task<Passage, KeywordCountingState, CountryCounts, KeywordCountingOptions> = {
  name: "keyword-counting",
  sizeUnit: "sentences",
  sizes: [16],
  columns: ["ID", "Text", "Countries"],
  generate: (sentences, seed) => generatePassage(seed, { sentences }),
  readData: (text, format) => readRows(text, format, readKeywordCountingRow),
  problem: keywordCountingProblem,
  sizeOf: ({ text }) => splitSentences(text).length,
  mostParts: ({ text }) => splitSentences(text).length,
  describe: ({ text }) => text,
  errors: ({ counts }, answer) => (answer ? keywordCountingErrors(counts, answer) : KEYWORD_COUNTING_UNREADABLE),
};

const documentMerging: Task<DocumentSet, DocumentMergingState, string, DocumentMergingOptions & TaskOptions> = {
  name: "document-merging",
  sizeUnit: "documents",
  sizes: [4],
  columns: ["id", "document1", "document2", "document3", "document4"],
  generate: (documents, seed) => generateDocumentSet(seed, { documents, clauses: Math.min(18, 6 * documents) }),
  readData: (text, format) => readRows(text, format, readDocumentMergingRow),
  problem: documentMergingProblem,
  sizeOf: ({ documents }) => documents.length,
  mostParts: ({ documents }) => Math.max(1, Math.floor(documents.length / 2)),
  describe: ({ documents, facts }) => `${documents.length} documents that say ${facts.length} things`,
  // 10 less the harmonic mean of the marks, so that less is better as in the other tasks.
  errors: ({ facts }, answer) => (answer ? 10 - mergeScore(markMerge(facts, answer)) : 10),
};

const fewShot: Task<FewShotItem, FewShotState, string, FewShotOptions & TaskOptions> = {
  name: "few-shot",
  sizeUnit: "examples",
  sizes: [8, 32, 128],
  columns: ["examples", "input", "output"],
  generate: generateFewShot,
  readData: (text, format) => readRows(text, format, readFewShotRow),
  problem: fewShotProblem,
  sizeOf: ({ examples }) => examples.length,
  mostParts: () => 1,
  describe: ({ input, examples }) => `${input} after ${examples.length} examples`,
  errors: ({ output }, answer) => (answer ? fewShotErrors(output, answer) : FEW_SHOT_UNREADABLE),
};

export const TASKS: Readonly<Record<TaskName, AnyTask>> = {
  sorting: sorting as AnyTask,
  "set-intersection": setIntersection as AnyTask,
  "keyword-counting": keywordCounting as AnyTask,
  "document-merging": documentMerging as AnyTask,
  "few-shot": fewShot as AnyTask,
};
