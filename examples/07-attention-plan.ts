/**
 * What tree attention does in one step: the work items of a prompt with three thoughts, by three policies.
 *
 *   npx tsx --conditions @deftree/source examples/07-attention-plan.ts
 *
 * Prints for each policy its items (KV tokens x queries) and how many KV tokens a layer reads. No model.
 */
import { type AttentionPolicy, planAttention } from "@deftree/engine";

const tree = {
  nodes: [
    { parent: -1, len: 1024 }, // the prompt
    { parent: 0, len: 64 }, // three thoughts below it
    { parent: 0, len: 96 },
    { parent: 0, len: 32 },
  ],
  queries: [1, 2, 3],
};

for (const policy of ["deft-flatten", "deft-node", "radix"] satisfies AttentionPolicy[]) {
  const { items, kvTokensRead, kvTokensUnshared } = planAttention(tree, { policy, numProcessors: 4 });
  const work = items.map(({ kvLen, queries }) => `${kvLen} x ${queries.length}`).join(", ");
  console.log(`${policy}: ${work}; reads ${kvTokensRead} KV tokens, unshared ${kvTokensUnshared}`);
}
