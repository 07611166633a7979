/**
 * The methods of Graph of Thoughts (Besta et al., AAAI 2024) with their parameters for each task and size, as its published
 * programs have them (spcl/graph-of-thoughts, examples/): one answer (io), one with steps before it (cot), a wide tree
 * (tot), a deep one (tot2), and graphs (got).
 */
import {
  bestOfN,
  breadthFirst,
  type GraphOfThoughtsOptions,
  graphOfThoughts,
  type Problem,
  type Strategy,
  type StrategyOptions,
  type StrategySampling,
} from "@deftree/search";
import { type AnyTask, TASKS, type TaskName, type TaskOptions } from "./task.js";

export type MethodName = "io" | "cot" | "tot" | "tot2" | "got" | "got2" | "got8" | "gotx";

interface TreeParameters {
  /** Answers sampled at each level; the best one is kept. */
  width: number;
  levels: number;
}

type GraphParameters = Required<Omit<GraphOfThoughtsOptions, keyof StrategyOptions>>;

export interface MethodParameters {
  tot: TreeParameters;
  tot2?: TreeParameters;
  got?: GraphParameters;
  /** Further graphs: of keyword counting in 8 parts, and in a part for each sentence; of document merging in halves. */
  got2?: GraphParameters;
  got8?: GraphParameters;
  gotx?: GraphParameters;
}

const graph = (parts: number, solve: number, merge: number, improve = 0, improveLast = improve): GraphParameters => ({
  ...{ parts, solve, merge, improve, improveLast },
  join: 1,
});

/**
 * By task and size; a size between two has the larger one's. Parts of Infinity: as many as the problem can be split into.
 * Few-shot prompting is no task of that paper; its trees have DeFT's width of 20.
 */
export const METHODS: Readonly<Record<TaskName, Readonly<Record<number, MethodParameters>>>> = {
  sorting: {
    32: { tot: { width: 20, levels: 2 }, tot2: { width: 10, levels: 3 }, got: graph(2, 5, 10, 10) },
    64: { tot: { width: 20, levels: 4 }, tot2: { width: 10, levels: 7 }, got: graph(4, 5, 10, 5, 10) },
    128: { tot: { width: 20, levels: 4 }, tot2: { width: 10, levels: 10 }, got: graph(8, 5, 10, 5, 10) },
  },
  "set-intersection": {
    32: { tot: { width: 20, levels: 2 }, tot2: { width: 10, levels: 3 }, got: graph(2, 5, 10) },
    64: { tot: { width: 20, levels: 4 }, tot2: { width: 10, levels: 7 }, got: graph(4, 5, 10) },
    128: { tot: { width: 25, levels: 4 }, tot2: { width: 10, levels: 9 }, got: graph(8, 5, 5) },
  },
  "keyword-counting": {
    // Up to three tries repair what was joined wrongly: one after the other in the paper, side by side here.
    16: {
      tot: { width: 20, levels: 4 },
      tot2: { width: 10, levels: 6 },
      got: graph(4, 10, 3, 3),
      got8: graph(8, 10, 3, 3),
      gotx: graph(Number.POSITIVE_INFINITY, 10, 3, 3),
    },
  },
  "document-merging": {
    4: {
      tot: { width: 10, levels: 3 },
      got: { parts: 1, solve: 5, join: 3, merge: 5, improve: 10, improveLast: 10 },
      got2: graph(2, 5, 5, 5),
    },
  },
  "few-shot": { 8: { tot: { width: 20, levels: 2 }, tot2: { width: 10, levels: 3 } } },
};

export interface MethodOptions extends TaskOptions {
  /**
   * tot and tot2: each level a new prompt that asks to improve the best answer, as the paper does (`reprompt`, default), or
   * parts of one answer, grown on by the same width (`continue`).
   */
  grow?: "reprompt" | "continue";
  /** End as soon as a program sees a right answer. The paper does not: false by default. */
  stopWhenSolved?: boolean;
  /** Temperature 1 by default, as the paper's. */
  sampling?: StrategySampling;
}

export interface Method {
  problem: Problem<unknown, unknown>;
  strategy: Strategy;
}

/** Names of the methods that a task has. */
export function methodNames(task: TaskName): MethodName[] {
  const names = Object.values(METHODS[task]).flatMap((parameters) => Object.keys(parameters) as MethodName[]);
  return ["io", "cot", ...new Set(names)];
}

/**
 * The problem of an instance of `task`, and the strategy that `method` is on it.
 * @throws RangeError when the task has no such method.
 */
export function methodFor(task: TaskName, instance: unknown, method: MethodName, options: MethodOptions = {}): Method {
  const { grow = "reprompt", stopWhenSolved = false, sampling = { temperature: 1 }, style, fewShot } = options;
  const described: AnyTask = TASKS[task];
  const problemOf = (wanted: TaskOptions["style"]) =>
    described.problem(instance, { fewShot: fewShot ?? 0, style: style ?? wanted });
  const inSteps = "chain-of-thought";
  if (method === "io" || method === "cot") {
    const problem = problemOf(method === "io" ? "direct" : inSteps);
    return { problem, strategy: named(method, bestOfN({ n: 1, sampling })) };
  }
  const parameters = parametersFor(task, described.sizeOf(instance))[method];
  if (parameters === undefined) {
    throw new RangeError(`${task} has no method ${method}; it has ${methodNames(task).join(", ")}`);
  }
  if ("levels" in parameters) {
    const { width, levels } = parameters;
    if (grow === "reprompt") {
      // The trees of keyword counting begin with the prompt of cot.
      const problem = problemOf(task === "keyword-counting" ? inSteps : "direct");
      const tree = { grow, width, depth: levels, attempts: width, keep: 1, stopWhenSolved, sampling };
      return { problem, strategy: named(method, breadthFirst(tree)) };
    }
    const problem = problemOf("direct");
    const depth = Math.ceil(problem.answerMaxTokens / problem.thought.maxTokens);
    const tree = { grow, width, depth, attempts: 2 * width, keep: 1, stopWhenSolved, sampling };
    return { problem, strategy: named(method, breadthFirst(tree)) };
  }
  const parts = Math.min(parameters.parts, described.mostParts(instance));
  return { problem: problemOf("direct"), strategy: named(method, graphOfThoughts({ ...parameters, parts, sampling })) };
}

function parametersFor(task: TaskName, size: number): MethodParameters {
  const sizes = Object.keys(METHODS[task]).map(Number);
  return METHODS[task][sizes.find((tabled) => tabled >= size) ?? sizes.at(-1)!]!;
}

function named(method: MethodName, strategy: Strategy): Strategy {
  return { ...strategy, name: method };
}
