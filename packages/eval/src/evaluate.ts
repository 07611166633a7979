/** Every method on the same problems, with the same tokens and in the same time. */
import { type Budget, type SearchStatistics, search, type ThoughtModel } from "@deftree/search";
import { type AnyTask, answerErrors, TASKS, type TaskName } from "@deftree/tasks";
import type { EvalLog } from "./eval-log.js";
import { type ContinuedTree, type EvalMethod, evalMethod, referenceMethod } from "./methods.js";
import { type EvalBudget, type EvalCase, type EvalGroup, type EvalSample, groupName } from "./sample.js";
import { type StepCounters, WidthMeter } from "./width-meter.js";

/** Items count from 1. */
export interface EvalItem {
  item: number;
  input: unknown;
}

export interface EvalPart extends EvalGroup {
  items: readonly EvalItem[];
  methods: readonly EvalMethod[];
  /** Tokens first, the least first: time may be matched to what the most of them took. */
  budgets: readonly EvalBudget[];
}

export interface EvaluateOptions {
  parts: readonly EvalPart[];
  /** Seeds 1 to this. */
  seeds: number;
  model: ThoughtModel;
  tree: ContinuedTree;
  /** KV that a search may hold at one time: it grows narrower rather than fail. */
  kvBytes?: number;
  /** Of a model that counts its steps. */
  counters?(): StepCounters;
  /** Gets every sample; those that it has already are not made again. */
  log: EvalLog;
  signal?: AbortSignal;
  onSample?(sample: EvalSample): void;
  onFail?(failed: EvalCase, error: string): void;
}

/** So many problems one after the other on which every search fails, and the model is beyond help. */
const mostFailedItems = 3;

/**
 * Runs what the log does not have yet, item by item, so that what there is at any moment is fair to all methods. Ends early,
 * without an error, when `signal` aborts. A search that fails is logged and left out.
 * @throws what a search failed with when all did on the third problem in a row.
 */
export async function evaluate(options: EvaluateOptions): Promise<void> {
  const { log, signal } = options;
  const failed = new Set<string>();
  for (const { part, item, wanted } of casesOf(options)) {
    if (signal?.aborted) return;
    log.checkItem(groupName(part), item.item, item.input);
    if (log.sampleOf(wanted) !== undefined) continue;
    const budget = searchBudget(wanted, part, log);
    if (budget === undefined) continue;
    try {
      const sample = await runCase(options, item.input, wanted, budget);
      if (sample === undefined) return;
      log.add(sample);
      options.onSample?.(sample);
      failed.clear();
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      log.fail(wanted, message);
      options.onFail?.(wanted, message);
      failed.add(`${groupName(part)} ${item.item}`);
      if (failed.size === mostFailedItems) throw error;
    }
  }
}

/** How many searches an evaluation is. */
export function countCases({ parts, seeds }: Pick<EvaluateOptions, "parts" | "seeds">): number {
  return parts.reduce(
    (sum, { items, methods, budgets }) => sum + items.length * methods.length * budgets.length * seeds,
    0,
  );
}

function* casesOf({ parts, seeds }: Pick<EvaluateOptions, "parts" | "seeds">) {
  const most = Math.max(0, ...parts.map(({ items }) => items.length));
  for (let index = 0; index < most; index++) {
    for (const part of parts) {
      const item = part.items[index];
      if (item === undefined) continue;
      const { task, size } = part;
      for (let seed = 1; seed <= seeds; seed++) {
        for (const budget of part.budgets) {
          for (const method of part.methods) {
            yield { part, item, wanted: { task, size, item: item.item, seed, method, budget } };
          }
        }
      }
    }
  }
}

/** Undefined for a time to be matched to a search that failed. */
function searchBudget({ budget, ...wanted }: EvalCase, part: EvalPart, log: EvalLog): Budget | undefined {
  if ("tokens" in budget) return { tokens: budget.tokens };
  if (budget.seconds !== "matched") return { timeMs: budget.seconds * 1000 };
  const most = part.budgets.findLast((other) => "tokens" in other);
  const reference = most && log.sampleOf({ ...wanted, method: referenceMethod, budget: most });
  return reference && { timeMs: reference.elapsedMs };
}

/** Undefined when the signal ended it. */
async function runCase(
  { model, tree, kvBytes, counters, signal }: EvaluateOptions,
  input: unknown,
  wanted: EvalCase,
  budget: Budget,
): Promise<EvalSample | undefined> {
  const task: AnyTask = TASKS[wanted.task];
  const { problem, strategy } = evalMethod(wanted.task, input, wanted.method, tree);
  const meter = counters && new WidthMeter(counters);
  const running = search(problem, strategy, model, { seed: wanted.seed, budget: { ...budget, kvBytes }, signal });
  for await (const event of running) if (event.type === "thought:tokens") meter?.look();
  meter?.look();
  const { best, answer, statistics, stopReason } = await running;
  if (stopReason === "aborted") return undefined;
  const errors = answerErrors(task, input, problem, best?.state);
  const unreadable = errors === task.errors(input, undefined);
  const widths = meter?.runs ?? [];
  return { ...wanted, errors, solved: errors === 0, unreadable, answer, stopReason, ...kept(statistics), widths };
}

function kept(statistics: SearchStatistics) {
  const { thoughts, generatedTokens, promptTokens, reusedTokens, kvBytesRead, kvBytesUnshared, elapsedMs } = statistics;
  return { thoughts, generatedTokens, promptTokens, reusedTokens, kvBytesRead, kvBytesUnshared, elapsedMs };
}

/**
 * Budgets of 1, 4 and 16 whole answers to the longest of the problems, and the time of the last.
 */
export function defaultBudgets(task: TaskName, items: readonly EvalItem[]): EvalBudget[] {
  const whole = Math.max(1, ...items.map(({ input }) => TASKS[task].problem(input).answerMaxTokens));
  return [{ tokens: whole }, { tokens: 4 * whole }, { tokens: 16 * whole }, { seconds: "matched" }];
}
