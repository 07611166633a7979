import { describe, expect, it } from "vitest";
import { digits, digitsProblem } from "../test/digits.js";
import { ScriptedModel } from "../test/scripted-model.js";
import { breadthFirst, graphOfThoughts, type NestedThought, nestTree, preferencePairs, search } from "./index.js";

const input = digits(16, 5);
const problem = digitsProblem(input);

describe("nestTree", () => {
  it("holds every thought once, below its parent, as JSON", async () => {
    const strategy = graphOfThoughts({ parts: 4, solve: 3, merge: 3, improve: 2 });
    const { tree } = await search(problem, strategy, new ScriptedModel({ errorRate: 0.2 }));
    const seen: number[] = [];
    const visit = (thought: NestedThought) => {
      seen.push(thought.id);
      for (const child of thought.children) {
        expect(child.parent).toBe(thought.id);
        visit(child);
      }
    };
    const root = nestTree(tree);
    visit(root);
    expect(seen.sort((a, b) => a - b)).toEqual(tree.thoughts.map(({ id }) => id));
    expect(JSON.parse(JSON.stringify(root))).toEqual(root);
  });

  it("refuses a tree without a root", () => {
    expect(() => nestTree({ thoughts: [] })).toThrow(RangeError);
  });
});

describe("preferencePairs", () => {
  it("prefers the better of two next parts after the same beginning", async () => {
    const strategy = breadthFirst({ grow: "continue", width: 6, keep: 2, depth: 5 });
    const { tree } = await search(problem, strategy, new ScriptedModel({ errorRate: 0.2 }));
    const pairs = preferencePairs(problem, tree, { grow: "continue" });
    expect(pairs.length).toBeGreaterThan(3);
    for (const { prompt, chosen, rejected, chosenScore, rejectedScore } of pairs) {
      expect(chosenScore).toBeGreaterThan(rejectedScore);
      const begun = prompt.length === 2 ? prompt[1]!.content : "";
      expect(prompt[0]!.content).toBe(input);
      const right = [...input].sort().join("");
      expect(right.startsWith(begun + chosen)).toBe(true);
      expect(right.startsWith(begun + rejected)).toBe(false);
    }
  });

  it("asks with the improve prompt where the search did, and keeps a margin", async () => {
    const strategy = breadthFirst({ grow: "reprompt", width: 6, depth: 3, stopWhenSolved: false });
    const { tree } = await search(problem, strategy, new ScriptedModel({ errorRate: 0.2 }), { seed: 3 });
    const pairs = preferencePairs(problem, tree, { grow: "reprompt", margin: 2 });
    expect(pairs.some(({ prompt }) => prompt[0]!.content.includes(" not "))).toBe(true);
    for (const { chosenScore, rejectedScore } of pairs) expect(chosenScore - rejectedScore).toBeGreaterThanOrEqual(2);
  });

  it("leaves out the parts of a problem and what joins them", async () => {
    const strategy = graphOfThoughts({ parts: 4, solve: 3, merge: 3, improve: 0 });
    const { tree } = await search(problem, strategy, new ScriptedModel({ errorRate: 0.3 }));
    expect(preferencePairs(problem, tree, { grow: "reprompt" })).toEqual([]);
  });
});
