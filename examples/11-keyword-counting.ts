/**
 * Keyword counting: Graph of Thoughts counts the countries of a passage in four parts and adds the counts up.
 *
 *   npx tsx --conditions @deftree/source examples/11-keyword-counting.ts
 *
 * Prints the counts and their errors, beside those of one answer to the whole passage, on `mini`.
 */
import { ChatDeftree, thoughtSearch } from "@deftree/langchain";
import { formatCounts, generatePassage, keywordCountingErrors, methodFor } from "@deftree/tasks";

await using model = new ChatDeftree({ model: "mini" });
const passage = generatePassage(1, { sentences: 16 });

for (const method of ["io", "got"] as const) {
  const { problem, strategy } = methodFor("keyword-counting", passage, method);
  const { answer } = await thoughtSearch({ model, problem: () => problem, strategy, seed: 1 }).invoke(passage);
  const counts = answer as typeof passage.counts;
  console.log(`${method}: ${keywordCountingErrors(passage.counts, counts)} errors: ${formatCounts(counts)}`);
}
