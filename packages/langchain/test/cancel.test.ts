/**
 * Searches on the real engine that end before their time: nothing is left of them. DEFTREE_CANCELLED_SEARCHES=1000 cancels
 * more of them than the 200 of every run.
 */
import { Engine } from "@deftree/engine";
import {
  bestOfN,
  breadthFirst,
  depthFirst,
  graphOfThoughts,
  llmValue,
  monteCarlo,
  type Problem,
  type SearchEvent,
  selfConsistency,
} from "@deftree/search";
import { afterAll, beforeAll, expect, it } from "vitest";
import { ChatDeftree, type ThoughtSearch, thoughtSearch } from "../src/index.js";
import { expectAllFree } from "./engine-counters.js";
import { digits, type SortingState, sortingProblem, sortPrompt } from "./sorting.js";

let engine: Engine;

beforeAll(async () => {
  engine = await Engine.load("mini", { kvTokens: 8192 });
});
afterAll(() => engine.dispose());

const strategies = [
  breadthFirst({ grow: "continue", width: 8, keep: 3, depth: 6 }),
  breadthFirst({ grow: "reprompt", width: 6, depth: 3 }),
  bestOfN({ n: 12 }),
  selfConsistency({ n: 12 }),
  depthFirst({ width: 3, depth: 6 }),
  monteCarlo({ iterations: 6, width: 3, depth: 5 }),
  graphOfThoughts({ parts: 2, solve: 4, merge: 3, improve: 2 }),
];

function problem(input: number[]): Problem<SortingState, number[]> {
  const ask = (content: string) => [{ role: "user" as const, content: `${sortPrompt(input)}\n${content}` }];
  return {
    ...sortingProblem(input),
    improvePrompt: ({ numbers }) => ask(`not [${numbers.join(", ")}]`),
    value: {
      prompt: ({ numbers }) => ask(`Is [${numbers.join(", ")}] right?`),
      read: (text) => (/\d/.test(text) ? [Number(/\d/.exec(text)![0])] : undefined),
      failureScore: -1,
    },
    split: () => ({
      parts: [problem(input.slice(0, input.length / 2)), problem(input.slice(input.length / 2))],
      merge: (_begin, _middle, _end, a, b) => ({
        ...problem(input),
        prompt: () => ask(`[${a.numbers.join(", ")}] and [${b.numbers.join(", ")}]`),
      }),
    }),
  };
}

type Ending = (
  running: ThoughtSearch<number[], SortingState, number[]>,
  input: number[],
  moment: number,
) => Promise<void>;

/** How a search ends early: by its caller's signal, as Ctrl-C does it, while it streams or not; by a reader that leaves; by time. */
const endings: Record<string, Ending> = {
  async abort(running, input, moment) {
    const { signal } = abortedAfter(moment);
    await expectAborted(running.invoke(input, { signal }));
  },
  async "abort of a stream"(running, input, moment) {
    const { signal } = abortedAfter(moment);
    const read = async () => {
      for await (const _ of await running.stream(input, { signal }));
    };
    await expectAborted(read());
  },
  async leaving(running, input, moment) {
    let seen = 0;
    for await (const _ of await running.stream(input)) if (++seen > 4 * moment) break;
  },
  timeout: async (running, input, moment) => expectAborted(running.invoke(input, { timeout: 1 + moment })),
};

function abortedAfter(ms: number): AbortController {
  const controller = new AbortController();
  setTimeout(() => controller.abort(new Error("stopped")), ms);
  return controller;
}

/** A search that ended before its moment came has its result. */
async function expectAborted(running: Promise<unknown>): Promise<void> {
  await running.catch((error: Error) => expect(error.message).toMatch(/stopped|timeout|aborted/i));
}

const numSearches = Number(process.env.DEFTREE_CANCELLED_SEARCHES ?? 200);

it.each(Object.keys(endings))(
  "leaves no page and no branch behind on %s, whatever searched and whenever",
  async (how) => {
    let state = how.length;
    const random = (below: number) => {
      state = (Math.imul(state, 1103515245) + 12345) >>> 0;
      return (state >>> 8) % below;
    };
    const model = new ChatDeftree({ engine });
    let numCancelled = 0;
    for (let i = 0; i < numSearches / 4; i++) {
      const judged = random(3) === 0 && { evaluate: llmValue({ samples: 2, maxTokens: 8 }), proposeAhead: random(3) };
      const events: SearchEvent[] = [];
      const running = thoughtSearch({
        ...{ model, problem, strategy: strategies[random(strategies.length)]!, seed: i },
        ...{ speculation: (["off", "auto"] as const)[random(2)]!, ...judged },
        onEvent: (event) => events.push(event as SearchEvent),
      });
      await endings[how]!(running, digits(48, i), random(40));
      // LangChain lets a stream end before what feeds it has ended.
      while (events.length > 0 && events.at(-1)!.type !== "done")
        await new Promise((resolve) => setTimeout(resolve, 1));
      await expectAllFree(engine);
      const last = events.at(-1);
      if (last?.type === "done" && last.stopReason === "aborted") numCancelled++;
    }
    expect(numCancelled).toBeGreaterThan(numSearches / 40);
  },
);

it("tells its events while it runs", async () => {
  const model = new ChatDeftree({ engine });
  const search = thoughtSearch({ model, problem, strategy: strategies[0]! });
  const seen: { type: string; decoded: number; branches: number }[] = [];
  for await (const { type } of await search.stream(digits(128, 1))) {
    const { decodedTokens, branches } = engine.stats();
    seen.push({ type, decoded: decodedTokens, branches });
  }
  const total = seen.at(-1)!.decoded - seen[0]!.decoded;
  const during = seen.filter(({ type, branches }) => type === "thought:tokens" && branches > 0);
  // An event is there a few tokens after its own at most, not at the end of a level or of the search.
  const moments = new Set(during.map(({ decoded }) => decoded));
  expect(moments.size).toBeGreaterThan(20);
  expect(during[0]!.decoded - seen[0]!.decoded).toBeLessThan(total / 4);
  await expectAllFree(engine);
});
