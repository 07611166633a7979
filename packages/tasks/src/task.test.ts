import { existsSync, readFileSync } from "node:fs";
import { parse } from "csv-parse/sync";
import { describe, expect, it } from "vitest";
import {
  type AnyTask,
  answerErrors,
  createRng,
  formatCounts,
  formatList,
  generateSetPair,
  generateSorting,
  intersectionInSteps,
  intersectionOf,
  setIntersectionProblem,
  sortedCopy,
  sortingInSteps,
  sortingProblem,
  TASKS,
  type TaskName,
} from "./index.js";

const tasks = Object.values(TASKS);

/** A right answer's text for an instance, in the words of its task. */
function rightAnswer(name: TaskName, instance: never): string {
  const answers: Record<TaskName, (instance: never) => string> = {
    sorting: (input: readonly number[]) => formatList(sortedCopy(input)),
    "set-intersection": (pair: Parameters<typeof intersectionOf>[0]) => formatList(intersectionOf(pair)),
    "keyword-counting": ({ counts }: { counts: Record<string, number> }) => formatCounts(counts),
    "document-merging": ({ facts }: { facts: string[] }) => `<Merged>${facts.join(". ")}</Merged>`,
    "few-shot": ({ output }: { output: string }) => output,
  };
  return answers[name](instance);
}

describe.each(tasks.map((task) => [task.name, task] as const))("%s", (name, task: AnyTask) => {
  it("generates each of its sizes, the same for the same seed, and says so", () => {
    for (const size of task.sizes) {
      const instance = task.generate(size, 9);
      expect(task.generate(size, 9)).toEqual(instance);
      expect(task.generate(size, 10)).not.toEqual(instance);
      expect(task.sizeOf(instance)).toBe(size);
      expect(task.describe(instance)).not.toContain("undefined");
    }
  });

  it("solves and measures a right answer, and nothing less", () => {
    for (let seed = 0; seed < 20; seed++) {
      const instance = task.generate(task.sizes[0]!, seed);
      const problem = task.problem(instance);
      const state = problem.readAnswer(rightAnswer(name, instance as never));
      expect(problem.isSolved(state)).toBe(true);
      expect(problem.score(state)).toBe(0);
      expect(task.errors(instance, problem.answer(state))).toBe(0);
      expect(task.errors(instance, undefined)).toBe(-problem.failureScore!);
      expect(answerErrors(task, instance, problem, state)).toBe(0);
      expect(answerErrors(task, instance, problem, undefined)).toBe(-problem.failureScore!);
      const nonsense = problem.readAnswer("");
      expect(answerErrors(task, instance, problem, nonsense)).toBe(-problem.failureScore!);
      expect(problem.isSolved(nonsense)).toBe(false);
      expect(problem.score(nonsense)).toBe(problem.failureScore);
      expect([state, nonsense].map((said) => problem.isReadable!(said))).toEqual([true, false]);
    }
  });

  it("gives its failure score where a scorer throws", () => {
    const instance = task.generate(task.sizes[0]!, 2);
    const throws = () => {
      throw new Error("no score");
    };
    const problem = task.problem(instance);
    const state = problem.readAnswer(rightAnswer(name, instance as never));
    expect(answerErrors(task, instance, { ...problem, score: throws }, state)).toBe(-problem.failureScore!);
    expect(answerErrors({ ...task, errors: (_, a) => (a ? throws() : 7) }, instance, problem, state)).toBe(7);
  });

  it.each(["direct", "chain-of-thought"] as const)("calls no beginning of a right answer hopeless (%s)", (style) => {
    const instance = task.generate(task.sizes[0]!, 3);
    const problem = task.problem(instance, { style });
    const text = `${style === "direct" ? "" : "Part 1: [9, 0] {x}\n"}Output: ${rightAnswer(name, instance as never)}`;
    for (let end = 0; end <= text.length; end++) {
      expect(problem.hopeless!(problem.readPartial(text.slice(0, end), false)), text.slice(0, end)).toBe(false);
    }
    expect(problem.isSolved(problem.readPartial(text, true))).toBe(true);
  });

  it("never throws on what a model may say", () => {
    const rng = createRng(8);
    const pieces = [
      "[",
      "]",
      "1",
      ", ",
      "Output:",
      "\n",
      "{",
      "}",
      '"Peru": 2',
      "<Merged>",
      "</Merged>",
      " ",
      "-",
      "é",
    ];
    const instance = task.generate(task.sizes[0]!, 1);
    for (const style of ["direct", "chain-of-thought"] as const) {
      const problem = task.problem(instance, { style });
      for (let i = 0; i < 300; i++) {
        const text = Array.from({ length: rng.int(0, 8) }, () => rng.pick(pieces)).join("");
        for (const state of [
          problem.readAnswer(text),
          problem.readPartial(text, false),
          problem.readPartial(text, true),
        ]) {
          expect(Number.isFinite(problem.score(state))).toBe(true);
          problem.hopeless!(state);
          problem.improvePrompt!(state);
          problem.value!.prompt(state);
          problem.vote!.prompt([state, state]);
          task.errors(instance, problem.answer(state));
        }
        problem.value!.read(text);
        problem.vote!.read(text, 3);
        problem.proposals?.read(text, problem.initial);
      }
    }
  });

  it("reads the rows that can be read, and tells of the others", () => {
    expect(() => task.readData('"', "csv")).toThrow(RangeError);
    const rows = task.readData('{"foo": 1}\nnonsense\n[1]\n', "jsonl");
    expect(rows.map(({ row }) => row)).toEqual([1, 2, 3]);
    for (const { error, row } of rows) expect(error).toMatch(new RegExp(`Row ${row} is n`));
    expect(rows[0]!.error).toContain(task.columns[0]!);
  });
});

