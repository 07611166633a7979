import { existsSync, readFileSync } from "node:fs";
import { Tokenizer } from "@huggingface/tokenizers";
import { describe, expect, it } from "vitest";
import {
  createRng,
  formatList,
  generateSorting,
  prefixErrors,
  readNumberList,
  readPartialNumberList,
  readSortingCsv,
  SORTING_UNREADABLE,
  sortedCopy,
  sortingErrors,
  sortingProblem,
} from "./index.js";

/** The paper's score, written in another way: remove matched pairs digit by digit, then count the steps down. */
function naiveErrors(input: readonly number[], output: readonly number[]): number {
  let unmatched = 0;
  for (const digit of "0123456789") {
    const wanted = input.join("").split(digit).length;
    const got = output.join("").split(digit).length;
    unmatched += Math.max(wanted, got) - Math.min(wanted, got);
  }
  return unmatched + output.filter((value, i) => i > 0 && output[i - 1]! > value).length;
}

/** An answer with a few mistakes. */
function spoil(sorted: readonly number[], seed: number): number[] {
  const rng = createRng(seed);
  const numbers = [...sorted];
  for (let edits = rng.int(0, 4); edits > 0; edits--) {
    const at = rng.int(0, numbers.length - 1);
    if (rng.int(0, 1) === 0) numbers.splice(at, 1);
    else numbers.splice(at, 0, rng.int(0, 9));
  }
  return numbers;
}

describe("generateSorting", () => {
  it("gives the same digits for the same seed and others for its neighbour", () => {
    expect(generateSorting(128, 7)).toEqual(generateSorting(128, 7));
    expect(generateSorting(128, 7)).not.toEqual(generateSorting(128, 8));
    expect(generateSorting(0, 7)).toEqual([]);
  });

  it("draws each digit equally often, within a list and over neighbouring seeds", () => {
    for (const digits of [
      generateSorting(20_000, 3),
      Array.from({ length: 20_000 }, (_, s) => generateSorting(1, s)[0]!),
    ]) {
      const chiSquared = Array.from({ length: 10 }, (_, digit) => {
        const count = digits.filter((value) => value === digit).length;
        return (count - 2000) ** 2 / 2000;
      }).reduce((sum, term) => sum + term);
      expect(chiSquared).toBeLessThan(33.7); // 9 degrees of freedom, p = 0.0001
    }
  });
});

describe("sortingErrors", () => {
  const input = [3, 1, 2, 1];

  it.each([
    ["the sorted list", [1, 1, 2, 3], 0],
    ["one missing", [1, 2, 3], 1],
    ["one too many", [1, 1, 1, 2, 3], 1],
    ["one digit for another", [1, 1, 2, 4], 2],
    ["unsorted", [3, 1, 2, 1], 2],
    ["one step down", [1, 2, 1, 3], 1],
    ["nothing", [], 4],
    ["a value outside of 0-9", [1, 1, 2, 3, 12], 1],
    ["unreadable", undefined, SORTING_UNREADABLE],
  ] as const)("%s", (_, output, errors) => {
    expect(sortingErrors(input, output)).toBe(errors);
  });

  it("agrees with a naive computation", () => {
    for (let seed = 0; seed < 200; seed++) {
      const list = generateSorting(1 + (seed % 40), seed);
      for (const output of [spoil(sortedCopy(list), seed), spoil(list, seed), generateSorting(20, seed + 1000)]) {
        expect(sortingErrors(list, output)).toBe(naiveErrors(list, output));
      }
    }
  });
});

