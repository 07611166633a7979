/**
 * A search while it runs: thoughts appear token by token, are scored and pruned, and the rest decodes on.
 *
 *   npx tsx --conditions @deftree/source examples/08-live-events.ts
 *
 * Prints the first events as they come and a count of each kind at the end, on `mini`.
 */
import { ChatDeftree, treeOfThoughts } from "@deftree/langchain";
import { breadthFirst } from "@deftree/search";
import { generateSorting, sortingProblem } from "@deftree/tasks";

await using model = new ChatDeftree({ model: "mini" });
const search = treeOfThoughts({
  model,
  problem: (digits: readonly number[]) => sortingProblem(digits),
  strategy: breadthFirst({ grow: "continue", width: 4, depth: 17 }),
  seed: 1,
});

const counts = new Map<string, number>();
for await (const event of await search.stream(generateSorting(64, 3))) {
  const seen = (counts.get(event.type) ?? 0) + 1;
  counts.set(event.type, seen);
  if (seen > 2) continue;
  if (event.type === "thought:started") console.log(`thought ${event.thought} grows from ${event.parent}`);
  if (event.type === "thought:tokens") console.log(`thought ${event.thought} says ${JSON.stringify(event.text)}`);
  if (event.type === "thought:scored") console.log(`thought ${event.thought} scores ${event.score}`);
}
console.log([...counts].map(([type, count]) => `${count} ${type}`).join(", "));
