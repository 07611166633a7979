import { describe, expect, it } from "vitest";
import { type Digits, digits, digitsProblem } from "../test/digits.js";
import { checkEventOrder } from "../test/event-order.js";
import { ScriptedModel } from "../test/scripted-model.js";
import {
  bestOfN,
  breadthFirst,
  choiceLogprobs,
  depthFirst,
  type Evaluator,
  graphOfThoughts,
  llmValue,
  llmVote,
  monteCarlo,
  type Problem,
  readChoice,
  readLabel,
  type SearchEvent,
  type Strategy,
  search,
} from "./index.js";

const input = digits(16, 5);
const sorted = [...input].sort().join("");
const rightBeginning = (text: string) => {
  let count = 0;
  while (count < text.length && text[count] === sorted[count]) count++;
  return count;
};

/** The problem with questions to a model; the program must not be asked. */
function judged(members: Partial<Problem<Digits, string>> = {}): Problem<Digits, string> {
  const forbidden = () => {
    throw new Error("the program was asked");
  };
  return {
    ...digitsProblem(input),
    score: forbidden,
    hopeless: forbidden,
    value: {
      prompt: ({ text }) => [{ role: "user", content: `value ${text}` }],
      read: (text) => (/^\d+$/.test(text) ? [Number(text)] : undefined),
      choices: { sure: 10, impossible: 0 },
      failureScore: -7,
    },
    vote: {
      prompt: (states) => [{ role: "user", content: `vote ${states.map(({ text }) => text).join(" ")}` }],
      read: readChoice,
    },
    ...members,
  };
}

/** Judges by the number of right digits at the beginning. */
function reply(prompt: string): string | undefined {
  if (prompt.startsWith("value ")) return String(rightBeginning(prompt.slice(6)));
  if (!prompt.startsWith("vote ")) return undefined;
  const lengths = prompt.slice(5).split(" ").map(rightBeginning);
  return String(lengths.indexOf(Math.max(...lengths)) + 1);
}

const model = () =>
  new ScriptedModel({
    ...{ errorRate: 0.1, reply },
    logprob: (prompt, text) => (text === "sure" ? Math.log((rightBeginning(prompt.slice(6)) + 1) / 20) : Math.log(0.1)),
  });

const strategies: Strategy[] = [
  bestOfN({ n: 6, width: 3 }),
  breadthFirst({ grow: "continue", width: 5, keep: 2, depth: 5 }),
  breadthFirst({ grow: "reprompt", width: 4, depth: 3 }),
  depthFirst({ width: 2, depth: 4 }),
  monteCarlo({ iterations: 6, width: 2, depth: 4 }),
  graphOfThoughts({ parts: 1, solve: 3, improve: 2 }),
];
const evaluators: Evaluator[] = [llmValue({ samples: 2 }), llmVote({ samples: 3 }), choiceLogprobs()];

describe.each(evaluators)("$name", (evaluator) => {
  it.each(strategies)("scores the thoughts of $name without the program", async (strategy) => {
    const scripted = model();
    const events: SearchEvent[] = [];
    const running = search(judged(), strategy, scripted, { evaluate: evaluator, seed: 2 });
    for await (const event of running) events.push(event);
    checkEventOrder(events);
    const result = await running;
    expect(result.answer).toBeDefined();
    expect(result.stopReason).toBe("finished");
    expect(result.statistics.generatedTokens).toBe(scripted.generated);
    expect(scripted.openBranches).toBe(0);
    for (const event of events) if (event.type === "thought:scored") expect(event.failed).toBeUndefined();
  });

  it("gives the same tree for the same seed, whatever ends first", async () => {
    const strategy = strategies[1]!;
    const jitter = async () => {
      for (let turns = Math.floor(Math.random() * 4); turns > 0; turns--) await null;
    };
    const run = (wait?: () => Promise<void>) => {
      const { options } = model();
      return search(judged(), strategy, new ScriptedModel({ ...options, jitter: wait }), {
        evaluate: evaluator,
        seed: 5,
      });
    };
    const first = await run();
    for (let i = 0; i < 5; i++) expect((await run(jitter)).tree).toEqual(first.tree);
  });

  it("keeps to the budget of tokens, its own verdicts included", async () => {
    for (const tokens of [5, 30]) {
      const scripted = model();
      const result = await search(judged(), strategies[1]!, scripted, { evaluate: evaluator, budget: { tokens } });
      expect(scripted.generated).toBeLessThanOrEqual(tokens);
      expect(result.stopReason).toBe("tokens");
      expect(scripted.openBranches).toBe(0);
    }
  });

  it("rejects with what the problem lacks", async () => {
    const problem = judged({ value: undefined, vote: undefined });
    const scripted = model();
    await expect(search(problem, strategies[1]!, scripted, { evaluate: evaluator }).result).rejects.toThrow(
      /has no (value|vote) question/,
    );
    expect(scripted.openBranches).toBe(0);
  });
});

