export { benchDecode, type DecodeBenchOptions, type DecodeBenchResult, type DecodeBenchRow } from "./decode.js";
export { describeMachine, median, type MachineInfo } from "./machine.js";
export {
  type CompareMethod,
  type CompareOptions,
  compareStrategies,
  type MethodScore,
  type SortingOutcome,
  sortingTree,
} from "./compare-strategies.js";