describe("prefixErrors", () => {
  it("is 0 for each beginning of the right answer", () => {
    const list = generateSorting(64, 5);
    const sorted = sortedCopy(list);
    for (let length = 1; length <= sorted.length; length++) {
      expect(prefixErrors(list, sorted.slice(0, length))).toBe(0);
    }
  });

  it("is above 0 exactly when no completion is right", () => {
    for (let seed = 0; seed < 300; seed++) {
      const list = generateSorting(12, seed);
      const sorted = sortedCopy(list);
      const prefix = spoil(sorted, seed).slice(0, 1 + (seed % 12));
      const canBeRight = formatList(sorted.slice(0, prefix.length)) === formatList(prefix);
      expect(prefixErrors(list, prefix) === 0).toBe(canBeRight);
    }
  });

  it("equals the whole answer's errors once all that is missing is behind the last number", () => {
    const list = [0, 0, 1, 5, 9];
    for (const whole of [
      [0, 0, 1, 5, 9],
      [0, 1, 5, 9],
      [0, 0, 0, 1, 5, 9],
      [1, 0, 0, 5, 9],
      [0, 0, 1, 4, 5, 9],
    ]) {
      expect(prefixErrors(list, whole)).toBe(sortingErrors(list, whole));
    }
  });

  it("counts each kind of mistake", () => {
    const list = [0, 0, 1, 2, 2];
    expect(prefixErrors(list, [0, 0, 0])).toBe(1); // one 0 too many
    expect(prefixErrors(list, [0, 1])).toBe(1); // a 0 left behind
    expect(prefixErrors(list, [0, 2])).toBe(2); // a 0 and the 1 left behind
    expect(prefixErrors(list, [1, 0])).toBe(1); // a step down
    expect(prefixErrors(list, [7])).toBe(6); // all five left behind, and a 7 that is not there
    expect(prefixErrors(list, [])).toBe(1);
    expect(prefixErrors(list, undefined)).toBe(SORTING_UNREADABLE);
  });
});

describe("readNumberList", () => {
  it.each([
    ["[1, 2, 3]", [1, 2, 3]],
    ["  [1,2 ,  3]  and then words", [1, 2, 3]],
    ["Input: [9, 8]\nOutput: [8, 9]", [8, 9]],
    ["Reason: [1] is missing\nOutput: [1, 2]\nOutput: [1, 2, 3] [4]", [1, 2, 3]],
    ["[1, 2]\n[3]", [1, 2]],
    ["[-1, +2, 007]", [-1, 2, 7]],
  ])("reads %j", (text, numbers) => {
    expect(readNumberList(text)).toEqual({ numbers, complete: true });
  });

  it.each([
    "",
    "1, 2, 3",
    "[1, 2",
    "1, 2]",
    "][",
    "] [1",
    "[]",
    "[ ]",
    "[1, , 2]",
    "[1, two]",
    "[1.5]",
    "[1e3]",
    "[[1, 2]]",
  ])("finds no list in %j", (text) => {
    expect(readNumberList(text)).toEqual({ numbers: undefined, complete: true });
  });

  it("takes any text without an error, long ones too", () => {
    const rng = createRng(11);
    const alphabet = ["[", "]", ",", " ", "\n", "1", "-", "Output", "é", "\0", "🙂", "\\"];
    for (let round = 0; round < 500; round++) {
      const text = Array.from({ length: rng.int(0, 60) }, () => rng.pick(alphabet)).join("");
      expect(() => readNumberList(text)).not.toThrow();
      expect(() => readPartialNumberList(text, false)).not.toThrow();
    }
    for (const text of ["[".repeat(200_000), "Output[".repeat(50_000), `[${" ".repeat(200_000)}x]`]) {
      expect(readNumberList(text).numbers).toBeUndefined();
      expect(() => readPartialNumberList(text, false)).not.toThrow();
    }
  });
});

