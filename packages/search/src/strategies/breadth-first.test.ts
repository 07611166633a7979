import { describe, expect, it } from "vitest";
import { type Digits, digits, digitsProblem } from "../../test/digits.js";
import { ScriptedModel } from "../../test/scripted-model.js";
import { breadthFirst, type SearchEvent, search, type Thought } from "../index.js";

const input = digits(16, 5);

function levels(thoughts: Thought<Digits>[]): Thought<Digits>[][] {
  const levels: Thought<Digits>[][] = [];
  for (const thought of thoughts.slice(1)) {
    levels[thought.depth - 1] ??= [];
    levels[thought.depth - 1]!.push(thought);
  }
  return levels;
}

describe("breadthFirst, continue", () => {
  it("keeps the best-scored thoughts of each level and grows only on them", async () => {
    const strategy = breadthFirst({ grow: "continue", width: 8, keep: 3, depth: 4, cutHopeless: false });
    const problem = { ...digitsProblem(input), hopeless: undefined };
    const events: SearchEvent<Digits, string>[] = [];
    const running = search(problem, strategy, new ScriptedModel({ errorRate: 0.2 }), { seed: 2 });
    for await (const event of running) events.push(event);
    const { thoughts } = (await running).tree;
    for (const event of events) {
      if (event.type !== "level:selected") continue;
      const score = (id: number) => thoughts[id]!.score!;
      const states = event.kept.map((id) => thoughts[id]!.state!.text);
      expect(new Set(states).size).toBe(states.length);
      const worstKept = Math.min(...event.kept.map(score));
      for (const id of event.dropped) {
        const { pruneReason, state } = thoughts[id]!;
        if (pruneReason === "duplicate") expect(states).toContain(state!.text);
        else expect(score(id)).toBeLessThanOrEqual(worstKept);
      }
      const children = thoughts.filter((thought) => thought.depth === event.depth + 1);
      for (const { parent } of children) expect(event.kept).toContain(parent);
    }
  });

  it("shares a level's width evenly among the kept thoughts", async () => {
    const strategy = breadthFirst({ grow: "continue", width: 9, keep: 2, depth: 2, cutHopeless: false });
    const problem = { ...digitsProblem(input), hopeless: undefined };
    const { tree } = await search(problem, strategy, new ScriptedModel({ errorRate: 0.3 }));
    const parents = levels(tree.thoughts)[1]!.map(({ parent }) => parent);
    const counts = [...new Set(parents)].map((id) => parents.filter((parent) => parent === id).length);
    expect(counts.sort()).toEqual([4, 5]);
  });

  it("begins half as wide after a level that agreed, and widens where thoughts differ", async () => {
    const seen = { narrow: 0, widened: 0 };
    for (let seed = 0; seed < 200; seed++) {
      const width = 2 + (seed % 7);
      const hopeless = seed % 2 === 0 ? undefined : digitsProblem(input).hopeless;
      const strategy = breadthFirst({ grow: "continue", width, keep: 2, depth: 4, attempts: 400 });
      const model = new ScriptedModel({ errorRate: (seed % 4) / 40 });
      const { tree } = await search({ ...digitsProblem(input), hopeless }, strategy, model, { seed });
      let agreed = false;
      for (const level of levels(tree.thoughts)) {
        const living = level.filter(({ pruneReason }) => pruneReason !== "hopeless" && pruneReason !== "unsolved");
        if (living.length === 0 || living[0]!.tokens > 4) break; // the model finishes the answer by itself
        const agrees = new Set(living.map(({ state }) => state!.text)).size === 1;
        const half = Math.max(2, Math.ceil(width / 2));
        expect(living).toHaveLength(agreed && agrees ? half : width);
        if (agreed && half < width) seen[agrees ? "narrow" : "widened"]++;
        agreed = agrees && living.length > 1;
      }
    }
    expect(seen.narrow).toBeGreaterThan(20);
    expect(seen.widened).toBeGreaterThan(5);
  });

  it("cuts a hopeless thought in the middle and replaces it until the width lives", async () => {
    const strategy = breadthFirst({ grow: "continue", width: 6, depth: 4, attempts: 60, narrowAgreed: false });
    const { tree } = await search(digitsProblem(input), strategy, new ScriptedModel({ errorRate: 0.25 }));
    for (const level of levels(tree.thoughts)) {
      const dead = level.filter(({ pruneReason }) => pruneReason === "hopeless" || pruneReason === "unsolved");
      expect(level.length - dead.length).toBe(6);
    }
    const cut = tree.thoughts.filter(({ pruneReason, tokens }) => pruneReason === "hopeless" && tokens < 4);
    expect(cut.length).toBeGreaterThan(0);
    for (const thought of cut) expect(thought.score).toBeUndefined();
  });

  it("starts no more than `attempts` thoughts at a level; when none lives, the model finishes the answer", async () => {
    const strategy = breadthFirst({ grow: "continue", width: 5, depth: 4, attempts: 12 });
    const result = await search(digitsProblem(input), strategy, new ScriptedModel({ errorRate: 1 }));
    // The scripted model errs only when it samples; the answer is finished greedily.
    expect(result.statistics).toMatchObject({ thoughts: 13, depth: 1, solved: true });
    expect(result.best?.text).toHaveLength(input.length);
    expect(result.stopReason).toBe("solved");
  });

  it("answers with a whole answer when the levels run out", async () => {
    const strategy = breadthFirst({ grow: "continue", width: 4, depth: 2 });
    const result = await search(digitsProblem(input), strategy, new ScriptedModel({ errorRate: 0 }));
    expect(result).toMatchObject({ solved: true, text: [...input].sort().join("") });
    expect(result.best?.depth).toBe(3);
  });

  it("continues after the stop string of the thought before", async () => {
    const problem = { ...digitsProblem("21221112"), thought: { maxTokens: 8, stop: ["2"] } };
    const strategy = breadthFirst({ grow: "continue", width: 1, depth: 6, sampling: { temperature: 0 } });
    const { tree, text } = await search(problem, strategy, new ScriptedModel({ errorRate: 0 }));
    expect(tree.thoughts.slice(1).map((thought) => thought.text)).toEqual(["1111", "", "", ""]);
    expect(text).toBe("11112222");
  });

  it("ends a thought where a program sees that it is whole, and continues there", async () => {
    const problem = {
      ...digitsProblem("3121322"),
      thought: { maxTokens: 9, ends: (text: string) => /(.)\1$/.test(text) },
    };
    const strategy = breadthFirst({ grow: "continue", width: 1, depth: 6, sampling: { temperature: 0 } });
    const { tree, text } = await search(problem, strategy, new ScriptedModel({ errorRate: 0 }));
    expect(tree.thoughts.slice(1).map((thought) => thought.text)).toEqual(["11", "22", "233"]);
    expect(text).toBe("1122233");
  });

  it("falls back on a wrong answer when no right one comes", async () => {
    const problem = { ...digitsProblem(input), hopeless: undefined };
    const strategy = breadthFirst({ grow: "continue", width: 4, depth: 5 });
    const result = await search(problem, strategy, new ScriptedModel({ errorRate: 0.6 }));
    expect(result).toMatchObject({ solved: false, stopReason: "finished" });
    expect(result.answer).toHaveLength(input.length);
    expect(result.best!.status).toBe("solution");
  });
});

