import { bestOfN, cachedAnswers, llmValue, search } from "@deftree/search";
import { describe, expect, it } from "vitest";
import { MuteModel } from "../test/mute-model.js";
import {
  generateDocumentSet,
  METHODS,
  type MethodName,
  methodFor,
  methodNames,
  TASKS,
  type TaskName,
} from "./index.js";

/**
 * Responses of the paper's programs, counted by running their graphs of operations (spcl/graph-of-thoughts, 2024-12). A
 * graph's own split, which it asks the model for, is one of them; here the problem splits itself.
 */
const responses: [TaskName, number, Partial<Record<MethodName, number>>][] = [
  ["sorting", 32, { io: 1, cot: 1, tot: 40, tot2: 30, got: 31 - 1 }],
  ["sorting", 64, { io: 1, cot: 1, tot: 80, tot2: 70, got: 71 - 1 }],
  ["sorting", 128, { io: 1, cot: 1, tot: 80, tot2: 100, got: 151 - 1 }],
  ["set-intersection", 32, { io: 1, cot: 1, tot: 40, tot2: 30, got: 21 - 1 }],
  ["set-intersection", 64, { io: 1, cot: 1, tot: 80, tot2: 70, got: 51 - 1 }],
  ["set-intersection", 128, { io: 1, cot: 1, tot: 100, tot2: 90, got: 76 - 1 }],
  ["keyword-counting", 16, { io: 1, cot: 1, tot: 80, tot2: 60 }],
  ["document-merging", 4, { io: 1, cot: 1, tot: 30, got: 20, got2: 20 }],
];
const cases = responses.flatMap(([task, size, counts]) =>
  Object.entries(counts).map(([method, count]) => [task, size, method as MethodName, count] as const),
);

describe("the paper's methods", () => {
  it.each(cases)("%s of %i by %s asks for %i answers", async (task, size, name, count) => {
    const model = new MuteModel();
    const { problem, strategy } = methodFor(task, TASKS[task].generate(size, 5), name);
    const { statistics } = await search(problem, strategy, model);
    expect(model.answers).toBe(count);
    expect(statistics.thoughts).toBe(count);
    expect(strategy.name).toBe(name);
  });

  it.each([
    ["got", 4, 50 - 1],
    ["got8", 8, 102 - 1],
    ["gotx", 16, 16 * 10 + 15 * 3],
  ] as const)("keyword-counting by %s in %i parts asks for %i, repairs aside", async (name, parts, count) => {
    const { problem, strategy } = methodFor("keyword-counting", TASKS["keyword-counting"].generate(16, 5), name);
    const { tree } = await search(problem, strategy, new MuteModel());
    const answers = tree.thoughts.slice(1).filter(({ depth, merged }) => depth === 1 || merged !== undefined);
    expect(answers).toHaveLength(count);
    expect(tree.thoughts.filter(({ depth }) => depth === 1)).toHaveLength(parts * 10);
  });

  it("asks document merging's judge three times for each of a tree's 30 answers", async () => {
    const judging = (prompt: string) => prompt.startsWith("Four agreements were merged into one. Give");
    let answer = 0;
    const model = new MuteModel((prompt) =>
      judging(prompt)
        ? "<Redundancy>6</Redundancy><Retained>3</Retained>"
        : `<Merged>merge number ${answer++}</Merged>`,
    );
    const { problem, strategy } = methodFor("document-merging", generateDocumentSet(1), "tot");
    const { score } = await search(problem, strategy, model, { evaluate: llmValue({ samples: 3 }) });
    expect(model.answers).toBe(30 + 90);
    expect(score).toBe(4 - 10);
  });

  it("stalls in paper mode, where a prompt that comes again has the answers it had", async () => {
    const model = new MuteModel();
    const { problem, strategy } = methodFor("sorting", TASKS.sorting.generate(64, 1), "tot");
    await search(problem, strategy, cachedAnswers(model));
    expect(model.answers).toBe(20);
  });

  it("grows parts of one answer, as wide, where asked to", () => {
    const { strategy } = methodFor("sorting", TASKS.sorting.generate(64, 1), "tot", { grow: "continue" });
    expect(strategy.settings).toMatchObject({ grow: "continue", width: 20, keep: 1 });
  });

  it("takes the next larger size's parameters for a size between", () => {
    const { strategy } = methodFor("sorting", TASKS.sorting.generate(48, 1), "tot2");
    expect(strategy.settings).toMatchObject({ width: METHODS.sorting[64]!.tot2!.width, depth: 7 });
    const large = methodFor("sorting", TASKS.sorting.generate(200, 1), "tot2");
    expect(large.strategy.settings).toMatchObject({ depth: 10 });
  });

  it("says which methods a task has", () => {
    expect(methodNames("document-merging")).toEqual(["io", "cot", "tot", "got", "got2"]);
    expect(() => methodFor("document-merging", generateDocumentSet(1), "tot2")).toThrow(
      "has no method tot2; it has io",
    );
  });
});

describe("prompts of methods", () => {
  const promptOf = async (task: TaskName, name: MethodName) => {
    const model = new MuteModel();
    const { problem, strategy } = methodFor(task, TASKS[task].generate(TASKS[task].sizes[0]!, 1), name, { fewShot: 1 });
    await search(problem, strategy, model, { budget: { thoughts: 1 } });
    return model.prompts[0]!;
  };

  it.each(["sorting", "set-intersection", "keyword-counting", "document-merging", "few-shot"] as const)(
    "%s: cot asks for steps, io does not",
    async (task) => {
      const [io, cot] = [await promptOf(task, "io"), await promptOf(task, "cot")];
      expect(cot).not.toBe(io);
      expect(cot).toMatch(/\bFirst\b|\bfirst\b/);
      if (task !== "document-merging") expect(cot).toContain("Output:");
    },
  );

  it("a tree of keyword counting begins with the prompt of cot", async () => {
    expect(await promptOf("keyword-counting", "tot")).toBe(await promptOf("keyword-counting", "cot"));
    expect(await promptOf("sorting", "tot")).toBe(await promptOf("sorting", "io"));
  });
});

it("answers on users' data as on its own", async () => {
  const rows = TASKS.sorting.readData('{"ID": 0, "Unsorted": [3, 1], "Sorted": [1, 3]}\n', "jsonl");
  const problem = TASKS.sorting.problem(rows[0]!.instance);
  const result = await search(problem, bestOfN({ n: 1 }), new MuteModel(() => "[1, 3]"));
  expect(result.solved).toBe(true);
});