describe("sortingProblem", () => {
  const input = [3, 1, 2, 1];
  const problem = sortingProblem(input);

  it("refuses what is not a list of digits", () => {
    for (const bad of [[], [10], [-1], [1.5], [Number.NaN]]) expect(() => sortingProblem(bad)).toThrow(RangeError);
  });

  it("scores minus the errors and knows a solution", () => {
    const right = problem.readAnswer("[1, 1, 2, 3]");
    expect(Object.is(problem.score(right), 0)).toBe(true);
    expect(problem.isSolved(right)).toBe(true);
    expect(problem.answer(right)).toEqual([1, 1, 2, 3]);

    const wrong = problem.readAnswer("[1, 2, 3]");
    expect(problem.score(wrong)).toBe(-1);
    expect(problem.isSolved(wrong)).toBe(false);

    const unreadable = problem.readAnswer("sorry");
    expect(problem.score(unreadable)).toBe(-SORTING_UNREADABLE);
    expect(problem.isSolved(unreadable)).toBe(false);
    expect(problem.answer(unreadable)).toEqual([]);
  });

  it("reads an answer as it grows", () => {
    const states = ["", "[", "[1", "[1, ", "[1, 1,", "[1, 1, 2, 3", "[1, 1, 2, 3]"].map((text) =>
      problem.readPartial(text, false),
    );
    expect(states.map(({ numbers }) => numbers?.length)).toEqual([0, 0, 1, 1, 2, 4, 4]);
    expect(states.map((state) => problem.isComplete(state))).toEqual([false, false, false, false, false, false, true]);
    expect(states.map((state) => problem.isSolved(state))).toEqual([false, false, false, false, false, false, true]);
    expect(states.some((state) => problem.hopeless!(state))).toBe(false);
    expect(states.map((state) => problem.score(state))).toEqual([-1, -1, 0, 0, 0, 0, 0]);
  });

  it("calls an unfinished answer with a mistake hopeless, a finished one only wrong", () => {
    for (const text of ["[1, 2", "[2", "[1, 1, 1", "[1, x", "[1, 1, 2, 3, 3"]) {
      expect(problem.hopeless!(problem.readPartial(text, false))).toBe(true);
    }
    for (const state of [problem.readPartial("[1, 2]", false), problem.readPartial("[1, 2", true), problem.initial]) {
      expect(problem.hopeless!(state)).toBe(false);
    }
    expect(problem.hopeless!(problem.readPartial("Here is the sorted list:", false))).toBe(false);
  });

  it("prefers a right beginning to empty talk", () => {
    expect(problem.score(problem.readPartial("[1, 1", false))).toBeGreaterThan(
      problem.score(problem.readPartial("Here it is", false)),
    );
  });

  it("asks to improve a list, and anew where none was read", () => {
    const [message] = problem.improvePrompt!({ numbers: [1, 2, 3], complete: true });
    expect(message!.content).toContain("Input: [3, 1, 2, 1]");
    expect(message!.content).toContain("Incorrectly sorted: [1, 2, 3]");
    expect(problem.improvePrompt!({ numbers: undefined, complete: true })).toEqual(problem.prompt());
  });

  it("puts worked examples first, the same for every problem and each of them right", () => {
    const prompts = [generateSorting(32, 1), generateSorting(32, 2)].map(
      (list) => sortingProblem(list, { fewShot: 3 }).prompt()[0]!.content,
    );
    const shared = prompts.map((prompt) => prompt.slice(0, prompt.lastIndexOf("Input:")));
    expect(shared[0]).toBe(shared[1]);
    const examples = [...shared[0]!.matchAll(/Input: (.*)\nOutput: (.*)/g)];
    expect(examples.map(([, list]) => readNumberList(list!).numbers!.length)).toEqual([16, 32, 64]);
    for (const [, list, answer] of examples) {
      expect(answer).toBe(formatList(sortedCopy(readNumberList(list!).numbers!)));
    }
  });

  it("explains each mistake of the improve prompt's examples truly", () => {
    const state = { numbers: [1], complete: true };
    const { content } = sortingProblem([1, 2], { fewShot: 3 }).improvePrompt!(state)[0]!;
    const pattern =
      /Input: (.*)\nIncorrectly sorted: (.*)\nReason: one (\d) is missing, and there is one (\d) too many\.\nOutput: (.*)/g;
    const examples = [...content.matchAll(pattern)];
    expect(examples).toHaveLength(3);
    for (const [, list, wrong, missing, extra, output] of examples) {
      const [from, to] = [wrong!, output!].map((text) => [...readNumberList(text).numbers!]);
      expect(to).toEqual(sortedCopy(readNumberList(list!).numbers!));
      from!.splice(from!.indexOf(Number(extra)), 1);
      expect(sortedCopy([...from!, Number(missing)])).toEqual(to);
    }
  });
});

