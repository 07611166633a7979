/**
 * Merging four overlapping agreements into one that keeps everything and repeats nothing: the task of Graph of Thoughts
 * (Besta et al., AAAI 2024, section 4.4). Generator, prompts, parser and scorers stand here together; the two marks from
 * 0 to 10 and their harmonic mean are the paper's, where a model gives the marks. Here documents are assembled from
 * known clauses, so a program can give exact ones; the model as judge is the second scorer. The words are ours.
 */
import type { Problem, PromptMessage } from "@deftree/search";
import { CLAUSES } from "./clauses.js";
import { splitEvenly } from "./number-list.js";
import { voteQuestion } from "./questions.js";
import { badRow, type DataRecord, readCsv } from "./records.js";
import { createRng } from "./rng.js";

export interface DocumentSet {
  readonly documents: readonly string[];
  /** Phrases in lower case of which each stands for one thing that the documents say: what a merge has to keep once. */
  readonly facts: readonly string[];
}

export interface DocumentMergingState {
  /** The merged text so far; undefined where no answer can be read. */
  readonly merged: string | undefined;
  /** False while the text may still grow. */
  readonly complete: boolean;
}

/** Marks from 0 (worst) to 10. */
export interface MergeMarks {
  /** 10: nothing is said twice. */
  readonly redundancy: number;
  /** 10: everything is kept. */
  readonly retained: number;
}

export interface DocumentSetOptions {
  /** Documents; 4 by default, as in the paper. */
  documents?: number;
  /** Clauses of one document; 10 by default. */
  clausesPerDocument?: number;
  /** Different clauses in all documents together; 18 by default, at most 24. */
  clauses?: number;
}

export interface DocumentMergingOptions {
  /** Asks for the merge alone (default), or to say first which clauses the documents have in common. */
  style?: "direct" | "chain-of-thought";
  /** `continue` mode: tokens of one thought; 96 by default, a few clauses. */
  tokensPerThought?: number;
  /** Tokens of a character of text in the model's tokenizer; 0.3 by default. */
  tokensPerCharacter?: number;
}

/** Documents of clauses in random order and wording, the same for the same seed; every clause stands in at least one. */
export function generateDocumentSet(seed: number, options: DocumentSetOptions = {}): DocumentSet {
  const { documents = 4, clausesPerDocument = 10, clauses = 18 } = options;
  if (clauses > CLAUSES.length || clausesPerDocument > clauses || documents * clausesPerDocument < clauses) {
    throw new RangeError(
      `${documents} documents of ${clausesPerDocument} clauses cannot hold ${clauses} different ones of ${CLAUSES.length}`,
    );
  }
  const rng = createRng(seed);
  const pool = rng.shuffle(CLAUSES).slice(0, clauses);
  // The clauses go round the documents once, so that none is left out; then each document is filled up.
  const members = Array.from({ length: documents }, (_, d) => pool.filter((_, i) => i % documents === d));
  for (const member of members) {
    const others = rng.shuffle(pool.filter((clause) => !member.includes(clause)));
    member.push(...others.slice(0, clausesPerDocument - member.length));
  }
  return {
    documents: members.map((member) =>
      rng
        .shuffle(member)
        .map((clause, i) => `${i + 1}. ${rng.pick(clause.wordings)}`)
        .join("\n"),
    ),
    facts: pool.map((clause) => clause.key),
  };
}

