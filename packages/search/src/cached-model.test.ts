import { expect, it } from "vitest";
import { digits, digitsProblem } from "../test/digits.js";
import { ScriptedModel } from "../test/scripted-model.js";
import { bestOfN, breadthFirst, cachedAnswers, search } from "./index.js";

const input = digits(16, 3);

it("stalls a search whose best answer does not change, as the published baseline did", async () => {
  const problem = { ...digitsProblem(input), score: () => -1, isSolved: () => false };
  const strategy = breadthFirst({ grow: "reprompt", width: 4, depth: 5, stopWhenSolved: false });
  const model = new ScriptedModel({ errorRate: 0.4 });
  const { tree, statistics } = await search(problem, strategy, cachedAnswers(model));
  const levels = [1, 2, 3, 4, 5].map((depth) => tree.thoughts.filter((thought) => thought.depth === depth));
  const texts = levels.map((level) => level.map(({ text }) => text));
  // The kept answer is the first of all, so every level from the second asks the same prompt.
  expect(texts[1]).not.toEqual(texts[0]);
  for (const later of texts.slice(2)) expect(later).toEqual(texts[1]);
  expect(new Set(texts[1]).size).toBe(4);
  expect(statistics.generatedTokens).toBe(model.generated);
  expect(model.generated).toBe([...levels[0]!, ...levels[1]!].reduce((sum, { tokens }) => sum + tokens, 0));
  expect(model.prompts).toHaveLength(2);
  expect(model.openBranches).toBe(0);
});

it("answers the second search for nothing, and another prompt afresh", async () => {
  const scripted = new ScriptedModel({ errorRate: 0.2 });
  const model = cachedAnswers(scripted);
  const strategy = bestOfN({ n: 8, width: 4, stopWhenSolved: false });
  const first = await search(digitsProblem(input), strategy, model, { seed: 1 });
  const before = scripted.generated;
  const second = await search(digitsProblem(input), strategy, model, { seed: 2 });
  expect(second.tree).toEqual(first.tree);
  expect(second.statistics.generatedTokens).toBe(0);
  expect(scripted.generated).toBe(before);
  await search(digitsProblem(digits(16, 9)), strategy, model);
  expect(scripted.generated).toBeGreaterThan(before);
  expect(scripted.openBranches).toBe(0);
});
