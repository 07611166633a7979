/**
 * The engine by hand: one prompt, eight branches that share its KV, decoded in the same steps; the unlikely ones are
 * pruned and their pages are free at once.
 *
 *   npx tsx --conditions @deftree/source examples/02-fork-and-prune.ts
 */
import { Engine } from "@deftree/engine";
import { generateSorting, sortingProblem } from "@deftree/tasks";

await using engine = await Engine.load("mini");
const root = engine.branch();
await root.extend(engine.encodeChat(sortingProblem(generateSorting(64, 1)).prompt()));

const branches = root.fork(8);
const drafts = await Promise.all(
  branches.map(async (branch) => {
    const { text, logprobs = [] } = await branch.decode({ maxTokens: 40, temperature: 1, seed: 7, logprobs: 0 });
    return { branch, text, logprob: logprobs.reduce((sum, value) => sum + value, 0) };
  }),
);
const stats = engine.stats();
console.log(`8 branches of ${root.length} shared tokens: ${stats.tokensInForest} tokens stored`);
console.log(`KV read: ${stats.kvBytesRead} bytes; without sharing it would be ${stats.kvBytesUnshared}`);

drafts.sort((a, b) => b.logprob - a.logprob);
for (const { branch } of drafts.slice(1)) branch.prune({ keepCached: false });
const [best] = drafts;
const rest = await best!.branch.decode({ maxTokens: 120 });
console.log(`likeliest beginning (log-probability ${best!.logprob.toFixed(2)}), continued greedily:`);
console.log(best!.text + rest.text);