/** The problem of merging `set`. Scores are harmonic means of the marks, minus 10: 0 is perfect. */
export function documentMergingProblem(
  set: DocumentSet,
  options: DocumentMergingOptions = {},
): Problem<DocumentMergingState, string> {
  if (set.documents.length < 2) throw new RangeError("Merging needs at least two documents");
  if (set.facts.length === 0) throw new RangeError("Merging needs facts to keep");
  const { style = "direct", tokensPerThought = 96, tokensPerCharacter = 0.3 } = options;
  const inSteps = style === "chain-of-thought";
  const characters = set.documents.reduce((sum, document) => sum + document.length, 0);

  return {
    name: `document-merging-${set.documents.length}`,
    initial: { merged: "", complete: false },
    prompt: () => taskPrompt(set, inSteps),
    improvePrompt: ({ merged }) => (merged ? improvePrompt(set, merged) : taskPrompt(set, inSteps)),
    joinPrompt: (states) =>
      joinPrompt(
        set,
        states.map(({ merged }) => merged ?? ""),
      ),
    thought: { maxTokens: tokensPerThought },
    answerMaxTokens: Math.ceil(characters * tokensPerCharacter * (inSteps ? 1.5 : 1)) + 16,
    readPartial: readPartialMerge,
    readAnswer: (text) => ({ merged: readMerge(text), complete: true }),
    score: (state) => score(set.facts, state),
    // A merge that says things twice early on can only lose.
    hopeless: ({ merged, complete }) => !complete && merged !== undefined && repeated(set.facts, merged) > 2,
    isComplete: (state) => state.complete,
    isReadable: ({ merged }) => merged !== undefined,
    isSolved: (state) => state.complete && score(set.facts, state) === 0,
    answer: ({ merged }) => merged ?? "",
    failureScore: -10,
    value: {
      prompt: ({ merged }) => (merged ? judgePrompt(set, merged) : undefined),
      read: (text) => {
        const marks = readJudgement(text);
        return marks && [marks.redundancy, marks.retained];
      },
      score: ([redundancy, retained]) => mergeScore({ redundancy: redundancy!, retained: retained! }) - 10,
      failureScore: -10,
    },
    vote: voteQuestion({
      task: `Merge the agreements into one that keeps everything and says nothing twice.\n${formatDocuments(set.documents)}`,
      show: ({ merged }) => merged,
    }),
    split: (parts) => {
      const groups = splitEvenly(set.documents, parts);
      const sub = (begin: number, end: number) =>
        documentMergingProblem(subset(set, groups.slice(begin, end).flat()), options);
      return {
        parts: groups.map((_, part) => sub(part, part + 1)),
        merge: (begin, _middle, end, a, b) => ({
          ...sub(begin, end),
          prompt: () => taskPrompt({ documents: [a.merged ?? "", b.merged ?? ""] }, false),
        }),
      };
    },
  };
}

/** Some of a set's documents, and of its facts those that they say. */
function subset({ facts }: DocumentSet, documents: readonly string[]): DocumentSet {
  const text = documents.join("\n").toLowerCase();
  return { documents, facts: facts.filter((fact) => text.includes(fact)) };
}

/** Exact marks: the share of facts kept, and the share of the facts' mentions that are first mentions. */
export function markMerge(facts: readonly string[], merged: string): MergeMarks {
  const mentions = facts.map((fact) => occurrences(merged.toLowerCase(), fact));
  const kept = mentions.filter((count) => count > 0).length;
  const all = mentions.reduce((sum, count) => sum + count, 0);
  return { retained: (10 * kept) / facts.length, redundancy: all === 0 ? 0 : (10 * kept) / all };
}

/** Harmonic mean of the two marks, the paper's score; 0 when both are 0. */
export function mergeScore({ redundancy, retained }: MergeMarks): number {
  return redundancy + retained === 0 ? 0 : (2 * redundancy * retained) / (redundancy + retained);
}

/** A model as judge: asks for both marks in tags (the paper's LLM scorer; it asks three times and takes means). */
export function judgePrompt({ documents }: DocumentSet, merged: string): PromptMessage[] {
  const content = [
    "Four agreements were merged into one. Give two marks from 0 to 10.\n",
    "Redundancy: 10 when the merged text says nothing twice, 0 when at least half of it is said twice.\n",
    "Retained: 10 when the merged text keeps everything the agreements say, 0 when it keeps nothing.\n",
    "You may explain your marks, then write each between tags: <Redundancy>, <Retained>.\n\n",
    formatDocuments(documents),
    `\n<Merged>\n${merged}\n</Merged>`,
  ].join("");
  return [{ role: "user", content }];
}

/** The last number in each tag; undefined when one is missing or outside of 0 to 10. */
export function readJudgement(text: string): MergeMarks | undefined {
  const mark = (tag: string) => {
    const bodies = [...text.matchAll(new RegExp(`<${tag}>(.*?)</${tag}>`, "gs"))].map((match) => match[1]!);
    const value = Number(
      bodies
        .at(-1)
        ?.match(/\d+(\.\d+)?/g)
        ?.at(-1) ?? Number.NaN,
    );
    return value >= 0 && value <= 10 ? value : undefined;
  };
  const redundancy = mark("Redundancy");
  const retained = mark("Retained");
  return redundancy === undefined || retained === undefined ? undefined : { redundancy, retained };
}

