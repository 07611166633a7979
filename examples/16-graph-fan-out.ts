/**
 * Eight workers of a LangGraph, sent out at once with one system prompt and a task each: the prompt is computed once, kept
 * once while all decode, and read once per step.
 *
 *   npx tsx --conditions @deftree/source examples/16-graph-fan-out.ts
 *
 * Prints what the prompts hold and what of it was computed, stored and read, on `mini`.
 */
import { ChatDeftree } from "@deftree/langchain";
import { formatList, generateSorting } from "@deftree/tasks";
import { END, ReducedValue, Send, START, StateGraph, StateSchema } from "@langchain/langgraph";
import { z } from "zod";

await using model = new ChatDeftree({ model: "mini", maxTokens: 40 });
const engine = await model.engine();
const rules = Array.from({ length: 75 }, (_, i) => `Rule ${i + 1}: keep every repetition.`).join("\n");
const before = engine.stats();

const State = new StateSchema({
  lists: z.array(z.string()),
  promptTokens: new ReducedValue(z.array(z.number()).default([]), {
    inputSchema: z.number(),
    reducer: (all, tokens) => [...all, tokens],
  }),
});

const graph = new StateGraph(State)
  .addNode("worker", async ({ list }: { list: string }) => {
    const answer = await model.invoke([
      { role: "system", content: rules },
      { role: "user", content: `Input: ${list}` },
    ]);
    return { promptTokens: answer.usage_metadata!.input_tokens };
  })
  .addConditionalEdges(START, ({ lists }) => lists.map((list) => new Send("worker", { list })))
  .addEdge("worker", END)
  .compile();

const lists = Array.from({ length: 8 }, (_, worker) => formatList(generateSorting(8, worker)));
let stored = 0;
let asked = 0;
for await (const [mode, chunk] of await graph.stream({ lists }, { streamMode: ["messages", "values"] })) {
  if (mode === "messages") stored = Math.max(stored, engine.stats().tokensInForest);
  else asked = chunk.promptTokens.reduce((sum, tokens) => sum + tokens, 0);
}

const { prefilledTokens, kvBytesRead, kvBytesUnshared } = engine.stats();
console.log(
  `${lists.length} workers asked with ${asked} prompt tokens; ${prefilledTokens - before.prefilledTokens} were computed`,
);
console.log(`at most ${stored} tokens were stored, prompts and answers of all workers together`);
const times = (kvBytesUnshared - before.kvBytesUnshared) / (kvBytesRead - before.kvBytesRead);
console.log(`without sharing, attention would have read ${times.toFixed(1)} times the bytes`);
