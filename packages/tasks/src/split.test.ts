import { describe, expect, it } from "vitest";
import {
  formatCounts,
  formatList,
  generatePassage,
  generateSetPair,
  generateSorting,
  intersectionOf,
  keywordCountingProblem,
  passageOf,
  setIntersectionProblem,
  sortedCopy,
  sortingProblem,
  splitSentences,
} from "./index.js";
import { splitEvenly } from "./number-list.js";

describe("splitEvenly", () => {
  it("keeps order and balance", () => {
    for (let n = 1; n < 20; n++) {
      const items = Array.from({ length: n }, (_, i) => i);
      for (let parts = 1; parts <= n; parts++) {
        const pieces = splitEvenly(items, parts);
        expect(pieces.flat()).toEqual(items);
        const lengths = pieces.map(({ length }) => length);
        expect(Math.max(...lengths) - Math.min(...lengths)).toBeLessThanOrEqual(1);
      }
    }
    expect(() => splitEvenly([1], 2)).toThrow(RangeError);
  });
});

describe("a split problem", () => {
  it("sorts parts and merges them", () => {
    const input = generateSorting(32, 5);
    const problem = sortingProblem(input);
    const { parts, merge } = problem.split!(4);
    const lists = splitEvenly(input, 4);
    const states = parts.map((part, i) => {
      const state = part.readAnswer(formatList(sortedCopy(lists[i]!)));
      expect(part.isSolved(state)).toBe(true);
      expect(problem.isSolved(state)).toBe(false);
      return state;
    });
    const half = merge(0, 1, 2, states[0]!, states[1]!);
    const [message] = half.prompt();
    for (const state of states.slice(0, 2)) expect(message!.content).toContain(formatList(state.numbers!));
    expect(half.isSolved(half.readAnswer(formatList(sortedCopy(lists.slice(0, 2).flat()))))).toBe(true);
    const whole = merge(0, 2, 4, states[0]!, states[1]!);
    expect(whole.isSolved(whole.readAnswer(formatList(sortedCopy(input))))).toBe(true);
  });

  it("intersects with parts of the second set, of which one may have nothing in common", () => {
    const pair = { first: [1, 2, 3, 4], second: [3, 4, 5, 6] };
    const { parts, merge } = setIntersectionProblem(pair).split!(2);
    const common = parts[0]!.readAnswer("[3, 4]");
    const none = parts[1]!.readAnswer("[]");
    expect(parts[0]!.isSolved(common)).toBe(true);
    expect(parts[1]!.isSolved(none)).toBe(true);
    expect(parts[0]!.isSolved(none)).toBe(false);
    const whole = merge(0, 1, 2, common, none);
    expect(whole.prompt()[0]!.content).toContain("List 1: [3, 4]\nList 2: []");
    expect(whole.isSolved(common)).toBe(true);

    const large = generateSetPair(32, 2);
    const joined = setIntersectionProblem(large).split!(8).merge(0, 4, 8, common, none);
    expect(joined.isSolved(joined.readAnswer(formatList(intersectionOf(large))))).toBe(true);
  });

  it("counts in parts of the passage and adds up; the whole keeps its label", () => {
    const text = generatePassage(4).text;
    const passage = { text, counts: { ...passageOf(text).counts, Norway: 99 } };
    const { parts, merge } = keywordCountingProblem(passage).split!(4);
    const texts = splitEvenly(splitSentences(text), 4).map((sentences) => passageOf(sentences.join(" ")));
    const states = parts.map((part, i) => {
      const state = part.readAnswer(`Output: ${formatCounts(texts[i]!.counts)}`);
      expect(part.isSolved(state)).toBe(true);
      return state;
    });
    const whole = merge(0, 2, 4, states[0]!, states[1]!);
    expect(whole.isSolved(whole.readAnswer(formatCounts(passage.counts)))).toBe(true);
    expect(merge(0, 1, 2, states[0]!, states[1]!).isSolved(whole.readAnswer(formatCounts(passage.counts)))).toBe(false);
  });
});
