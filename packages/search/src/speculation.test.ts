/** Speculative decoding as a search's option: it reaches every decode, and is no part of what decides the tree. */
import { expect, it } from "vitest";
import { altered, digits, digitsProblem } from "../test/digits.js";
import { ScriptedModel } from "../test/scripted-model.js";
import {
  bestOfN,
  breadthFirst,
  cachedAnswers,
  depthFirst,
  graphOfThoughts,
  llmValue,
  monteCarlo,
  type SearchEvent,
  type StrategyOptions,
  search,
  selfConsistency,
  singleShot,
} from "./index.js";

const strategies = [
  singleShot,
  (options: StrategyOptions) => bestOfN({ n: 4, ...options }),
  (options: StrategyOptions) => selfConsistency({ n: 4, ...options }),
  (options: StrategyOptions) => breadthFirst({ grow: "continue", width: 4, depth: 5, ...options }),
  (options: StrategyOptions) => breadthFirst({ grow: "reprompt", width: 4, depth: 3, ...options }),
  (options: StrategyOptions) => depthFirst({ width: 3, depth: 5, ...options }),
  (options: StrategyOptions) => monteCarlo({ iterations: 5, width: 3, depth: 4, ...options }),
  (options: StrategyOptions) => graphOfThoughts({ parts: 2, solve: 3, merge: 2, improve: 2, ...options }),
];
const problem = altered(digitsProblem(digits(12, 3)), {
  value: { prompt: ({ text }) => [{ role: "user", content: `value ${text}` }], read: () => [1], failureScore: 0 },
});
const reply = (prompt: string) => (prompt.startsWith("value") ? "good" : undefined);

it.each(strategies)("reaches all that %# decodes, from its own options or the search's", async (make) => {
  const evaluate = llmValue({ samples: 1 });
  for (const [own, given, expected] of [
    ["auto", undefined, "auto"],
    ["auto", "off", "off"],
    [undefined, { maxDraftTokens: 4 }, { maxDraftTokens: 4 }],
    [undefined, undefined, undefined],
  ] as const) {
    const model = new ScriptedModel({ errorRate: 0.2, reply });
    await search(problem, make({ speculation: own }), model, { evaluate, speculation: given });
    expect(model.decodes.length).toBeGreaterThan(1);
    for (const { speculation } of model.decodes) expect(speculation).toEqual(expected);
  }
});

it("may be another one when a search is resumed, and does not keep a cached answer from being found", async () => {
  const events: SearchEvent[] = [];
  const [strategy, speculative] = [strategies[3]!({}), strategies[3]!({ speculation: "auto" })];
  const running = search(problem, strategy, new ScriptedModel({ errorRate: 0.2 }));
  for await (const event of running) events.push(event);
  const resumed = await search(problem, speculative, new ScriptedModel({ errorRate: 0.2 }), {
    resume: events.slice(0, 40),
  });
  expect(resumed.tree).toEqual((await running).tree);

  const model = new ScriptedModel({ errorRate: 0.2 });
  const cached = cachedAnswers(model);
  await search(problem, strategies[1]!({}), cached);
  const before = model.generated;
  await search(problem, strategies[1]!({ speculation: "auto" }), cached);
  expect(model.generated).toBe(before);
});