describe("users' data", () => {
  it("comes as CSV or as JSON Lines, a bad row among good ones", () => {
    const csv = 'ID,SET1,SET2,INTERSECTION\n0,"[1, 2]","[2, 3]",[2]\n1,"[1, 1]","[2, 3]",[2]\n2,"[5]","[5]",[5]\n';
    const jsonl = [
      '{"ID": 0, "SET1": [1, 2], "SET2": [2, 3], "INTERSECTION": [2]}',
      '{"ID": 1, "SET1": [1, 1], "SET2": [2, 3], "INTERSECTION": [2]}',
      '{"ID": 2, "SET1": "[5]", "SET2": "[5]", "INTERSECTION": "[5]"}',
    ].join("\n");
    const task = TASKS["set-intersection"];
    const rows = task.readData(csv, "csv");
    expect(task.readData(jsonl, "jsonl").map(({ instance }) => instance)).toEqual(rows.map(({ instance }) => instance));
    expect(rows[0]!.instance).toMatchObject({ first: [1, 2], second: [2, 3] });
    expect(rows[1]!.error).toContain("Row 2 is not ID, SET1, SET2, INTERSECTION");
    expect(rows[2]!.error).toBeUndefined();
  });

  it("holds few-shot examples", () => {
    const row = { examples: [{ input: "a b", output: "b a" }], input: "c d", output: "d c" };
    const [read] = TASKS["few-shot"].readData(JSON.stringify(row), "jsonl");
    expect(read!.instance).toEqual(row);
    const csv = `examples,input,output\n"${JSON.stringify(row.examples).replaceAll('"', '""')}",c d,d c\n`;
    expect(TASKS["few-shot"].readData(csv, "csv")[0]!.instance).toEqual(row);
  });

  const folder = new URL("../../../../shared/datasets/graph-of-thoughts/", import.meta.url);
  it.skipIf(!existsSync(folder)).each([
    ["sorting", 32, "sorting_032.csv"],
    ["sorting", 64, "sorting_064.csv"],
    ["sorting", 128, "sorting_128.csv"],
    ["set-intersection", 32, "set_intersection_032.csv"],
    ["set-intersection", 64, "set_intersection_064.csv"],
    ["set-intersection", 128, "set_intersection_128.csv"],
    ["keyword-counting", undefined, "countries.csv"],
    ["document-merging", 4, "documents.csv"],
  ] as const)("%s %s: %s of Graph of Thoughts, each row (skipped where the files are absent)", (name, size, file) => {
    const task = TASKS[name];
    const text = readFileSync(new URL(file, folder), "utf8");
    const rows = task.readData(text, "csv");
    expect(rows).toHaveLength(100);
    expect(rows.filter(({ error }) => error !== undefined)).toEqual([]);
    const records: Record<string, string>[] = parse(text, { columns: true });
    const lines = records.map((record) => JSON.stringify(record)).join("\n");
    expect(task.readData(lines, "jsonl")).toEqual(rows);
    for (const [index, { instance }] of rows.entries()) {
      const problem = task.problem(instance);
      if (size !== undefined) expect(task.sizeOf(instance)).toBe(size);
      // The files' own right answers, in the words of the task; documents have none.
      const record = records[index]!;
      const right = record.Sorted ?? record.INTERSECTION ?? rightAnswer(name, instance as never);
      const state = problem.readAnswer(right);
      if (name === "document-merging") expect(problem.score(state)).toBeGreaterThan(-10);
      else expect(answerErrors(task, instance, problem, state), `row ${index + 1}`).toBe(0);
    }
  });

  it.skipIf(!existsSync(folder))("counts of the countries file are those of its column (skipped where absent)", () => {
    const text = readFileSync(new URL("countries.csv", folder), "utf8");
    const records: Record<string, string>[] = parse(text, { columns: true });
    for (const [index, { instance }] of TASKS["keyword-counting"].readData(text, "csv").entries()) {
      const names = records[index]!.Countries!.slice(1, -1).split(", ");
      const { counts } = instance as { counts: Record<string, number> };
      expect(Object.values(counts).reduce((sum, count) => sum + count, 0)).toBe(names.length);
      for (const name of names) expect(counts[name], name).toBe(names.filter((other) => other === name).length);
    }
  });
});

