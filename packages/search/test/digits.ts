/** A small sorting problem for the scripted model. */
import type { Problem } from "../src/problem.js";

export interface Digits {
  text: string;
  complete: boolean;
}

export function digitsProblem(input: string, partLen = 4): Problem<Digits, string> {
  const sorted = [...input].sort().join("");
  const errors = (text: string) => [...text].filter((digit, i) => digit !== sorted[i]).length;
  return {
    name: `digits-${input.length}`,
    initial: { text: "", complete: false },
    prompt: () => [{ role: "user", content: input }],
    improvePrompt: ({ text }) => [{ role: "user", content: `${input} not ${text}` }],
    thought: { maxTokens: partLen },
    answerMaxTokens: input.length + 1,
    readPartial: (text, ended) => ({ text, complete: ended || text.length === input.length }),
    readAnswer: (text) => ({ text, complete: true }),
    score: ({ text, complete }) => 0 - errors(text) - (complete ? Math.abs(input.length - text.length) : 0),
    hopeless: ({ text, complete }) => !complete && errors(text) > 0,
    isComplete: ({ complete }) => complete,
    isSolved: ({ text }) => text === sorted,
    answer: ({ text }) => text,
    split: (parts) => {
      const lists = Array.from({ length: parts }, (_, i) => {
        const at = (part: number) => Math.floor((part * input.length) / parts);
        return input.slice(at(i), at(i + 1));
      });
      return {
        parts: lists.map((list) => digitsProblem(list)),
        merge: (begin, _, end, a, b) => ({
          ...digitsProblem(lists.slice(begin, end).join("")),
          prompt: () => [{ role: "user", content: `${a.text}${b.text}` }],
        }),
      };
    },
  };
}

/** A fixed list of `length` digits for each `seed`. */
export function digits(length: number, seed: number): string {
  let state = seed + 1;
  return Array.from({ length }, () => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    return String((state >>> 16) % 10);
  }).join("");
}

/** `problem`, and all that it splits into, with other members. */
export function altered(
  problem: Problem<Digits, string>,
  members: Partial<Problem<Digits, string>>,
): Problem<Digits, string> {
  return {
    ...problem,
    ...members,
    split: (parts) => {
      const split = problem.split!(parts);
      return {
        parts: split.parts.map((part) => altered(part, members)),
        merge: (...range) => altered(split.merge(...range), members),
      };
    },
  };
}
