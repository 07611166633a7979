/** What is compared: the paper's methods, the tree that continues one answer, and sampling whole answers. */
import { bestOfN, breadthFirst, type Strategy, selfConsistency } from "@deftree/search";
import { type Method, type MethodName, methodFor, methodNames, TASKS, type TaskName } from "@deftree/tasks";

/** `:continue`: thoughts are parts of one answer, grown on in place, instead of whole answers improved by new prompts. */
export type EvalMethod = MethodName | "tot:continue" | "best-of-n" | "self-consistency";

/** Samples whole answers for as long as a budget lasts, and nobody tells it that one is right: it spends all it may. */
export const referenceMethod = "self-consistency" satisfies EvalMethod;

/** Every method that a task has. */
export function evalMethods(task: TaskName): EvalMethod[] {
  const [io, cot, ...graphs] = methodNames(task);
  return [io!, cot!, "best-of-n", referenceMethod, "tot:continue", ...graphs];
}

/** Of `tot:continue`. */
export interface ContinuedTree {
  /** Living thoughts at each level. */
  width: number;
  /** Thoughts kept at each level. */
  keep: number;
}

/** Answers that are sampled side by side: few rounds are lost where time ends in the middle of one. */
const sampledWidth = 8;

/**
 * The problem of an instance and the strategy that `method` is on it. Methods end at a right answer where the problem's
 * program may say so, which costs no method a right answer and saves the evaluation time. A tree or graph that ends without
 * one begins anew while its budget lasts, so that all methods but io and cot may use as much. The continued tree narrows its
 * levels to what a budget of tokens leaves.
 * @throws RangeError when the task has no such method.
 */
export function evalMethod(task: TaskName, instance: unknown, method: EvalMethod, tree: ContinuedTree): Method {
  const sampled = { n: Number.POSITIVE_INFINITY, width: sampledWidth };
  switch (method) {
    case "best-of-n":
      return { problem: TASKS[task].problem(instance), strategy: bestOfN(sampled) };
    case "self-consistency":
      return { problem: TASKS[task].problem(instance), strategy: selfConsistency(sampled) };
    case "tot:continue":
      return continuedTree(TASKS[task].problem(instance), tree);
    case "io":
    case "cot":
      return methodFor(task, instance, method);
    default: {
      const { problem, strategy } = methodFor(task, instance, method, { stopWhenSolved: true });
      return { problem, strategy: untilSpent(strategy) };
    }
  }
}

/** Begins anew, with other random numbers, while the budget lasts and nothing is solved. */
function untilSpent(strategy: Strategy): Strategy {
  return {
    ...strategy,
    async run(run) {
      let before: number;
      do {
        before = run.thoughts;
        await strategy.run(run);
      } while (!run.stopped && !run.solved && run.thoughts > before);
    },
  };
}

function continuedTree(problem: Method["problem"], { width, keep }: ContinuedTree): Method {
  const depth = 1 + Math.ceil(problem.answerMaxTokens / problem.thought.maxTokens);
  const shape = { grow: "continue", width, keep, depth, attempts: 4 * width, adaptWidth: true } as const;
  return { problem, strategy: untilSpent(breadthFirst(shape)) };
}
