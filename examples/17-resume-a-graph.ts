/**
 * A search in a LangGraph that is cut off and goes on from its checkpoint: the thoughts that were saved are not generated
 * again, and the tree is the one that the search would have grown uninterrupted.
 *
 *   npx tsx --conditions @deftree/source examples/17-resume-a-graph.ts
 *
 * Prints how many thoughts each of the two runs generated, and whether the list is sorted, on `mini`.
 */
import { ChatDeftree } from "@deftree/langchain";
import { type ThoughtsChunk, thoughtSearchNode } from "@deftree/langchain/graph";
import { breadthFirst } from "@deftree/search";
import { generateSorting, sortingProblem } from "@deftree/tasks";
import { MemorySaver, START, StateGraph, StateSchema } from "@langchain/langgraph";
import { z } from "zod";

await using model = new ChatDeftree({ model: "mini" });
const State = new StateSchema({ digits: z.array(z.number()), solved: z.boolean().optional() });

const think = thoughtSearchNode({
  model,
  problem: ({ digits }: { digits: number[] }) => sortingProblem(digits),
  strategy: breadthFirst({ grow: "continue", width: 4, attempts: 32, depth: 19 }),
  seed: 1,
  update: ({ solved }) => ({ solved }),
});
const graph = new StateGraph(State)
  .addNode("think", think)
  .addEdge(START, "think")
  .compile({ checkpointer: new MemorySaver() });
const thread = { configurable: { thread_id: "a list of digits" }, streamMode: "custom" as const };

/** Counts the thoughts whose tokens were generated, and stops at `limit` of them. */
async function generated(input: { digits: number[] } | null, limit = Number.POSITIVE_INFINITY): Promise<number> {
  const thoughts = new Set<number>();
  const stop = new AbortController();
  try {
    const chunks = await graph.stream(input, { ...thread, signal: stop.signal });
    for await (const { payload } of chunks as AsyncIterable<ThoughtsChunk>) {
      if (payload.type === "thought:tokens") thoughts.add(payload.thought);
      if (thoughts.size >= limit) stop.abort();
    }
  } catch (error) {
    if (!stop.signal.aborted) throw error;
  }
  return thoughts.size;
}

console.log(`cut off after ${await generated({ digits: [...generateSorting(144, 7)] }, 30)} thoughts`);
console.log(`resumed: ${await generated(null)} more`);
console.log(`solved: ${(await graph.getState(thread)).values.solved}`);
