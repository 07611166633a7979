export { benchAgents } from "./agents.js";
export {
  type AttentionBenchOptions,
  type AttentionBenchResult,
  type AttentionBenchRow,
  benchAttentionTrees,
} from "./attention.js";
export {
  type CompareMethod,
  type CompareOptions,
  compareStrategies,
  firstFixedProblem,
  type MethodScore,
  type OutcomeSums,
  type SortingOutcome,
  solveSorting,
  sortingTree,
  sumOutcomes,
} from "./compare-strategies.js";
export { benchConstraint } from "./constraint.js";
export { benchDecode, type DecodeBenchOptions, type DecodeBenchResult, type DecodeBenchRow } from "./decode.js";
export { describeMachine, type MachineInfo } from "./machine.js";
export { benchPruning } from "./pruning.js";
export {
  benchSpeculation,
  type SpeculationBenchOptions,
  type SpeculationBenchResult,
  type SpeculationBenchRow,
} from "./speculation.js";
export { speculationWorkloadNames } from "./speculation-prompts.js";
export { type NamedTree, readTreeFile } from "./tree-file.js";
export type { VerificationCostRow } from "./verification-cost.js";
export { workloadNames } from "./workloads.js";
