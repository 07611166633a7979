import { describe, expect, it } from "vitest";
import { FEW_SHOT_UNREADABLE, fewShotErrors, fewShotInSteps, fewShotProblem, generateFewShot } from "./index.js";

describe("generateFewShot", () => {
  it("makes every output of its input by one rule", () => {
    const shapes = new Set<string>();
    for (let seed = 0; seed < 200; seed++) {
      const { examples, input, output } = generateFewShot(8, seed);
      expect(examples).toHaveLength(8);
      const pairs = [...examples, { input, output }];
      const isReversed = pairs.every((pair) => [...pair.input].reverse().join("") === pair.output);
      const isSorted = pairs.every((pair) => pair.input.split(" ").sort().join(" ") === pair.output);
      const isDoubled = pairs.every((pair) => pair.output.length === 2 * pair.input.length + 1);
      shapes.add(String([isReversed, isSorted, isDoubled]));
      for (const pair of pairs) expect(pair.output).toMatch(/^\d( \d)*$/);
    }
    expect(shapes.size).toBeGreaterThanOrEqual(4);
  });
});

describe("fewShotInSteps", () => {
  it("says the rule of every generated item, then its output", () => {
    const rules = new Set<string>();
    for (let seed = 0; seed < 200; seed++) {
      const item = generateFewShot(8, seed);
      const steps = fewShotInSteps(item)!;
      const problem = fewShotProblem(item, { style: "chain-of-thought" });
      expect(problem.isSolved(problem.readAnswer(steps)), steps).toBe(true);
      rules.add(steps.split("\n")[0]!);
    }
    expect(rules.size).toBe(6 + 2 * 4);
  });

  it("has no words for another rule", () => {
    expect(fewShotInSteps({ examples: [{ input: "1 2", output: "7" }], input: "3 4", output: "7" })).toBeUndefined();
  });
});

describe("fewShotErrors", () => {
  it("counts words to insert, remove or replace", () => {
    expect(fewShotErrors("1 2 3", "1 2 3")).toBe(0);
    expect(fewShotErrors("1 2 3", "1, 2, 3")).toBe(0);
    expect(fewShotErrors("1 2 3", "1 3")).toBe(1);
    expect(fewShotErrors("1 2 3", "2 3 4")).toBe(2);
    expect(fewShotErrors("1 2 3", "")).toBe(3);
    expect(fewShotErrors("1 2", undefined)).toBe(FEW_SHOT_UNREADABLE);
  });
});

describe("fewShotProblem", () => {
  const item = { examples: [{ input: "ab cd", output: "cd ab" }], input: "ef gh", output: "gh ef" };
  const problem = fewShotProblem(item);

  it("takes the line after the last Output:, or the first one", () => {
    for (const text of ["gh ef", "Output: gh ef\nmore", "Output: no\nOutput: gh ef", "\n gh ef \nInput: x"]) {
      expect(problem.isSolved(problem.readAnswer(text)), text).toBe(true);
    }
    expect(problem.score(problem.readAnswer(" \n"))).toBe(-FEW_SHOT_UNREADABLE);
  });

  it("cuts a beginning that differs", () => {
    const hopeless = (text: string) => problem.hopeless!(problem.readPartial(text, false));
    expect(["g", "gh", "gh e"].map(hopeless)).toEqual([false, false, false]);
    expect(["x", "gh x", "g "].map(hopeless)).toEqual([true, true, true]);
  });

  it("refuses an item without examples or output", () => {
    expect(() => fewShotProblem({ ...item, examples: [] })).toThrow(RangeError);
    expect(() => fewShotProblem({ ...item, output: " " })).toThrow(RangeError);
  });
});
