/**
 * A chat model like any other of LangChain.js: invoke, stream, batch. The second and third question share the first
 * one's beginning, so their prompts are mostly found in the forest.
 *
 *   npx tsx --conditions @deftree/source examples/01-chat.ts
 */
import { ChatDeftree } from "@deftree/langchain";
import { formatList, generateSorting, sortingProblem } from "@deftree/tasks";

await using chat = new ChatDeftree({ model: "mini" });
const question = (seed: number) => sortingProblem(generateSorting(16, seed)).prompt()[0]!.content;

const answer = await chat.invoke(question(1));
console.log(`sorted: ${answer.text}`);

process.stdout.write("streamed: ");
for await (const chunk of await chat.stream(question(2))) process.stdout.write(chunk.text);

const answers = await chat.batch([question(3), question(4)]);
for (const [i, { text, usage_metadata: usage }] of answers.entries()) {
  const reused = usage?.input_token_details?.cache_read;
  console.log(`\n${formatList(generateSorting(16, 3 + i))} -> ${text}`);
  console.log(`${usage?.input_tokens} prompt tokens, ${reused} of them reused`);
}
