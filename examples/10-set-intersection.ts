/**
 * Set intersection: Tree of Thoughts grows the answer eight numbers at a time, and cuts what can not become right.
 *
 *   npx tsx --conditions @deftree/source examples/10-set-intersection.ts
 *
 * Prints the intersection that it found, the errors in it, and what that took, on `mini`.
 */
import { ChatDeftree, thoughtSearch } from "@deftree/langchain";
import { breadthFirst } from "@deftree/search";
import {
  formatList,
  generateSetPair,
  intersectionOf,
  type SetPair,
  setIntersectionErrors,
  setIntersectionProblem,
} from "@deftree/tasks";

await using model = new ChatDeftree({ model: "mini" });
const search = thoughtSearch({
  model,
  problem: (pair: SetPair) => setIntersectionProblem(pair),
  strategy: breadthFirst({ grow: "continue", width: 6, depth: 8 }),
  seed: 1,
});

const pair = generateSetPair(32, 1);
const { answer, statistics } = await search.invoke(pair);
const errors = answer ? setIntersectionErrors(intersectionOf(pair), answer) : pair.first.length;
console.log(`found: ${formatList(answer ?? [])}`);
console.log(`${errors} errors, ${statistics.thoughts} thoughts, ${statistics.generatedTokens} tokens`);
