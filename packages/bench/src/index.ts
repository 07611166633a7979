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
export { benchDecode, type DecodeBenchOptions, type DecodeBenchResult, type DecodeBenchRow } from "./decode.js";
export { describeMachine, type MachineInfo, median } from "./machine.js";
