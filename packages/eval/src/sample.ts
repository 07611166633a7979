/** One search of an evaluation, as its log keeps it. */
import type { StopReason } from "@deftree/search";
import type { TaskName } from "@deftree/tasks";
import type { EvalMethod } from "./methods.js";
import type { StepRun } from "./width-meter.js";

/**
 * What a search may use, the same for each method: generated tokens, or time. Time that is `matched` is what the reference
 * method took for the most tokens, on the same item with the same seed.
 */
export type EvalBudget = { tokens: number } | { seconds: number | "matched" };

/** A task at a size; without a size the items are users' data. */
export interface EvalGroup {
  task: TaskName;
  size?: number;
}

/** What a sample is of. */
export interface EvalCase extends EvalGroup {
  item: number;
  seed: number;
  method: EvalMethod;
  budget: EvalBudget;
}

export interface EvalSample extends EvalCase {
  /** The task's error measure; its failure score where no answer can be read. */
  errors: number;
  solved: boolean;
  /** No answer that a program can read: `errors` is the failure score. */
  unreadable: boolean;
  answer: unknown;
  stopReason: StopReason;
  thoughts: number;
  generatedTokens: number;
  promptTokens: number;
  reusedTokens: number;
  kvBytesRead: number;
  kvBytesUnshared: number;
  elapsedMs: number;
  widths: readonly StepRun[];
}

/** A row that is no problem of its task. */
export interface UnreadableItem {
  item: number;
  row?: number;
  error: string;
}

export function budgetName(budget: EvalBudget): string {
  if ("tokens" in budget) return `${budget.tokens} tokens`;
  return budget.seconds === "matched" ? "equal time" : `${budget.seconds} s`;
}

export function groupName({ task, size }: EvalGroup): string {
  return size === undefined ? task : `${task} ${size}`;
}

/** Equal for the same case. */
export function caseKey({ task, size, item, seed, method, budget }: EvalCase): string {
  return JSON.stringify([task, size ?? null, item, seed, method, budgetName(budget)]);
}