describe("llmValue", () => {
  it("asks about each prompt once, and samples it side by side", async () => {
    const scripted = model();
    const { tree } = await search(judged(), bestOfN({ n: 20 }), scripted, { evaluate: llmValue({ samples: 2 }) });
    const asked = scripted.prompts.filter((prompt) => prompt.startsWith("value"));
    expect(new Set(asked).size).toBe(asked.length);
    for (const { text, score } of tree.thoughts.slice(1)) expect(score).toBe(rightBeginning(text));
  });

  it("takes each mark's mean over the verdicts that can be read, and makes one score of them", async () => {
    const verdicts = ["4 8", "nonsense", "6 2"];
    const spoken = new Map<number, string>();
    const reply = (prompt: string, seed: number) => {
      if (!prompt.startsWith("value")) return undefined;
      if (!spoken.has(seed)) spoken.set(seed, verdicts[spoken.size]!);
      return spoken.get(seed);
    };
    const scripted = new ScriptedModel({ errorRate: 0, reply });
    const problem = judged({
      value: {
        prompt: () => [{ role: "user", content: "value" }],
        read: (text) => text.match(/\d/g)?.map(Number),
        score: ([a, b]) => (2 * a! * b!) / (a! + b!),
        failureScore: 0,
      },
    });
    const { score } = await search(problem, bestOfN({ n: 1 }), scripted, { evaluate: llmValue() });
    expect(score).toBe((2 * 5 * 5) / 10);
  });

  it("gives the failure score where no verdict can be read or nothing can be asked, and goes on", async () => {
    const scripted = new ScriptedModel({ errorRate: 0.2, reply: (p) => (p.startsWith("value") ? "well" : undefined) });
    const events: SearchEvent[] = [];
    const running = search(judged(), bestOfN({ n: 3 }), scripted, { evaluate: llmValue() });
    for await (const event of running) events.push(event);
    const scored = events.filter((event) => event.type === "thought:scored");
    expect(scored).toHaveLength(3);
    for (const event of scored) expect(event).toMatchObject({ score: -7, failed: "no verdict could be read" });
    const mute = judged({ value: { ...judged().value!, prompt: () => undefined } });
    const result = await search(mute, bestOfN({ n: 2 }), model(), { evaluate: llmValue() });
    expect(result).toMatchObject({ score: -7, stopReason: "finished" });
  });

  it("lets the program cut and stop where asked to", async () => {
    const problem = { ...judged(), hopeless: digitsProblem(input).hopeless };
    const evaluate = llmValue({ usesProgram: true });
    const { tree, stopReason } = await search(problem, strategies[1]!, model(), { evaluate });
    expect(tree.thoughts.some(({ pruneReason }) => pruneReason === "hopeless")).toBe(true);
    expect(stopReason).toBe("solved");
  });
});

describe("llmVote", () => {
  it("shows all candidates of a level in one prompt, the answer kept before among them", async () => {
    const scripted = model();
    const events: SearchEvent[] = [];
    const running = search(judged(), strategies[2]!, scripted, { evaluate: llmVote({ samples: 3 }), seed: 1 });
    for await (const event of running) events.push(event);
    const { thoughts } = (await running).tree;
    const polls = scripted.prompts.filter((prompt) => prompt.startsWith("vote"));
    expect(polls).toHaveLength(3);
    const kept = events.filter((event) => event.type === "level:selected").map((event) => event.kept[0]!);
    expect(polls[1]).toContain(thoughts[kept[0]!]!.text);
    expect(thoughts[kept.at(-1)!]!.score).toBe(3);
  });

  it("tells when no verdict chose a thought", async () => {
    const mute = new ScriptedModel({ errorRate: 0.3, reply: (p) => (p.startsWith("vote") ? "none" : undefined) });
    const result = await search(judged(), bestOfN({ n: 3 }), mute, { evaluate: llmVote() });
    expect(result).toMatchObject({ score: 0, stopReason: "finished" });
  });
});