export interface DocumentMergingRow extends DocumentSet {
  id: number;
}

/**
 * Document sets of a CSV file with the columns id and document1, document2..., as Graph of Thoughts publishes them. Their
 * clauses are not labelled, so a set's facts are the sentences that only one of its documents holds or that all word alike,
 * and the program's marks count literal repetition only: use the judge for their meaning. Throws RangeError, naming the row.
 */
export function readDocumentMergingCsv(text: string): DocumentMergingRow[] {
  return readCsv(text, readDocumentMergingRow);
}

export function readDocumentMergingRow(record: DataRecord, row: number): DocumentMergingRow {
  const id = Number(record.id ?? record.ID ?? "");
  const documents: string[] = [];
  for (let i = 1; record[`document${i}`]; i++) documents.push(record[`document${i}`]!);
  if (!Number.isInteger(id) || documents.length < 2) throw badRow(row, "id, document1, document2...", record);
  const sentences = documents.flatMap((document) => document.split(/(?<=[.!?])\s+|\n+/));
  const facts = new Set(sentences.map((part) => part.trim().toLowerCase()).filter((part) => /\p{L}{3}/u.test(part)));
  return { id, documents, facts: [...facts] };
}

/** The text between the last <Merged> and its end tag; undefined when there is none. */
function readMerge(text: string): string | undefined {
  return /^.*<Merged>(.*?)(<\/Merged>|$)/s.exec(text)?.[1]?.trim() || undefined;
}

function readPartialMerge(text: string, ended: boolean): DocumentMergingState {
  if (ended || text.includes("</Merged>")) return { merged: readMerge(text), complete: true };
  return { merged: readMerge(text) ?? "", complete: false };
}

function score(facts: readonly string[], { merged, complete }: DocumentMergingState): number {
  if (merged === undefined) return -10;
  // What a part of an answer will keep in the end is not known yet: its repetitions are.
  return complete ? mergeScore(markMerge(facts, merged)) - 10 : 0 - repeated(facts, merged);
}

function repeated(facts: readonly string[], merged: string): number {
  const text = merged.toLowerCase();
  return facts.reduce((sum, fact) => sum + Math.max(0, occurrences(text, fact) - 1), 0);
}

function occurrences(text: string, phrase: string): number {
  return text.split(phrase).length - 1;
}

function formatDocuments(documents: readonly string[]): string {
  return documents.map((document, i) => `<Doc${i + 1}>\n${document}\n</Doc${i + 1}>\n`).join("");
}

function taskPrompt({ documents }: Pick<DocumentSet, "documents">, inSteps: boolean): PromptMessage[] {
  const how = inSteps
    ? "First write down which clauses say the same and which stand in one agreement only. Then write the merged agreement "
    : "Write the merged agreement ";
  const content = [
    `Merge the ${documents.length} agreements into one. Keep everything they say and say nothing twice. `,
    `${how}between the tags <Merged> and </Merged>.\n\n`,
    formatDocuments(documents),
  ].join("");
  return [{ role: "user", content }];
}

function joinPrompt({ documents }: DocumentSet, merges: readonly string[]): PromptMessage[] {
  const content = [
    `The ${documents.length} agreements were merged into one ${merges.length} times. `,
    "Combine the best of these merges: keep everything the agreements say and say nothing twice. ",
    "Write the result between the tags <Merged> and </Merged>.\n\n",
    formatDocuments(documents),
    ...merges.map((merged, i) => `<Merge${i + 1}>\n${merged}\n</Merge${i + 1}>\n`),
  ].join("");
  return [{ role: "user", content }];
}

function improvePrompt({ documents }: DocumentSet, merged: string): PromptMessage[] {
  const content = [
    `The ${documents.length} agreements were merged into one, with mistakes. `,
    "Add what is missing and remove what is said twice. ",
    "Write the improved agreement between the tags <Merged> and </Merged>.\n\n",
    formatDocuments(documents),
    `Merged so far:\n${merged}`,
  ].join("");
  return [{ role: "user", content }];
}
