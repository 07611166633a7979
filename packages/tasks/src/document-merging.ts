/**
 * Merging four overlapping agreements into one that keeps everything and repeats nothing: the task of Graph of Thoughts
 * (Besta et al., AAAI 2024, section 4.4). Generator, prompts, parser and scorers stand here together; the two marks from
 * 0 to 10 and their harmonic mean are the paper's, where a model gives the marks. Here documents are assembled from
 * known clauses, so a program can give exact ones; the model as judge is the second scorer. The words are ours.
 */
import type { Problem, PromptMessage } from "@deftree/search";
import { parse as parseCsv } from "csv-parse/sync";
import { CLAUSES } from "./clauses.js";
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
  const { tokensPerThought = 96, tokensPerCharacter = 0.3 } = options;
  const characters = set.documents.reduce((sum, document) => sum + document.length, 0);

  return {
    name: `document-merging-${set.documents.length}`,
    initial: { merged: "", complete: false },
    prompt: () => taskPrompt(set),
    improvePrompt: ({ merged }) => (merged ? improvePrompt(set, merged) : taskPrompt(set)),
    thought: { maxTokens: tokensPerThought },
    answerMaxTokens: Math.ceil(characters * tokensPerCharacter) + 16,
    readPartial: readPartialMerge,
    readAnswer: (text) => ({ merged: readMerge(text), complete: true }),
    score: (state) => score(set.facts, state),
    // A merge that says things twice early on can only lose.
    hopeless: ({ merged, complete }) => !complete && merged !== undefined && repeated(set.facts, merged) > 2,
    isComplete: (state) => state.complete,
    isSolved: (state) => state.complete && score(set.facts, state) === 0,
    answer: ({ merged }) => merged ?? "",
  };
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
  const records: Record<string, string>[] = parseCsv(text, { columns: true, bom: true, skip_empty_lines: true });
  return records.map((record, index) => {
    const id = Number(record.id ?? record.ID ?? "");
    const documents: string[] = [];
    for (let i = 1; record[`document${i}`]; i++) documents.push(record[`document${i}`]!);
    if (!Number.isInteger(id) || documents.length < 2) {
      throw new RangeError(
        `Row ${index + 1} is not id, document1, document2...: ${JSON.stringify(record).slice(0, 200)}`,
      );
    }
    const sentences = documents.flatMap((document) => document.split(/(?<=[.!?])\s+|\n+/));
    const facts = new Set(sentences.map((part) => part.trim().toLowerCase()).filter((part) => /\p{L}{3}/u.test(part)));
    return { id, documents, facts: [...facts] };
  });
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

function taskPrompt({ documents }: DocumentSet): PromptMessage[] {
  const content = [
    `Merge the ${documents.length} agreements into one. Keep everything they say and say nothing twice. `,
    "Write the merged agreement between the tags <Merged> and </Merged>.\n\n",
    formatDocuments(documents),
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
