import { describe, expect, it } from "vitest";
import { digits, digitsProblem } from "../test/digits.js";
import { checkEventOrder } from "../test/event-order.js";
import { ScriptedModel } from "../test/scripted-model.js";
import {
  bestOfN,
  breadthFirst,
  choiceLogprobs,
  depthFirst,
  formatEvent,
  graphOfThoughts,
  llmValue,
  monteCarlo,
  readEventLog,
  type SearchEvent,
  type SearchOptions,
  search,
  selfConsistency,
} from "./index.js";

const input = digits(16, 3);
const problem = {
  ...digitsProblem(input),
  value: {
    prompt: ({ text }: { text: string }) => [{ role: "user" as const, content: `value ${text}` }],
    read: (text: string) => [text.length],
    choices: { good: 1, bad: 0 },
    failureScore: 0,
  },
  proposals: {
    prompt: ({ text }: { text: string }, count: number) => [
      { role: "user" as const, content: `list ${count} ${text}` },
    ],
    read: (text: string) => text.split(","),
  },
};
const reply = (prompt: string, seed: number) => {
  if (prompt.startsWith("value")) return "x".repeat(seed % 7);
  if (prompt.startsWith("list")) return [0, 3, 6].map((shift) => String((seed >>> shift) % 10)).join(",");
  return undefined;
};
const newModel = () => new ScriptedModel({ errorRate: 0.15, reply });

async function eventsOf(
  model: ScriptedModel,
  strategy: Parameters<typeof search>[1],
  options: SearchOptions,
  searched = problem,
) {
  const events: SearchEvent[] = [];
  const running = search(searched, strategy, model, { seed: 4, ...options });
  for await (const event of running) events.push(event);
  return { events, result: await running };
}

const stopping = { ...problem, thought: { maxTokens: 9, stop: ["4", "7"] } };
const cases: [string, Parameters<typeof search>[1], SearchOptions, typeof problem?][] = [
  ["breadth-first, continue", breadthFirst({ grow: "continue", width: 6, keep: 2, depth: 6 }), {}],
  ["breadth-first, reprompt", breadthFirst({ grow: "reprompt", width: 4, depth: 3 }), {}],
  ["best-of-n", bestOfN({ n: 9, width: 3 }), {}],
  ["self-consistency", selfConsistency({ n: 5 }), {}],
  ["depth-first", depthFirst({ width: 3, depth: 5 }), {}],
  ["monte-carlo", monteCarlo({ iterations: 8, width: 3, depth: 4 }), {}],
  ["graph of thoughts", graphOfThoughts({ parts: 4, solve: 3, merge: 3, improve: 2 }), {}],
  ["llm values", breadthFirst({ grow: "continue", width: 4, keep: 2, depth: 3 }), { evaluate: llmValue() }],
  ["choices", breadthFirst({ grow: "continue", width: 4, keep: 2, depth: 3 }), { evaluate: choiceLogprobs() }],
  ["stop strings", breadthFirst({ grow: "continue", width: 5, keep: 2, depth: 6 }), {}, stopping],
  ["lists", breadthFirst({ grow: "continue", width: 4, keep: 2, depth: 6, propose: "list" }), {}],
];

describe.each(cases)("a resumed search: %s", (_name, strategy, options, searched) => {
  it("grows the tree that it would have grown uninterrupted, wherever it was cut off", async () => {
    const whole = await eventsOf(newModel(), strategy, options, searched);
    const log = whole.events.map(formatEvent).join("");
    for (let cut = 1; cut <= whole.events.length; cut += 1 + Math.floor(whole.events.length / 25)) {
      const events = readEventLog(whole.events.slice(0, cut).map(formatEvent).join(""));
      const model = newModel();
      const resumed = await eventsOf(model, strategy, { ...options, resume: events }, searched);
      checkEventOrder(resumed.events);
      expect(resumed.result.tree).toEqual(whole.result.tree);
      expect(resumed.result).toMatchObject({ text: whole.result.text, stopReason: whole.result.stopReason });
      expect(model.openBranches).toBe(0);
    }
    const model = newModel();
    const again = await eventsOf(model, strategy, { ...options, resume: readEventLog(log) }, searched);
    expect(again.result.tree).toEqual(whole.result.tree);
    expect(model.generated).toBe(0);
    expect(model.opened).toBe(0);
    expect(again.result.statistics.generatedTokens).toBe(
      options.evaluate ? again.result.statistics.generatedTokens : whole.result.statistics.generatedTokens,
    );
  });
});

