/** What mini is trained on: every answer is right, judged from its prompt's words alone. */
import { createRng, fewShotInSteps, passageOf, sortedCopy } from "@deftree/tasks";
import { describe, expect, it } from "vitest";
import { drawSize, type Example, type Mix, weighted } from "../recipe/example.js";
import { RECIPES } from "../recipe/recipes.js";

const mix: Mix = { sorting: [50, 35, 15], sets: [50, 35, 15] };

/** The numbers of each line that begins with `label`. */
function lists(text: string, label: string): number[][] {
  const lines = text.split("\n").filter((line) => line.startsWith(label));
  return lines.map((line) => (line.slice(line.indexOf("[")).match(/\d+/g) ?? []).map(Number));
}

const lastLine = (text: string) =>
  text
    .split("\n")
    .at(-1)!
    .replace(/^Output: /, "");
const numbersOf = (list: string) => (list.match(/\d+/g) ?? []).map(Number);

function isRight({ prompt, answer }: Example): boolean {
  const { content } = prompt[0]!;
  const output = lastLine(answer);
  const numbers = numbersOf(output);
  if (/^(Sort the list|The list of \d+ digits was sorted)/.test(content)) {
    return String(numbers) === String(sortedCopy(lists(content, "Input:")[0]!));
  }
  if (content.startsWith("Merge the two sorted lists")) {
    return String(numbers) === String(sortedCopy(lists(content, "List ").flat()));
  }
  if (/^(Find the numbers that stand in both|The list should hold the numbers that stand in both)/.test(content)) {
    const [first, second] = lists(content, "Set ") as [number[], number[]];
    return String(numbers) === String(second.filter((value) => first.includes(value)));
  }
  if (content.startsWith("Join the two lists")) return String(numbers) === String(lists(content, "List ").flat());
  if (/^(Count how often|The object should say)/.test(content)) {
    const [, text] = /^Text: (.*)$/m.exec(content)!;
    return output === JSON.stringify(passageOf(text!).counts).replaceAll(":", ": ").replaceAll(",", ", ");
  }
  if (content.startsWith("Add the two JSON objects")) {
    const sum: Record<string, number> = {};
    for (const [, json] of content.matchAll(/^Counts \d: (.*)$/gm)) {
      for (const [name, count] of Object.entries(JSON.parse(json!) as Record<string, number>)) {
        sum[name] = (sum[name] ?? 0) + count;
      }
    }
    return String(Object.entries(JSON.parse(output))) === String(Object.entries(sum));
  }
  const pairs = [...content.matchAll(/^Input: (.*)\nOutput: (.*)$/gm)];
  const examples = pairs.map(([, shown, made]) => ({ input: shown!, output: made! }));
  const [, input] = /^Input: (.*)$/m.exec(content.split("\n\n").at(-1)!)!;
  return examples.length > 0 && fewShotInSteps({ examples, input: input!, output }) !== undefined;
}

describe.each(RECIPES.map((recipe, task) => [task, recipe] as const))("recipe %i", (task, recipe) => {
  it("draws right answers, of several kinds, and the same from the same seed", () => {
    const rng = createRng(task);
    const examples = Array.from({ length: 200 }, () => recipe.draw(rng, mix));
    for (const example of examples) expect(isRight(example), JSON.stringify(example)).toBe(true);
    const kinds = new Set(examples.map(({ prompt }) => prompt[0]!.content.slice(0, 80)));
    expect(kinds.size).toBeGreaterThanOrEqual(2);
    const again = createRng(task);
    expect(examples.slice(0, 10)).toEqual(Array.from({ length: 10 }, () => recipe.draw(again, mix)));
  });

  it("has problems to measure on, with right answers", () => {
    for (const [name, examples] of Object.entries(recipe.problems(4))) {
      expect(examples.length, name).toBeGreaterThan(0);
      for (const example of examples) expect(isRight(example), `${name}: ${JSON.stringify(example)}`).toBe(true);
    }
  });
});

it("draws the sizes that a mix names, and nothing else", () => {
  const rng = createRng(1);
  const sizes = (shares: [number, number, number]) => Array.from({ length: 500 }, () => drawSize(rng, shares));
  expect(Math.max(...sizes([1, 0, 0]))).toBe(32);
  expect(Math.min(...sizes([0, 0, 1]))).toBeGreaterThan(64);
  const long = sizes([70, 0, 30]).filter((size) => size > 64).length;
  expect(long).toBeGreaterThan(100);
  expect(long).toBeLessThan(200);
});

it("chooses by weight", () => {
  const rng = createRng(2);
  const drawn = Array.from({ length: 1000 }, () =>
    weighted(rng, [
      [3, "often"],
      [0, "never"],
      [1, "rarely"],
    ]),
  );
  expect(drawn).not.toContain("never");
  expect(drawn.filter((value) => value === "often").length / 1000).toBeCloseTo(0.75, 1);
});
