/**
 * Write your own strategy: a few lines that propose, evaluate and select. This one samples whole answers in rounds and
 * lets a round be half as wide as the one before, until one answer is right.
 *
 *   npx tsx --conditions @deftree/source examples/05-own-strategy.ts
 *
 * Prints what each round brought and the best answer, on `mini`.
 */
import { ChatDeftree, thoughtSearch } from "@deftree/langchain";
import { bestOfN, type Strategy } from "@deftree/search";
import { formatList, generateSorting, sortingProblem } from "@deftree/tasks";

/** Best-of-n in rounds of n, n / 2, n / 4... answers. A strategy may run others; the run keeps its books. */
function halving(n: number): Strategy {
  return {
    name: `halving-${n}`,
    async run(run) {
      for (let total = n, round = n; round >= 1 && !run.stopped; round = Math.floor(round / 2), total += round) {
        await bestOfN({ n: total }).run(run);
      }
    },
  };
}

await using model = new ChatDeftree({ model: "mini" });
const digits = generateSorting(144, 9);
const search = thoughtSearch({ model, problem: () => sortingProblem(digits), strategy: halving(8), seed: 2 });

for await (const event of await search.stream(digits)) {
  if (event.type === "level:selected") console.log(`compared ${event.kept.length + event.dropped.length} answers`);
  if (event.type === "solution") console.log(`${event.solved ? "solved" : "best"}: ${formatList(event.answer)}`);
}
