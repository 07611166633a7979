/**
 * An agent that calls a search as its tool, on a model that was never trained to call one: the call is forced while
 * decoding, so it names a tool and its arguments match the schema, whatever the model knows.
 *
 *   npx tsx --conditions @deftree/source examples/18-agent-with-a-tool.ts
 *
 * Prints the call that the agent made, what the tool answered, and the size of the tree that comes with the answer, on
 * `mini`.
 */
import { ChatDeftree, treeOfThoughtsTool } from "@deftree/langchain";
import { breadthFirst } from "@deftree/search";
import { generateSorting, sortingProblem } from "@deftree/tasks";
import { AIMessage, createAgent, createMiddleware, ToolMessage } from "langchain";
import { z } from "zod";

await using model = new ChatDeftree({ model: "mini" });
const lists = { short: generateSorting(64, 1), long: generateSorting(128, 6) };

const sort = treeOfThoughtsTool({
  name: "sort",
  description: "Sorts one of the lists",
  schema: z.object({ list: z.enum(["short", "long"]) }),
  model,
  problem: ({ list }) => sortingProblem(lists[list]),
  strategy: breadthFirst({ grow: "continue", width: 4, attempts: 32, depth: 17 }),
  seed: 1,
  returnDirect: true,
});

const forced = createMiddleware({
  name: "forced",
  wrapModelCall: (request, handler) => handler({ ...request, toolChoice: "required" }),
});
const agent = createAgent({ model, tools: [sort], middleware: [forced] });
const { messages } = await agent.invoke({ messages: [{ role: "user", content: "Sort a list." }] });

for (const message of messages) {
  if (AIMessage.isInstance(message)) {
    for (const { name, args } of message.tool_calls ?? []) console.log(`calls ${name}(${JSON.stringify(args)})`);
  }
  if (ToolMessage.isInstance(message)) {
    console.log(`the tool says: ${message.text}`);
    console.log(`its tree has ${message.artifact.tree.thoughts.length} thoughts`);
  }
}
