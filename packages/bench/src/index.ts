export { benchDecode, type DecodeBenchOptions, type DecodeBenchResult, type DecodeBenchRow } from "./decode.js";
export { describeMachine, median, type MachineInfo } from "./machine.js";
