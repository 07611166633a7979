/**
 * The same search over a model behind a server that speaks OpenAI's protocol (vLLM, SGLang, llama.cpp).
 *
 *   DEFTREE_SERVER_URL=http://127.0.0.1:8000/v1 npx tsx --conditions @deftree/source examples/14-remote-server.ts
 *
 * Prints the answer and what it took, on the server's model; without a server, why it was skipped.
 */
import { treeOfThoughts } from "@deftree/langchain";
import { breadthFirst } from "@deftree/search";
import { formatList, generateSorting, sortingProblem } from "@deftree/tasks";
import { ChatOpenAI } from "@langchain/openai";

const baseURL = process.env.DEFTREE_SERVER_URL;
if (baseURL === undefined) {
  console.log("skipped: DEFTREE_SERVER_URL names no server");
} else {
  const model = new ChatOpenAI({
    model: process.env.DEFTREE_SERVER_MODEL ?? "default",
    apiKey: process.env.DEFTREE_SERVER_KEY ?? "none",
    configuration: { baseURL },
  });
  const search = treeOfThoughts({
    model,
    problem: (digits: readonly number[]) => sortingProblem(digits, { fewShot: 2 }),
    strategy: breadthFirst({ grow: "continue", width: 4, depth: 4 }),
    seed: 1,
  });
  const { answer, solved, statistics } = await search.invoke(generateSorting(16, 1));
  console.log(`${solved ? "solved" : "best"}: ${formatList(answer ?? [])}`);
  console.log(`${statistics.thoughts} thoughts, ${statistics.generatedTokens} tokens`);
}
