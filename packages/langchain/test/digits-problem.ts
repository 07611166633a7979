/** A small problem for tests of searches, and an engine that answers it. */
import type { Problem } from "@deftree/search";
import { FakeEngine } from "./fake-engine.js";

export interface DigitsState {
  text: string;
  ended: boolean;
}

export const sorted = (text: string) => [...text].sort().join("");

/** Sorts the digits of a string; in two parts, by sorting what the parts' answers give in a row. */
export function digitsProblem(input: string): Problem<DigitsState, string> {
  const answer = sorted(input);
  const errors = (text: string) => [...text].filter((digit, i) => digit !== answer[i]).length;
  return {
    name: "digits",
    initial: { text: "", ended: false },
    prompt: () => [{ role: "user", content: input }],
    improvePrompt: ({ text }) => [{ role: "user", content: `${input}, not ${text}` }],
    thought: { maxTokens: 3 },
    answerMaxTokens: input.length + 1,
    readPartial: (text, ended) => ({ text, ended }),
    readAnswer: (text) => ({ text, ended: true }),
    score: ({ text, ended }) => 0 - errors(text) - (ended ? Math.abs(input.length - text.length) : 0),
    hopeless: ({ text, ended }) => !ended && errors(text) > 0,
    isComplete: ({ ended }) => ended,
    isSolved: ({ text }) => text === answer,
    answer: ({ text }) => text,
    split: () => ({
      parts: [digitsProblem(input.slice(0, input.length / 2)), digitsProblem(input.slice(input.length / 2))],
      merge: (_begin, _middle, _end, a, b) => ({
        ...digitsProblem(input),
        prompt: () => [{ role: "user", content: a.text + b.text }],
      }),
    }),
  };
}

/** Answers a prompt with its first digits in order. */
export function sortingEngine(pause?: () => Promise<void>): FakeEngine {
  return new FakeEngine({ reply: (prompt) => sorted(prompt.match(/\d+/)![0]), pause });
}
