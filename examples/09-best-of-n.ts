/**
 * Eight answers to one question, and the best of them: `n` samples share the prompt and decode in the same steps.
 *
 *   npx tsx --conditions @deftree/source examples/09-best-of-n.ts
 *
 * Prints each sample's errors and the best answer, on `mini`.
 */
import { ChatDeftree } from "@deftree/langchain";
import { generateSorting, sortingErrors, sortingProblem } from "@deftree/tasks";

await using model = new ChatDeftree({ model: "mini", temperature: 1, seed: 1, n: 8 });
const digits = generateSorting(64, 5);
const problem = sortingProblem(digits);

const { generations } = await model.generate([problem.prompt().map(({ role, content }) => ({ role, content }))]);
const answers = generations[0]!.map(({ text }) => problem.answer(problem.readAnswer(text)));
const errors = answers.map((answer) => (answer ? sortingErrors(digits, answer) : digits.length));
const best = errors.indexOf(Math.min(...errors));
console.log(`errors of ${errors.length} samples: ${errors.join(", ")}`);
console.log(`best, with ${errors[best]}: ${answers[best]}`);
