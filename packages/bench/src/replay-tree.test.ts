import { expect, it } from "vitest";
import { levelTree, numSteps, type ReplayTree, replaySchedule, starTree, withPrompt } from "./replay-tree.js";

/** A prompt of 10; two thoughts of 3 and 2; the first has two children of 1 and 2 tokens. */
const tree: ReplayTree = {
  name: "small",
  nodes: [
    { tokens: 10, start: -9, end: 0, children: [1, 2] },
    { tokens: 3, start: 1, end: 3, children: [3, 4] },
    { tokens: 2, start: 1, end: 2, children: [] },
    { tokens: 1, start: 4, end: 4, children: [] },
    { tokens: 2, start: 4, end: 5, children: [] },
  ],
};

it("counts live branches and the tokens they see, step by step", () => {
  expect(numSteps(tree)).toBe(5);
  expect(replaySchedule(tree, { first: 1, last: 5 })).toEqual({
    liveBranches: [2, 2, 1, 2, 1],
    uniqueTokens: [10, 12, 12, 13, 14],
    pathTokens: [20, 22, 12, 26, 14],
  });
});

it("gives every node as many tokens as were recorded", () => {
  const { liveBranches } = replaySchedule(tree, { first: 1, last: 5 });
  const generated = tree.nodes.slice(1).reduce((sum, { tokens }) => sum + tokens, 0);
  expect(liveBranches.reduce((sum, live) => sum + live)).toBe(generated);
});

it("leaves a prompt's children where they are when the prompt changes", () => {
  const longer = withPrompt(tree, 50);
  expect(replaySchedule(longer, { first: 4, last: 4 })).toEqual({
    liveBranches: [2],
    uniqueTokens: [53],
    pathTokens: [106],
  });
});

it("makes the shapes that need no data", () => {
  const star = replaySchedule(starTree(100, 5, 8), { first: 1, last: 8 });
  expect(star.liveBranches).toEqual(new Array(8).fill(5));
  expect(star.uniqueTokens.at(-1)).toBe(100 + 5 * 7);
  const levels = levelTree(100, 4, 3, 6);
  expect(numSteps(levels)).toBe(18);
  expect(replaySchedule(levels, { first: 13, last: 13 })).toEqual({
    liveBranches: [4],
    uniqueTokens: [112],
    pathTokens: [448],
  });
});
