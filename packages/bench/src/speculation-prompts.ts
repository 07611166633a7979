/** What `bench speculation` decodes: prompts whose answers repeat most of them, and prompts whose answers repeat little. */
import type { ChatTurn } from "@deftree/engine";
import {
  documentMergingProblem,
  generateDocumentSet,
  generateSorting,
  type NumberListState,
  sortedCopy,
  sortingProblem,
} from "@deftree/tasks";
import { manyTokens } from "./replay.js";

/** Prompts that are measured together. */
export interface SpeculationWorkload {
  name: string;
  /** Instead of the user's temperature. */
  temperature?: number;
  /** For a model with a tokenizer. */
  prompts: readonly (readonly ChatTurn[])[];
}

const user = (content: string): ChatTurn[] => [{ role: "user", content }];

const article =
  "The harbour of Lindmouth was built in 1874, when the old quay had become to small for the steam ships. It has two " +
  "basins, a dry dock and a light house. The larger basin takes ships of up to 180 metres, the smaler one is used by " +
  "fishing boats. In 1931 a storm destroyed the light house, and a new one was build of concrete two years later. " +
  "Today the harbour handels timber, paper and salt, and a ferry leaves for the islands every morning at seven.";

const letter =
  "Dear members, the garden society meets on Saturday, 14 May, at three o'clock in the community hall. We will talk about " +
  "the new compost place, the water pipes along the northern path, and the summer fair. Please bring a chair and a cup. " +
  "Whoever wants to grow tomatoes this year can take seedlings home. With kind regards, the board of the garden society.";

const program = `def total_price(items, rate):
    total = 0
    for item in items:
        price = item["price"] * item["count"]
        if item["reduced"]:
            price = price * 0.9
        total = total + price
    return total + total * rate


def print_bill(items, rate):
    for item in items:
        print(item["name"], item["count"], item["price"])
    print("total", total_price(items, rate))
`;

const module = `export function parseRange(text: string): [number, number] {
  const parts = text.split("-");
  if (parts.length !== 2) throw new Error("a range is written as first-last");
  const first = Number(parts[0]);
  const last = Number(parts[1]);
  if (Number.isNaN(first) || Number.isNaN(last)) throw new Error("a range has two numbers");
  return first <= last ? [first, last] : [last, first];
}

export function formatRange(range: [number, number]): string {
  return range[0] + "-" + range[1];
}
`;

const fenced = (code: string) => `\n\n\`\`\`\n${code}\`\`\``;

const questions = [
  "What is the difference between weather and climate? Explain it to a child.",
  "I have eggs, potatoes and an onion at home. What can I cook for dinner?",
  "Write a short story about a lighthouse keeper who finds a letter in a bottle.",
  "Why is the sky blue, and why is it red in the evening?",
  "Give me five tips for learning a new language while working full time.",
  "How does a bicycle stay upright when it is moving?",
  "Name three famous bridges and tell me something about each of them.",
  "My friend is moving to another city. What could I write on a farewell card?",
];

/** In the order from the answers that repeat most to those that repeat nothing. */
export function textWorkloads(): SpeculationWorkload[] {
  const chat = questions.map(user);
  return [
    { name: "improve", prompts: Array.from({ length: 8 }, (_, seed) => improveList(64, seed)) },
    { name: "merge", prompts: Array.from({ length: 4 }, (_, seed) => improveMerge(seed)) },
    {
      name: "copy",
      prompts: [
        user(`Repeat the following text word by word, with nothing added.\n\n${letter}`),
        user(`Correct the spelling of this text and change nothing else. Answer with the text only.\n\n${article}`),
        user(`Write this text again with the date changed to Sunday, 22 May.\n\n${letter}`),
        user(`Write this text again and replace Lindmouth by Seaford everywhere.\n\n${article}`),
      ],
    },
    {
      name: "code-edit",
      prompts: [
        user(`Rename the variable rate to tax_rate. Answer with the whole program.${fenced(program)}`),
        user(`Add a comment above each function. Answer with the whole program.${fenced(program)}`),
        user(`Rename parseRange to readRange. Answer with the whole module.${fenced(module)}`),
        user(`Change the separator from "-" to ":". Answer with the whole module.${fenced(module)}`),
      ],
    },
    { name: "chat", prompts: chat },
    { name: "random-text", temperature: 3, prompts: chat },
  ];
}

/** Names for help texts. */
export const speculationWorkloadNames: readonly string[] = textWorkloads().map(({ name }) => name);

/** A sorted list in which one digit is missing and one stands twice, to be corrected. */
function improveList(length: number, seed: number): ChatTurn[] {
  const input = generateSorting(length, seed);
  const problem = sortingProblem(input);
  const numbers = sortedCopy(input);
  numbers.splice(seed % length, 1);
  numbers.splice((seed + 20) % length, 0, numbers[(seed + 20) % length]!);
  const state: NumberListState = { numbers, complete: true };
  return (problem.improvePrompt?.(state) ?? problem.prompt()).map(({ role, content }) => ({ role, content }));
}

/** Two short agreements and a first attempt to merge them, to be improved. */
function improveMerge(seed: number): ChatTurn[] {
  const set = generateDocumentSet(seed, { documents: 2, clausesPerDocument: 4, clauses: 6 });
  const problem = documentMergingProblem(set);
  const merged = set.documents.join("\n");
  const prompt = problem.improvePrompt?.({ merged, complete: true }) ?? problem.prompt();
  return prompt.map(({ role, content }) => ({ role, content }));
}

/** Token ids for a model without text: they say what a step costs, not what speculation gains on text. */
export interface TokenWorkload {
  name: string;
  temperature?: number;
  prompts: readonly (readonly number[])[];
}

const numTokenPrompts = 4;
const tokenPromptLen = 128;

export function tokenWorkloads(vocabSize: number): TokenWorkload[] {
  const seeds = Array.from({ length: numTokenPrompts }, (_, seed) => seed);
  const repeated = (seed: number) => {
    const line = manyTokens(16, seed, vocabSize);
    return Array.from({ length: tokenPromptLen }, (_, i) => line[i % line.length]!);
  };
  return [
    { name: "repeated-tokens", prompts: seeds.map(repeated) },
    {
      name: "random-tokens",
      temperature: 1,
      prompts: seeds.map((seed) => manyTokens(tokenPromptLen, seed, vocabSize)),
    },
  ];
}
