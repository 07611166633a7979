/** Lists of whole numbers in a model's answer, as the tasks of Graph of Thoughts read them. Shared by those tasks. */
import type { ProposalQuestion } from "@deftree/search";

/** What an answer says so far. */
export interface NumberListState {
  /** The numbers written so far; undefined where the list cannot be read. */
  readonly numbers: readonly number[] | undefined;
  /** False while the list may still grow. */
  readonly complete: boolean;
  /** Digits of the number that is being written, where numbers have several. */
  readonly growing?: string;
}

/**
 * The list in a complete answer: of the lines with brackets, the last that says "Output", else the first; in it the
 * first bracketed list of whole numbers.
 */
export function readNumberList(text: string): NumberListState {
  const lines = text.split("\n").filter((line) => line.includes("[") && line.includes("]"));
  const line =
    lines[
      Math.max(
        0,
        lines.findLastIndex((candidate) => candidate.includes("Output")),
      )
    ] ?? "";
  const open = line.indexOf("[");
  const close = line.indexOf("]", open);
  const items = open < 0 || close < 0 ? [""] : line.slice(open + 1, close).split(",");
  return { numbers: items.every(isInteger) ? items.map(Number) : undefined, complete: true };
}

/**
 * The list in an answer that is still being written; a closing bracket completes it. `lastMayGrow`: numbers have several
 * digits, so the one at the end is left apart until something follows it. `afterOutput`: lists before "Output" are steps
 * towards the answer.
 */
export function readPartialNumberList(
  text: string,
  ended: boolean,
  lastMayGrow = false,
  afterOutput = false,
): NumberListState {
  const output = text.lastIndexOf("Output");
  if (afterOutput && output < 0 && !ended) return { numbers: [], complete: false };
  const open = text.indexOf("[", Math.max(0, output));
  if (ended || (open >= 0 && text.includes("]", open))) return readNumberList(text);
  const items = open < 0 ? [] : text.slice(open + 1).split(",");
  const last = items.at(-1)?.trim() ?? "";
  const growing = lastMayGrow ? last : "";
  if (lastMayGrow || last === "") items.pop();
  const isReadable = items.every(isInteger) && /^\d*$/.test(growing);
  return {
    numbers: isReadable ? items.map(Number) : undefined,
    complete: false,
    ...(isReadable && growing !== "" && { growing }),
  };
}

/**
 * Asks for several ways to go on with a list of numbers, one a line; each line's numbers become a part.
 */
export function listProposals(task: string): ProposalQuestion<NumberListState> {
  return {
    prompt({ numbers = [] }, count) {
      const begun = numbers.length === 0 ? "Nothing is written yet." : `Written so far: ${formatList(numbers)}`;
      const content = [
        `${task}\n\n${begun}\n`,
        `Give ${count} different lists of the numbers that come next, a few in each, one list a line. `,
        "Write END behind a list that finishes the answer.",
      ].join("");
      return [{ role: "user", content }];
    },
    read(text, { numbers = [] }) {
      return text.split("\n").flatMap((line) => {
        const next = line.replace(/^\s*\d+[.):]\s/, "").match(/\d+/g);
        if (next === null) return [];
        return [`${numbers.length === 0 ? "[" : " "}${next.join(", ")}${/\bEND\b/.test(line) ? "]" : ","}`];
      });
    },
  };
}

export function formatList(numbers: readonly number[]): string {
  return `[${numbers.join(", ")}]`;
}

export function sortedCopy(numbers: readonly number[]): number[] {
  return [...numbers].sort((a, b) => a - b);
}

/** `items` in `parts` consecutive pieces whose lengths differ by at most one. Throws RangeError when there are too few. */
export function splitEvenly<T>(items: readonly T[], parts: number): T[][] {
  if (!Number.isSafeInteger(parts) || parts < 1 || parts > items.length) {
    throw new RangeError(`${items.length} items cannot be split into ${parts} parts`);
  }
  const at = (part: number) => Math.floor((part * items.length) / parts);
  return Array.from({ length: parts }, (_, part) => items.slice(at(part), at(part + 1)));
}

/** As Python's int() reads it, less its underscores. */
function isInteger(item: string): boolean {
  return /^\s*[+-]?\d+\s*$/.test(item);
}
