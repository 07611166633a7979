import { describe, expect, it } from "vitest";
import { type Digits, digits, digitsProblem } from "../../test/digits.js";
import { ScriptedModel } from "../../test/scripted-model.js";
import {
  depthFirst,
  graphOfThoughts,
  monteCarlo,
  pathTo,
  type SearchEvent,
  search,
  selfConsistency,
  type Thought,
} from "../index.js";

const input = digits(16, 5);

describe("selfConsistency", () => {
  it("answers with what most answers say, without asking the scorer", async () => {
    const problem = { ...digitsProblem(input), score: () => Number.NaN };
    const result = await search(problem, selfConsistency({ n: 15 }), new ScriptedModel({ errorRate: 0.04 }));
    const texts = result.tree.thoughts.slice(1).map(({ text }) => text);
    const votes = (text: string) => texts.filter((other) => other === text).length;
    expect(texts).toHaveLength(15);
    expect(votes(result.text!)).toBe(Math.max(...texts.map(votes)));
    expect(result.score).toBe(votes(result.text!));
    expect(result.solved).toBe(true);
  });
});

it("gives answers that cannot be read no vote, however many there are", async () => {
  const readable = digitsProblem(input);
  const broken = readable.readAnswer("");
  const readAnswer = (text: string) => {
    const state = readable.readAnswer(text);
    return readable.isSolved(state) ? state : broken;
  };
  const problem = { ...readable, readAnswer, isReadable: (state: Digits) => state !== broken };
  const result = await search(problem, selfConsistency({ n: 15 }), new ScriptedModel({ errorRate: 0.1 }));
  const unread = result.tree.thoughts.slice(1).filter(({ score }) => score === 0);
  expect(unread.length).toBeGreaterThan(7);
  expect(result).toMatchObject({ solved: true, score: 15 - unread.length });
});

describe("depthFirst", () => {
  it("follows the best first and comes back when it leads nowhere", async () => {
    // Nothing is called hopeless, so a wrong beginning is found out only at its end.
    const digitsOnly = digitsProblem(input);
    const problem = {
      ...digitsOnly,
      hopeless: undefined,
      score: (state: Digits) => (state.complete ? digitsOnly.score(state) : 0),
    };
    let backtracked = 0;
    for (let seed = 0; seed < 20; seed++) {
      const result = await search(problem, depthFirst({ width: 3, depth: 5 }), new ScriptedModel({ errorRate: 0.15 }), {
        seed,
        budget: { thoughts: 400 },
      });
      const { thoughts } = result.tree;
      const exhausted = thoughts.filter(({ pruneReason }) => pruneReason === "exhausted");
      for (const { id } of exhausted) {
        for (const child of thoughts.filter(({ parent }) => parent === id)) expect(child.status).not.toBe("alive");
      }
      if (result.solved && exhausted.length > 0) backtracked++;
      if (result.solved)
        expect(
          pathTo(result.tree, result.best!.id)
            .map(({ text }) => text)
            .join(""),
        ).toBe(result.text);
    }
    expect(backtracked).toBeGreaterThan(3);
  });

  it("does not follow thoughts below the threshold", async () => {
    const problem = { ...digitsProblem(input), hopeless: undefined };
    const strategy = depthFirst({ width: 6, depth: 4, threshold: 0 });
    const { tree } = await search(problem, strategy, new ScriptedModel({ errorRate: 0.3 }));
    const followed = new Set(tree.thoughts.slice(1).map(({ parent }) => parent));
    for (const id of followed) if (id !== 0) expect(tree.thoughts[id]!.score).toBe(0);
  });
});

describe("monteCarlo", () => {
  it("spends more of its expansions below parts whose rollouts score better", async () => {
    const problem = { ...digitsProblem(input), hopeless: undefined, isSolved: () => false };
    const strategy = monteCarlo({ iterations: 30, width: 3, depth: 6, exploration: 0.3 });
    const mean = (values: number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
    const differences: number[] = [];
    for (let seed = 0; seed < 40; seed++) {
      const { tree } = await search(problem, strategy, new ScriptedModel({ errorRate: 0.2 }), { seed });
      const below = (id: number): number =>
        tree.thoughts.filter(({ parent }) => parent === id).reduce((sum, child) => sum + 1 + below(child.id), 0);
      const first = tree.thoughts.filter(
        ({ depth, tokens, pruneReason }) => depth === 1 && tokens === 4 && pruneReason !== "duplicate",
      );
      const sizes = { good: [] as number[], bad: [] as number[] };
      for (const { id, score } of first) sizes[score === 0 ? "good" : "bad"].push(below(id));
      if (sizes.good.length > 0 && sizes.bad.length > 0) differences.push(mean(sizes.good) - mean(sizes.bad));
    }
    expect(differences.length).toBeGreaterThan(10);
    expect(mean(differences)).toBeGreaterThan(0);
  });

  it("refuses a negative exploration", () => {
    expect(() => monteCarlo({ iterations: 1, exploration: -1 })).toThrow(RangeError);
  });
});

describe("graphOfThoughts", () => {
  const strategy = graphOfThoughts({ parts: 4, solve: 4, merge: 3, improve: 2 });

  it("solves parts, joins them two by two, and says which thoughts were joined", async () => {
    const model = new ScriptedModel({ errorRate: 0.1 });
    const events: SearchEvent<unknown, string>[] = [];
    const running = search(digitsProblem(input), strategy, model, { seed: 3 });
    for await (const event of running) events.push(event);
    const { tree } = await running;
    const parts = tree.thoughts.filter(({ depth }) => depth === 1);
    expect(parts).toHaveLength(16);
    const joined = tree.thoughts.filter(({ merged }) => merged !== undefined);
    expect(joined).toHaveLength(3 * 3);
    for (const { parent, merged, depth } of joined) {
      for (const source of [parent, ...merged!]) expect(tree.thoughts[source]!.depth).toBeLessThan(depth);
    }
    expect(events.filter(({ type }) => type === "solution")).toHaveLength(1);
  });

  it("improves the best joined answer, which stays on ties", async () => {
    const { tree } = await search(digitsProblem(input), strategy, new ScriptedModel({ errorRate: 0.3 }), { seed: 4 });
    const { thoughts } = tree;
    const improved = thoughts.filter(({ parent, merged, depth }) => depth > 2 && !merged && parent !== 0);
    expect(improved.length).toBeGreaterThan(0);
    // What answers the same question: an old answer that stays may be improved, and joined with another, at one depth.
    const question = ({ parent, depth, merged, parts }: Thought<Digits>) => `${parent} ${depth} ${merged} ${parts}`;
    for (const { parent } of improved) {
      const rivals = thoughts.filter((other) => question(other) === question(thoughts[parent]!));
      expect(thoughts[parent]!.score).toBe(Math.max(...rivals.map(({ score }) => score!)));
    }
  });

  it("needs a problem that splits", async () => {
    const problem = { ...digitsProblem(input), split: undefined };
    await expect(search(problem, strategy, new ScriptedModel({ errorRate: 0 })).result).rejects.toThrow(TypeError);
  });
});