describe("resuming", () => {
  const strategy = breadthFirst({ grow: "continue", width: 6, keep: 2, depth: 6 });

  it("opens only what it grows on, each kept thought by one prefill", async () => {
    const { events } = await eventsOf(newModel(), strategy, {});
    const second = events.findIndex((event) => event.type === "level:selected" && event.depth === 2);
    const model = newModel();
    const { result } = await eventsOf(model, strategy, { resume: events.slice(0, second + 1) });
    expect(model.prompts).toEqual([input]);
    const selected = events[second] as Extract<SearchEvent, { type: "level:selected" }>;
    const path = new Set<number>();
    for (let [id] = selected.kept as [number]; id > 0; id = result.tree.thoughts[id]!.parent) path.add(id);
    expect(path.size).toBe(2);
    expect(result.solved).toBe(true);
  });

  it("goes on under a larger budget", async () => {
    const first = await eventsOf(newModel(), strategy, { budget: { thoughts: 8 } });
    expect(first.result.stopReason).toBe("thoughts");
    const whole = await eventsOf(newModel(), strategy, {});
    const resumed = await eventsOf(newModel(), strategy, { resume: first.events });
    expect(resumed.result.text).toBe(whole.result.text);
  });

  it("can be resumed again from its own log", async () => {
    const whole = await eventsOf(newModel(), strategy, {});
    const first = await eventsOf(newModel(), strategy, { resume: whole.events.slice(0, 40) });
    const second = await eventsOf(newModel(), strategy, { resume: first.events.slice(0, 60) });
    expect(second.result.tree).toEqual(whole.result.tree);
  });

  it("refuses the log of another search, saying what differs", async () => {
    const { events } = await eventsOf(newModel(), strategy, {});
    const start = events[0] as Extract<SearchEvent, { type: "search:started" }>;
    const refusal = (changed: Partial<typeof start>) =>
      eventsOf(newModel(), strategy, { resume: [{ ...start, ...changed }, ...events.slice(1)] });
    await expect(refusal({ model: "other" })).rejects.toThrow(
      'the log\'s model is "other", this search\'s is "scripted"',
    );
    await expect(refusal({ problem: "other" })).rejects.toThrow("problem");
    await expect(refusal({ seed: 99 })).rejects.toThrow("seed is 99");
    await expect(refusal({ fingerprint: 1 })).rejects.toThrow("another prompt");
    await expect(eventsOf(newModel(), strategy, { resume: events.slice(1) })).rejects.toThrow("search:started");
    await expect(eventsOf(newModel(), strategy, { resume: [] })).rejects.toThrow("search:started");
    const wider = breadthFirst({ grow: "continue", width: 7, keep: 2, depth: 6 });
    await expect(eventsOf(newModel(), wider, { resume: events })).rejects.toThrow("other settings");
    const judged = await eventsOf(newModel(), strategy, { evaluate: llmValue({ samples: 2 }) });
    const resume = judged.events;
    await expect(eventsOf(newModel(), strategy, { resume, evaluate: llmValue() })).rejects.toThrow(
      "another evaluation",
    );
  });

  it("releases everything when it is aborted", async () => {
    const { events } = await eventsOf(newModel(), strategy, {});
    for (let leaveAt = 1; leaveAt < 60; leaveAt += 7) {
      const model = newModel();
      let seen = 0;
      const running = search(problem, strategy, model, { seed: 4, resume: events.slice(0, 50) });
      for await (const _ of running) if (++seen === leaveAt) break;
      expect(model.openBranches).toBe(0);
    }
  });
});

describe("readEventLog", () => {
  it("leaves an unfinished last line out", () => {
    expect(readEventLog('{"type":"search:aborted"}\n{"type":"thou')).toEqual([{ type: "search:aborted" }]);
    expect(readEventLog('{"type":"search:aborted"}')).toHaveLength(1);
    expect(readEventLog("")).toEqual([]);
  });
  it.each(["nonsense", "[1]", "3", "null"])("names a line that is no event: %s", (line) => {
    expect(() => readEventLog(`{"type":"search:aborted"}\n${line}\n`)).toThrow("line 2");
  });
});
