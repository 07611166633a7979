/**
 * Document merging: four documents that overlap become one, by Graph of Thoughts. `mini` does not know this task.
 *
 *   npx tsx --conditions @deftree/source examples/12-document-merging.ts MODEL      # a folder, a .gguf file, org/name
 *
 * Prints the score of the merge and its text, on the model that you name; without one, why it was skipped.
 */
import { ChatDeftree, thoughtSearch } from "@deftree/langchain";
import { breadthFirst } from "@deftree/search";
import { documentMergingProblem, generateDocumentSet, markMerge, mergeScore } from "@deftree/tasks";

const name = process.argv[2];
if (name === undefined) {
  console.log("skipped: mini does not know document merging; name a model that does");
} else {
  await using model = new ChatDeftree({ model: name });
  const set = generateDocumentSet(1, { documents: 2, clauses: 6 });
  const search = thoughtSearch({
    model,
    problem: () => documentMergingProblem(set),
    strategy: breadthFirst({ grow: "reprompt", width: 3, depth: 2, sampling: { temperature: 0.8 } }),
    seed: 1,
  });
  const { answer, statistics } = await search.invoke(set);
  const score = mergeScore(markMerge(set.facts, answer ?? ""));
  console.log(`score ${score.toFixed(1)} of 10, by ${statistics.thoughts} thoughts`);
  console.log(`a merge of ${set.documents.length} documents by ${name}:\n${answer}`);
}
