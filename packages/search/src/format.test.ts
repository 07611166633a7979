/** Formats of thoughts and answers: which decodes are told them. */
import { expect, it } from "vitest";
import { altered, digits, digitsProblem } from "../test/digits.js";
import { ScriptedModel } from "../test/scripted-model.js";
import { bestOfN, breadthFirst, depthFirst, graphOfThoughts, monteCarlo, type SearchEvent, search } from "./index.js";

const input = digits(12, 3);
const part = { regex: "\\d{4}" };
const whole = { jsonSchema: { type: "number" } };
const problem = altered(digitsProblem(input), {
  thought: { maxTokens: 4, format: part },
  answerFormat: whole,
  hopeless: undefined,
});

it("tells each part its own, each whole answer its own, and the rest of an answer none", async () => {
  for (const strategy of [
    breadthFirst({ grow: "continue", width: 4, depth: 2 }),
    breadthFirst({ grow: "reprompt", width: 4, depth: 2 }),
    depthFirst({ width: 2, depth: 3 }),
    monteCarlo({ iterations: 3, width: 2, depth: 2 }),
    bestOfN({ n: 3 }),
    graphOfThoughts({ parts: 2, solve: 2, merge: 2, improve: 1 }),
  ]) {
    const model = new ScriptedModel({ errorRate: 0.2 });
    await search(problem, strategy, model);
    const grows = strategy.name === "tot-continue" || /depth|mcts/.test(strategy.name);
    for (const { format, maxTokens } of model.decodes) {
      expect(format).toEqual(grows ? (maxTokens === 4 ? part : undefined) : whole);
    }
    expect(model.decodes.some(({ format }) => format !== undefined)).toBe(true);
  }
});

it("lets the end of a budget cut a text in a format", async () => {
  const model = new ScriptedModel({ errorRate: 0 });
  await search(problem, bestOfN({ n: 10, stopWhenSolved: false }), model, { budget: { tokens: 30 } });
  const formats = model.decodes.map(({ format, maxTokens }) => [maxTokens, format]);
  expect(formats).toEqual([...new Array(2).fill([13, whole]), [4, { ...whole, mayStayOpen: true }]]);
});

it("does not resume a search whose thoughts ended otherwise", async () => {
  const strategy = breadthFirst({ grow: "continue", width: 2, depth: 2 });
  const events: SearchEvent[] = [];
  for await (const event of search(problem, strategy, new ScriptedModel({ errorRate: 0 }))) events.push(event);
  const other = { ...problem, thought: { maxTokens: 4, format: { regex: "\\d+" } } };
  const resumed = search(other, strategy, new ScriptedModel({ errorRate: 0 }), { resume: events });
  await expect(resumed.result).rejects.toThrow("cannot resume");
});
