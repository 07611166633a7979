/**
 * Tree of Thoughts as a LangChain Runnable: watch the levels of one search, then use its result.
 *
 *   npx tsx --conditions @deftree/source examples/03-tree-of-thoughts.ts
 */
import { ChatDeftree, treeOfThoughts } from "@deftree/langchain";
import { breadthFirst } from "@deftree/search";
import { formatList, generateSorting, sortingProblem } from "@deftree/tasks";

await using model = new ChatDeftree({ model: "mini" });
const tot = treeOfThoughts({
  model,
  problem: (digits: readonly number[]) => sortingProblem(digits),
  strategy: breadthFirst({ grow: "continue", width: 4, attempts: 32, depth: 19 }),
  budget: { tokens: 5000 },
  seed: 1,
});

const digits = generateSorting(144, 2);
for await (const event of await tot.stream(digits)) {
  if (event.type === "level:selected") console.log(`level ${event.depth}: kept ${event.kept.length}`);
  if (event.type === "solution") console.log(`${event.solved ? "solved" : "best"}: ${formatList(event.answer)}`);
  if (event.type === "done") {
    const { thoughts, generatedTokens, kvBytesRead, kvBytesUnshared } = event.statistics;
    console.log(`${thoughts} thoughts, ${generatedTokens} tokens, KV read ${kvBytesRead} of ${kvBytesUnshared} bytes`);
  }
}
