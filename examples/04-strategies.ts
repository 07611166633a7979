/**
 * One problem, five strategies: what each finds, and what it costs. `thoughtSearch` runs any of them as a Runnable.
 *
 *   npx tsx --conditions @deftree/source examples/04-strategies.ts
 *
 * Prints a line for each strategy, on `mini`: solved or not, thoughts, generated tokens.
 */
import { ChatDeftree, thoughtSearch } from "@deftree/langchain";
import { bestOfN, breadthFirst, depthFirst, monteCarlo, selfConsistency } from "@deftree/search";
import { generateSorting, sortingProblem } from "@deftree/tasks";

await using model = new ChatDeftree({ model: "mini" });
const digits = generateSorting(144, 9);

for (const strategy of [
  bestOfN({ n: 8 }),
  selfConsistency({ n: 8 }),
  breadthFirst({ grow: "continue", width: 4, depth: 19 }),
  depthFirst({ width: 3, depth: 19 }),
  monteCarlo({ iterations: 8, width: 3, depth: 19 }),
]) {
  const search = thoughtSearch({ model, problem: () => sortingProblem(digits), strategy, seed: 1 });
  const { solved, statistics } = await search.invoke(digits);
  console.log(
    `${strategy.name}: ${solved ? "solved" : "not solved"}, ${statistics.thoughts} thoughts, ` +
      `${statistics.generatedTokens} tokens`,
  );
}
