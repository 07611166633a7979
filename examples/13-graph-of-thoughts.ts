/**
 * Graph of Thoughts: a list is split, its parts are sorted apart, and sorted lists are merged two by two.
 *
 *   npx tsx --conditions @deftree/source examples/13-graph-of-thoughts.ts
 *
 * Prints each thought that joins two others, then the errors of the whole list, on `mini`.
 */
import { ChatDeftree, thoughtSearch } from "@deftree/langchain";
import { graphOfThoughts } from "@deftree/search";
import { generateSorting, sortingErrors, sortingProblem } from "@deftree/tasks";

await using model = new ChatDeftree({ model: "mini" });
const digits = generateSorting(64, 1);
const search = thoughtSearch({
  model,
  problem: () => sortingProblem(digits),
  strategy: graphOfThoughts({ parts: 4, solve: 3, merge: 5, improve: 0 }),
  seed: 1,
});

for await (const event of await search.stream(digits)) {
  if (event.type === "thought:started" && event.merged) {
    console.log(`thought ${event.thought} joins ${[event.parent, ...event.merged].join(" and ")}`);
  }
  if (event.type === "solution")
    console.log(`${sortingErrors(digits, event.answer)} errors in ${digits.length} digits`);
  if (event.type === "done") console.log(`${event.statistics.thoughts} thoughts in all`);
}
