/** Speculative decoding as an option of calls and searches: it reaches the engine's decodes, and changes no answer. */
import { bestOfN } from "@deftree/search";
import { InMemoryCache } from "@langchain/core/caches";
import { FakeListChatModel } from "@langchain/core/utils/testing";
import { describe, expect, it } from "vitest";
import { digitsProblem, sortingEngine } from "../test/digits-problem.js";
import { ChatDeftree, thoughtSearch, treeOfThoughts } from "./index.js";

const speculations = (engine: ReturnType<typeof sortingEngine>) => engine.decodes.map(({ speculation }) => speculation);

describe("ChatDeftree", () => {
  it("passes a call's speculation to its decode, and none where none was given", async () => {
    const engine = sortingEngine();
    const chat = new ChatDeftree({ engine });
    await chat.invoke("312", { speculation: "auto" });
    await chat.withConfig({ speculation: { maxDraftTokens: 4 } }).invoke("312");
    for await (const _ of await chat.stream("312", { speculation: "off" }));
    await chat.invoke("312");
    expect(speculations(engine)).toEqual(["auto", { maxDraftTokens: 4 }, "off", undefined]);
    expect(engine.decodes.at(-1)).not.toHaveProperty("speculation");
  });

  it("finds an answer in LangChain's cache whether it was speculated or not", async () => {
    const engine = sortingEngine();
    const chat = new ChatDeftree({ engine, cache: new InMemoryCache() });
    await chat.invoke("312");
    await chat.invoke("312", { speculation: "auto" });
    expect(engine.decodes).toHaveLength(1);
  });
});

describe("searches", () => {
  const problem = digitsProblem;

  it("passes it to all that they decode", async () => {
    for (const make of [treeOfThoughts, thoughtSearch]) {
      const engine = sortingEngine();
      const search = make({
        ...{ model: new ChatDeftree({ engine }), problem, speculation: "auto" as const },
        strategy: bestOfN({ n: 3, stopWhenSolved: false }),
      });
      await search.invoke("3120");
      expect(speculations(engine)).toEqual(["auto", "auto", "auto"]);
    }
  });

  it("let a strategy say it, and other chat models ignore it", async () => {
    const engine = sortingEngine();
    const strategy = bestOfN({ n: 1, speculation: "auto" });
    await thoughtSearch({ model: new ChatDeftree({ engine }), problem, strategy }).invoke("3120");
    expect(speculations(engine)).toEqual(["auto"]);
    const model = new FakeListChatModel({ responses: ["0123"] });
    const result = await thoughtSearch({ model, problem, strategy }).invoke("3120");
    expect(result.answer).toBe("0123");
  });
});