describe("breadthFirst, reprompt", () => {
  it("asks first for an answer, then to improve the best so far", async () => {
    const model = new ScriptedModel({ errorRate: 0.4 });
    const strategy = breadthFirst({ grow: "reprompt", width: 5, depth: 3 });
    const { tree } = await search(digitsProblem(input), strategy, model);
    const firstBest = tree.thoughts.filter(({ depth }) => depth === 1).sort((a, b) => b.score! - a.score!)[0]!;
    expect(model.prompts.slice(0, 2)).toEqual([input, `${input} not ${firstBest.text}`]);
    expect(model.prompts).toHaveLength(3);
  });

  it("keeps the old best on ties, and samples the same prompt afresh", async () => {
    const problem = { ...digitsProblem(input), score: () => -1, isSolved: () => false };
    const strategy = breadthFirst({ grow: "reprompt", width: 4, depth: 4 });
    const running = search(problem, strategy, new ScriptedModel({ errorRate: 0.4 }));
    const kept: number[][] = [];
    for await (const event of running) if (event.type === "level:selected") kept.push(event.kept);
    expect(kept).toEqual([[1], [1], [1], [1]]);
    const { best, tree } = await running;
    expect(best!.id).toBe(1);
    const texts = tree.thoughts.slice(1).map(({ text }) => text);
    expect(new Set(texts).size).toBe(texts.length);
  });

  it("needs an improve prompt", async () => {
    const problem = { ...digitsProblem(input), improvePrompt: undefined };
    const model = new ScriptedModel({ errorRate: 0.4 });
    await expect(search(problem, breadthFirst({ grow: "reprompt", width: 2, depth: 2 }), model).result).rejects.toThrow(
      TypeError,
    );
    expect((await search(problem, breadthFirst({ grow: "reprompt", width: 2, depth: 1 }), model)).best).toBeDefined();
  });
});

it("refuses options that make no sense", () => {
  expect(() => breadthFirst({ grow: "continue", width: 0, depth: 1 })).toThrow(RangeError);
  expect(() => breadthFirst({ grow: "continue", width: 1, depth: 1.5 })).toThrow(RangeError);
  expect(() => breadthFirst({ grow: "sideways" as "continue", width: 1, depth: 1 })).toThrow(RangeError);
});