describe("choiceLogprobs", () => {
  it("expects the mark by the choices' probabilities among each other, and samples nothing", async () => {
    const scripted = model();
    const evaluate = choiceLogprobs();
    const { tree, statistics } = await search(judged(), bestOfN({ n: 4 }), scripted, { evaluate });
    let own = 0;
    for (const { text, score, tokens } of tree.thoughts.slice(1)) {
      const sure = (rightBeginning(text) + 1) / 20;
      expect(score).toBeCloseTo((10 * sure) / (sure + 0.1), 10);
      own += tokens;
    }
    expect(statistics.generatedTokens).toBe(own);
  });

  it("needs choices", async () => {
    const problem = judged({ value: { ...judged().value!, choices: undefined } });
    await expect(search(problem, bestOfN({ n: 1 }), model(), { evaluate: choiceLogprobs() }).result).rejects.toThrow(
      "no choices",
    );
  });
});

describe("propose: list", () => {
  const listing = (members: Partial<Problem<Digits, string>> = {}): Problem<Digits, string> => ({
    ...digitsProblem(input),
    proposals: {
      prompt: ({ text }, count) => [{ role: "user", content: `list ${count} after ${text}` }],
      read: (text) => text.split(",").filter((part) => part !== ""),
    },
    ...members,
  });
  /** The right next part, a wrong one, and the right one again. */
  const lists = (prompt: string) => {
    if (!prompt.startsWith("list")) return undefined;
    const { length } = prompt.split("after ")[1]!;
    const next = sorted.slice(length, length + 4);
    return `${next},${next.replace(/./g, "9")}x,${next}`;
  };

  it.each([
    breadthFirst({ grow: "continue", width: 2, keep: 2, depth: 5, propose: "list" }),
    depthFirst({ width: 3, depth: 5, propose: "list" }),
    monteCarlo({ iterations: 9, width: 3, depth: 5, propose: "list" }),
  ])("makes thoughts of the parts of one generation: $name", async (strategy) => {
    const scripted = new ScriptedModel({ errorRate: 0, reply: lists });
    const events: SearchEvent[] = [];
    const running = search(listing(), strategy, scripted, { budget: { tokens: 2000 } });
    for await (const event of running) events.push(event);
    checkEventOrder(events);
    const result = await running;
    expect(result).toMatchObject({ solved: true, text: sorted });
    expect(events.some(({ type }) => type === "parts:listed")).toBe(true);
    expect(result.statistics.generatedTokens).toBe(scripted.generated);
    expect(scripted.openBranches).toBe(0);
  });

  it("ends when the model lists nothing", async () => {
    const scripted = new ScriptedModel({ errorRate: 0, reply: (p) => (p.startsWith("list") ? "" : undefined) });
    const strategy = breadthFirst({ grow: "continue", width: 3, depth: 5, propose: "list" });
    const result = await search(listing(), strategy, scripted);
    expect(result).toMatchObject({ solved: true, statistics: { thoughts: 1 } });
  });

  it("needs a question that asks for a list", async () => {
    const strategy = breadthFirst({ grow: "continue", width: 2, depth: 5, propose: "list" });
    const running = search(digitsProblem(input), strategy, new ScriptedModel({ errorRate: 0 }));
    await expect(running.result).rejects.toThrow("no proposals question");
  });
});

describe("readers of verdicts", () => {
  it("read the last label", () => {
    const read = readLabel({ sure: 20, likely: 1, impossible: 0.001 });
    expect(read("It is not sure: Impossible.")).toEqual([0.001]);
    expect(read("perhaps")).toBeUndefined();
  });
  it("read the last choice within range", () => {
    expect(readChoice("Between 1 and 3, not 9: 3", 5)).toBe(2);
    expect(readChoice("7", 5)).toBeUndefined();
  });
});
