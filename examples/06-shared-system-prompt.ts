/**
 * Eight workers with one long system prompt, all at once: the prompt is computed and stored once, and read once per step.
 *
 *   npx tsx --conditions @deftree/source examples/06-shared-system-prompt.ts
 *
 * Prints how many of the workers' prompt tokens were computed, on `mini`.
 */
import { ChatDeftree } from "@deftree/langchain";
import { formatList, generateSorting } from "@deftree/tasks";

await using model = new ChatDeftree({ model: "mini", maxTokens: 40 });
const rules = Array.from({ length: 40 }, (_, i) => `Rule ${i + 1}: keep every repetition.`).join("\n");

const engine = await model.engine();
const before = engine.stats().prefilledTokens;
const answers = await model.batch(
  Array.from({ length: 8 }, (_, worker) => [
    { role: "system", content: rules },
    { role: "user", content: `Input: ${formatList(generateSorting(8, worker))}` },
  ]),
);
const asked = answers.reduce((sum, { usage_metadata }) => sum + (usage_metadata?.input_tokens ?? 0), 0);
console.log(
  `${answers.length} workers asked with ${asked} prompt tokens; ${engine.stats().prefilledTokens - before} were computed`,
);