describe("tokens in mini's tokenizer", () => {
  const read = (name: string) =>
    JSON.parse(readFileSync(new URL(`../../model-mini/model/${name}`, import.meta.url), "utf8"));
  const tokenizer = new Tokenizer(read("tokenizer.json"), read("tokenizer_config.json"));
  const count = (text: string) => tokenizer.encode(text, { add_special_tokens: false }).ids.length;

  it.each([32, 64, 128])("a list of %i numbers and its prompts", (length) => {
    const list = generateSorting(length, 1);
    const problem = sortingProblem(list);
    const answer = formatList(sortedCopy(list));
    const listTokens = 2 * length + 1; // brackets, digits and the separators between them
    expect(count(answer)).toBe(listTokens);
    // The words around the lists take few tokens: the tokenizer was trained on them.
    const words = (content: string, lists: number) => count(content) - lists * listTokens;
    const improve = problem.improvePrompt!({ numbers: list, complete: true })[0]!.content;
    for (const taken of [words(problem.prompt()[0]!.content, 1), words(improve, 2)]) {
      expect(taken).toBeGreaterThan(0);
      expect(taken).toBeLessThan(64);
    }

    expect(problem.answerMaxTokens).toBeGreaterThanOrEqual(count(`${answer}<|im_end|>`));
    expect(problem.thought.maxTokens * Math.ceil(length / 8)).toBeGreaterThanOrEqual(count(`${answer}<|im_end|>`));
    expect(problem.thought.maxTokens).toBe(17);
  });
});

describe("readSortingCsv", () => {
  it("reads rows, whatever the line ends and the order of columns", () => {
    const text = '\uFEFFSorted,ID,Unsorted\r\n"[1, 2, 2]",4,"[2, 1, 2]"\r\n\r\n"[0]",5,[0]\r\n';
    expect(readSortingCsv(text)).toEqual([
      { id: 4, unsorted: [2, 1, 2], sorted: [1, 2, 2] },
      { id: 5, unsorted: [0], sorted: [0] },
    ]);
    expect(readSortingCsv("ID,Unsorted,Sorted\n")).toEqual([]);
  });

  it.each([
    ["a list that is not sorted", 'ID,Unsorted,Sorted\n0,"[2, 1]","[2, 1]"\n'],
    ["another list", 'ID,Unsorted,Sorted\n0,"[2, 1]","[1, 3]"\n'],
    ["a number above 9", 'ID,Unsorted,Sorted\n0,"[12, 1]","[1, 12]"\n'],
    ["a missing column", 'ID,Unsorted\n0,"[2, 1]"\n'],
    ["an id that is not a number", 'ID,Unsorted,Sorted\nx,"[2, 1]","[1, 2]"\n'],
  ])("names the row with %s", (_, text) => {
    expect(() => readSortingCsv(text)).toThrow(/^Row 1 /);
  });

  const folder = new URL("../../../../shared/datasets/graph-of-thoughts/", import.meta.url);
  it.skipIf(!existsSync(folder))(
    "reads the files of Graph of Thoughts (skipped where ../shared/datasets is absent)",
    () => {
      for (const length of [32, 64, 128]) {
        const file = new URL(`sorting_${String(length).padStart(3, "0")}.csv`, folder);
        const rows = readSortingCsv(readFileSync(file, "utf8"));
        expect(rows).toHaveLength(100);
        for (const { unsorted, sorted } of rows) {
          expect(unsorted).toHaveLength(length);
          expect(sortingErrors(unsorted, sorted)).toBe(0);
        }
      }
    },
  );
});
