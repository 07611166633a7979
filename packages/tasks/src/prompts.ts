/** The form that the tasks' prompts share. */
import type { PromptMessage } from "@deftree/search";

/** One user message: what to do, worked examples if there are any, and what to do it with. */
export function promptWithExamples(
  instruction: string,
  examples: readonly string[],
  question: string,
): PromptMessage[] {
  const shown = examples.length === 0 ? [] : ["\nExamples\n", ...examples, "Your turn\n"];
  return [{ role: "user", content: [instruction, ...shown, question].join("") }];
}
