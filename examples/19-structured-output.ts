/**
 * Structured output that is enforced while decoding: the answer matches the schema whatever the model knows, at any
 * temperature, and is complete within its tokens.
 *
 *   npx tsx --conditions @deftree/source examples/19-structured-output.ts
 *
 * Prints the parsed answer, a text of a regular expression, and why a schema that cannot be enforced is refused, on `mini`.
 */
import { ChatDeftree } from "@deftree/langchain";
import { z } from "zod";

await using model = new ChatDeftree({ model: "mini", temperature: 1.5, seed: 1, maxTokens: 80 });

const Answer = z.object({
  sorted: z.array(z.number().int().min(0).max(9)).length(5),
  sure: z.enum(["yes", "no"]),
});
const answer = await model.withStructuredOutput(Answer).invoke("Input: [4, 1, 3, 2, 0]");
console.log(`parsed: ${JSON.stringify(answer)}`);

const { text } = await model.invoke("Input: [4, 1, 3]", { constraint: { regex: "\\[\\d(, \\d){2}\\]" } });
console.log(`by a regular expression: ${text}`);

try {
  model.withStructuredOutput({ type: "object", properties: { tags: { type: "array", uniqueItems: true } } });
} catch (error) {
  console.log(`refused: ${(error as Error).message}`);
}