describe("steps of a chain of thought", () => {
  it("sort in parts, and the parser takes the whole list", () => {
    const input = generateSorting(40, 3);
    const problem = sortingProblem(input, { style: "chain-of-thought", fewShot: 1 });
    expect(problem.isSolved(problem.readAnswer(sortingInSteps(input)))).toBe(true);
    expect(problem.prompt()[0]!.content).toContain(sortingInSteps(generateSorting(16, 1000)));
  });
  it("intersect in parts, and the parser takes the joined list", () => {
    const pair = generateSetPair(32, 3);
    const problem = setIntersectionProblem(pair, { style: "chain-of-thought" });
    expect(problem.isSolved(problem.readAnswer(intersectionInSteps(pair)))).toBe(true);
  });
});

describe("lists of next parts", () => {
  it("go on where the answer stands", () => {
    const { proposals, readPartial, initial } = sortingProblem([2, 1, 2, 3]);
    expect(proposals!.read("1. 1, 2\n2) [1]\nnothing\n1 2 2 3 END", initial)).toEqual([
      "[1, 2,",
      "[1,",
      "[1, 2, 2, 3]",
    ]);
    expect(proposals!.read("2, 3 END", readPartial("[1, 2,", false))).toEqual([" 2, 3]"]);
    expect(readPartial("[1, 2, 2, 3]", false)).toEqual({ numbers: [1, 2, 2, 3], complete: true });
    expect(proposals!.prompt(readPartial("[1, 2,", false), 4)[0]!.content).toMatch(/Written so far: \[1, 2\][\s\S]*4/);
  });
});
