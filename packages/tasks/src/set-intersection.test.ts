import { existsSync, readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import {
  createRng,
  formatList,
  generateSetPair,
  intersectionOf,
  readSetIntersectionCsv,
  SET_INTERSECTION_UNREADABLE,
  setIntersectionErrors,
  setIntersectionProblem,
} from "./index.js";

/** Symmetric difference of two multisets, written in another way: merge of the sorted lists. */
function naiveErrors(wanted: readonly number[], output: readonly number[]): number {
  const a = [...wanted].sort((x, y) => x - y);
  const b = [...output].sort((x, y) => x - y);
  let errors = 0;
  for (let i = 0, j = 0; i < a.length || j < b.length; ) {
    if (a[i] === b[j]) {
      i++;
      j++;
    } else {
      errors++;
      if (j >= b.length || (i < a.length && a[i]! < b[j]!)) i++;
      else j++;
    }
  }
  return errors;
}

describe("generateSetPair", () => {
  it.each([32, 64, 128])("draws sets of %i as the paper's generator does", (size) => {
    const sharedCounts = new Set<number>();
    for (let seed = 0; seed < 400; seed++) {
      const { first, second } = generateSetPair(size, seed);
      for (const set of [first, second]) {
        expect(new Set(set).size).toBe(size);
        expect(set.every((value) => Number.isInteger(value) && value >= 0 && value < 2 * size)).toBe(true);
      }
      sharedCounts.add(intersectionOf({ first, second }).length);
    }
    expect(Math.min(...sharedCounts)).toBeGreaterThanOrEqual(size / 4);
    expect(Math.max(...sharedCounts)).toBeLessThanOrEqual((3 * size) / 4);
    expect(sharedCounts.size).toBeGreaterThan(size / 4);
    expect(generateSetPair(size, 5)).toEqual(generateSetPair(size, 5));
  });
});

describe("setIntersectionErrors", () => {
  it("is the symmetric difference, repetitions counted", () => {
    for (let seed = 1; seed < 300; seed++) {
      const rng = createRng(seed);
      const wanted = rng.shuffle(Array.from({ length: 30 }, (_, i) => i)).slice(0, rng.int(1, 20));
      const output = Array.from({ length: rng.int(1, 25) }, () => rng.int(0, 40));
      expect(setIntersectionErrors(wanted, output)).toBe(naiveErrors(wanted, output));
    }
  });

  it("scores what cannot be read, and an empty list, with 1000", () => {
    expect(setIntersectionErrors([1], undefined)).toBe(SET_INTERSECTION_UNREADABLE);
    expect(setIntersectionErrors([1], [])).toBe(SET_INTERSECTION_UNREADABLE);
  });
});

describe("setIntersectionProblem", () => {
  const pair = generateSetPair(32, 1);
  const problem = setIntersectionProblem(pair);
  const right = intersectionOf(pair);

  it("is solved by the intersection in any order and by nothing else", () => {
    const solved = (numbers: readonly number[]) => problem.isSolved(problem.readAnswer(formatList(numbers)));
    expect(solved(right)).toBe(true);
    expect(solved([...right].reverse())).toBe(true);
    expect(solved(right.slice(1))).toBe(false);
    expect(solved([...right, right[0]!])).toBe(false);
    expect(problem.isSolved(problem.readAnswer("I do not know"))).toBe(false);
  });

  it("calls no beginning of the right answer hopeless, wherever it is cut", () => {
    const text = formatList(right);
    for (let end = 0; end <= text.length; end++) {
      expect(problem.hopeless!(problem.readPartial(text.slice(0, end), false)), text.slice(0, end)).toBe(false);
    }
  });

  it("calls a number that is not in both sets, or stands twice, hopeless at its first wrong digit", () => {
    const { hopeless, readPartial } = setIntersectionProblem({ first: [12, 3, 125, 40], second: [12, 125, 40] });
    const isHopeless = (text: string) => hopeless!(readPartial(text, false));
    expect(["[", "[1", "[12", "[125", "[12, 1", "[12, 125, 4", "[12, "].filter(isHopeless)).toEqual([]);
    const wrong = ["[3", "[12, 3", "[12, 12,", "[13", "[126", "[12, 125, 40, ", "[12, four", "[four"];
    expect(wrong.filter((text) => !isHopeless(text))).toEqual([]);
  });

  it("calls no beginning of an empty intersection hopeless", () => {
    const { hopeless, readPartial } = setIntersectionProblem({ first: [1], second: [2] });
    expect(["", "[", "[]"].map((text) => hopeless!(readPartial(text, false)))).toEqual([false, false, false]);
    expect(hopeless!(readPartial("[1", false))).toBe(true);
  });

  it("refuses what is no set", () => {
    for (const bad of [[], [1, 1], [0.5], [-1]]) {
      expect(() => setIntersectionProblem({ first: bad, second: [1] })).toThrow(RangeError);
    }
  });
});

describe("readSetIntersectionCsv", () => {
  const folder = new URL("../../../../shared/datasets/graph-of-thoughts/", import.meta.url);
  const sizes = ["032", "064", "128"];
  it.skipIf(!existsSync(folder))("reads Graph of Thoughts' own files", () => {
    for (const size of sizes) {
      const rows = readSetIntersectionCsv(readFileSync(new URL(`set_intersection_${size}.csv`, folder), "utf8"));
      expect(rows).toHaveLength(100);
      expect(rows.every(({ first, second }) => first.length === Number(size) && second.length === Number(size))).toBe(
        true,
      );
    }
  });

  it("names the row whose intersection is wrong", () => {
    const text = 'ID,SET1,SET2,INTERSECTION\n0,"[1, 2]","[2, 3]","[2]"\n1,"[1, 2]","[2, 3]","[1]"\n';
    expect(() => readSetIntersectionCsv(text)).toThrow(/Row 2/);
  });
});
