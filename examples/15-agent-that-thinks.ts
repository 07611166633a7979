/**
 * An agent that thinks by tree search before it answers. Its messages show the answer alone; the thoughts are a stream of
 * their own.
 *
 *   npx tsx --conditions @deftree/source examples/15-agent-that-thinks.ts
 *
 * Prints what an agent without and one with the middleware answer, and what the search did, on `mini`.
 */
import { ChatDeftree } from "@deftree/langchain";
import { treeOfThoughtsMiddleware } from "@deftree/langchain/agent";
import { breadthFirst } from "@deftree/search";
import { formatList, generateSorting, readNumberList, sortedCopy, sortingProblem } from "@deftree/tasks";
import { createAgent } from "langchain";

await using model = new ChatDeftree({ model: "mini" });
const digits = generateSorting(144, 7);
const messages = [{ role: "user", content: sortingProblem(digits).prompt()[0]!.content }];

const hasty = createAgent({ model, tools: [] });
const thoughtful = createAgent({
  model,
  tools: [],
  middleware: [
    treeOfThoughtsMiddleware({
      // What to search for: the list in the user's message, sorted. Undefined where there is none: the model just answers.
      problem: ({ messages }) => {
        const { numbers } = readNumberList(messages.at(-1)!.text);
        return numbers && sortingProblem(numbers);
      },
      strategy: breadthFirst({ grow: "continue", width: 4, attempts: 32, depth: 19 }),
      seed: 1,
      resultAs: "answer",
    }),
  ],
});

const right = formatList(sortedCopy(digits));
const verdict = (answer: string) => (answer === right ? "right" : "wrong");

const first = await hasty.invoke({ messages });
console.log(`without thinking: ${verdict(first.messages.at(-1)!.text)}`);

const run = await thoughtful.streamEvents({ messages }, { version: "v3" });
let pruned = 0;
const watch = async () => {
  for await (const event of run.extensions.thoughts) {
    if (event.type === "thought:pruned") pruned++;
    if (event.type === "done") console.log(`thought ${event.statistics.thoughts} thoughts, ${pruned} of them pruned`);
  }
};
const read = async () => {
  for await (const message of run.messages) console.log(`after thinking: ${verdict(await message.text)}`);
};
await Promise.all([watch(), read()]);
