import { bestOfN, type SearchEvent } from "@deftree/search";
import { AIMessage, type ToolMessage } from "@langchain/core/messages";
import { fakeModel } from "@langchain/core/testing";
import { RunCollectorCallbackHandler } from "@langchain/core/tracers/run_collector";
import { createAgent } from "langchain";
import { describe, expect, it } from "vitest";
import { z } from "zod";
import * as z3 from "zod/v3";
import { digitsProblem, sortingEngine } from "../test/digits-problem.js";
import { ChatDeftree, treeOfThoughtsTool } from "./index.js";

const sorting = (engine = sortingEngine()) =>
  treeOfThoughtsTool({
    name: "sort",
    description: "Sorts digits",
    schema: z.object({ digits: z.string() }),
    model: new ChatDeftree({ engine }),
    problem: ({ digits }) => digitsProblem(digits),
    strategy: ({ digits }) => bestOfN({ n: 4 * digits.length }),
  });
const call = { name: "sort", args: { digits: "927465" }, id: "1", type: "tool_call" as const };

describe("a search as a tool", () => {
  it("answers with its text, and its whole result as artifact", async () => {
    const message = await sorting().invoke(call);
    expect(message).toMatchObject({ content: "245679", tool_call_id: "1", status: "success" });
    const { artifact } = message as ToolMessage;
    expect(artifact).toMatchObject({ answer: "245679", solved: true, statistics: { strategy: "best-of-24" } });
    expect(artifact.tree.thoughts).toHaveLength(artifact.statistics.thoughts + 1);
    expect(JSON.parse(JSON.stringify(artifact))).toEqual(artifact);
  });

  it("says that an answer is not known to be right", async () => {
    const wrong = treeOfThoughtsTool({
      ...{ name: "sort", description: "Sorts", schema: z3.object({ digits: z3.string() }) },
      model: new ChatDeftree({ engine: sortingEngine() }),
      problem: ({ digits }: { digits: string }) => ({ ...digitsProblem(digits), isSolved: () => false }),
    });
    expect(await wrong.invoke({ digits: "321" })).toMatch(/^123 .*not known to be right/);
    const own = treeOfThoughtsTool({
      ...{ name: "sort", description: "Sorts", schema: z.object({ digits: z.string() }) },
      model: new ChatDeftree({ engine: sortingEngine() }),
      problem: ({ digits }: { digits: string }) => digitsProblem(digits),
      toText: ({ score }) => `score ${score}`,
    });
    expect(await own.invoke({ digits: "321" })).toBe("score 0");
  });

  it("refuses arguments of another form before it searches", async () => {
    const engine = sortingEngine();
    await expect(sorting(engine).invoke({ digits: 3 } as never)).rejects.toThrow(/schema/);
    expect(engine.decodedTokens).toBe(0);
  });

  it("is called by an agent, which sees its text; a user sees its events", async () => {
    const engine = sortingEngine();
    const model = fakeModel()
      .respond(new AIMessage({ content: "", tool_calls: [call] }))
      .respond(new AIMessage("done"));
    const agent = createAgent({ model, tools: [sorting(engine)] });
    const events: string[] = [];
    const stream = await agent.stream({ messages: [{ role: "user", content: "sort" }] }, { streamMode: "tools" });
    for await (const { event, data } of stream as AsyncIterable<{ event: string; data?: SearchEvent }>) {
      if (event === "on_tool_event") events.push(data!.type);
    }
    expect([events[0], events.at(-1)]).toEqual(["search:started", "done"]);
    expect(events).toContain("thought:tokens");
    expect(model.calls[1]!.messages.at(-1)).toMatchObject({ content: "245679" });
    expect(engine.openBranches).toBe(0);
  });

  it("ends the agent's turn when it shall", async () => {
    const model = fakeModel().respond(new AIMessage({ content: "", tool_calls: [call] }));
    const direct = treeOfThoughtsTool({
      ...{ name: "sort", description: "Sorts", schema: z.object({ digits: z.string() }), returnDirect: true },
      model: new ChatDeftree({ engine: sortingEngine() }),
      problem: ({ digits }) => digitsProblem(digits),
    });
    const agent = createAgent({ model, tools: [direct] });
    const { messages } = await agent.invoke({ messages: [{ role: "user", content: "sort" }] });
    expect(messages.at(-1)).toMatchObject({ type: "tool", content: "245679" });
  });

  it("nests its thoughts below its own run in a trace", async () => {
    const collector = new RunCollectorCallbackHandler();
    await sorting().invoke(call, { callbacks: [collector] });
    const [run] = collector.tracedRuns;
    expect(run!.run_type).toBe("tool");
    expect(run!.child_runs!.map(({ name }) => name)).toEqual(["thoughtSearch(best-of-24)"]);
    expect(run!.child_runs![0]!.child_runs!.length).toBeGreaterThan(0);
  });

  it("releases everything when its caller aborts", async () => {
    const engine = sortingEngine(() => new Promise((resolve) => setTimeout(resolve, 1)));
    const controller = new AbortController();
    const running = sorting(engine).invoke(call, { signal: controller.signal });
    while (engine.decodedTokens < 5) await new Promise(setImmediate);
    controller.abort(new Error("enough"));
    await expect(running).rejects.toThrow();
    while (engine.openBranches > 0) await new Promise(setImmediate);
  });

  it("releases everything when its reader leaves", async () => {
    for (const type of ["thought:tokens", "solution", "done"]) {
      const engine = sortingEngine();
      for await (const event of sorting(engine).func({ digits: "321" }) as AsyncIterable<SearchEvent>) {
        if (event.type === type) break;
      }
      await new Promise((resolve) => setTimeout(resolve, 5));
      expect(engine.openBranches).toBe(0);
    }
  });

  it("rejects with what its model throws", async () => {
    const broken = treeOfThoughtsTool({
      ...{ name: "sort", description: "Sorts", schema: z.object({ digits: z.string() }) },
      model: fakeModel().alwaysThrow(new Error("no credit")) as never,
      problem: ({ digits }: { digits: string }) => digitsProblem(digits),
    });
    await expect(broken.invoke({ digits: "321" })).rejects.toThrow("no credit");
  });
});
