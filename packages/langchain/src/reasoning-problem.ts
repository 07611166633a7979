import {
  bestOfN,
  breadthFirst,
  choiceLogprobs,
  type Evaluator,
  llmValue,
  type Problem,
  type PromptMessage,
  type Strategy,
} from "@deftree/search";
import type { BaseMessage } from "@langchain/core/messages";

/** What was thought so far. */
export interface ReasoningState {
  text: string;
  /** Nothing can follow. */
  isWhole: boolean;
}

export interface ReasoningOptions {
  /** What the model may call afterwards, for notes on which to call. */
  tools?: readonly { name?: unknown; description?: unknown }[];
  /** Lines at most; 4 by default. */
  steps?: number;
  /** Tokens of a line at most; 64 by default. */
  stepTokens?: number;
}

/**
 * Thinking about a conversation: what is searched are notes that help with its next message, a line a step. No program can
 * say what they are worth, so a model does, by whether they are right and help: `choiceLogprobs` reads it from a model's
 * log-probabilities, `llmValue` from its verdicts.
 */
export function reasoningProblem(
  messages: readonly BaseMessage[],
  { tools = [], steps = 4, stepTokens = 64 }: ReasoningOptions = {},
): Problem<ReasoningState, string> {
  const conversation = messages.map(toPromptMessage);
  const request = messages.findLast(({ type }) => type === "human")?.text ?? "";
  return {
    name: "reasoning",
    initial: { text: "", isWhole: false },
    prompt: () => [...conversation, { role: "user", content: thinkFirst + describe(tools) }],
    thought: { stop: ["\n"], maxTokens: stepTokens },
    answerMaxTokens: steps * stepTokens,
    readPartial: (text, ended) => ({ text, isWhole: ended || text.split("\n").length > steps }),
    readAnswer: (text) => ({ text, isWhole: true }),
    score: () => 0,
    isComplete: ({ isWhole }) => isWhole,
    isSolved: () => false,
    answer: ({ text }) => text.trim(),
    value: {
      prompt: ({ text }) => [{ role: "user", content: askValue(request, text) }],
      read: (text) => (/^\W*yes\b/i.test(text) ? [1] : /^\W*no\b/i.test(text) ? [0] : undefined),
      choices: { Yes: 1, No: 0 },
      failureScore: 0,
    },
  };
}

const thinkFirst =
  "Before you go on, think about how to do it best: what is asked, what is known, what to do next. " +
  "Write short notes for yourself, one a line, and nothing else.";

function describe(tools: NonNullable<ReasoningOptions["tools"]>): string {
  if (tools.length === 0) return "";
  const lines = tools.map(({ name, description = "" }) => `- ${name}: ${description}`);
  return ["\nAfterwards you may call one of these tools; note which, if any, and with what:", ...lines].join("\n");
}

function askValue(request: string, notes: string): string {
  return (
    `Somebody was asked:\n${request}\n\nTheir notes so far:\n${notes.trim()}\n\n` +
    "Are the notes right, and do they help? Answer Yes or No."
  );
}

/** Calls and answers of tools in words, since a search's prompt has no place for them. */
function toPromptMessage(message: BaseMessage): PromptMessage {
  const { type, text } = message;
  if (type === "system" || type === "developer") return { role: "system", content: text };
  if (type === "tool" || type === "function") return { role: "user", content: `The tool answered: ${text}` };
  if (type !== "ai") return { role: "user", content: text };
  const { tool_calls: calls = [] } = message as { tool_calls?: { name: string; args: unknown }[] };
  const called = calls.map(({ name, args }) => `I call ${name} with ${JSON.stringify(args)}.`);
  return { role: "assistant", content: [text, ...called].filter((part) => part !== "").join("\n") };
}

/**
 * How to think about a conversation. On an engine step by step, each valued by log-probabilities, for which nothing is
 * generated; with other chat models, many of which neither continue a message nor tell log-probabilities, by whole notes.
 */
export function reasoningSettings(onEngine: boolean): { strategy: Strategy; evaluate: Evaluator } {
  return onEngine
    ? { strategy: breadthFirst({ grow: "continue", width: 4, keep: 2, depth: 4 }), evaluate: choiceLogprobs() }
    : { strategy: bestOfN({ n: 4 }), evaluate: llmValue({ samples: 1, maxTokens: 8 }) };
}
