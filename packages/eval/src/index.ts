export { type BootstrapOptions, bootstrapMean, type Interval } from "./bootstrap.js";
export { EvalLog, type EvalSession } from "./eval-log.js";
export {
  countCases,
  defaultBudgets,
  type EvalItem,
  type EvalPart,
  type EvaluateOptions,
  evaluate,
} from "./evaluate.js";
export { type ContinuedTree, type EvalMethod, evalMethods, referenceMethod } from "./methods.js";
export { htmlReport, type ReportOptions } from "./report.js";
export {
  budgetName,
  type EvalBudget,
  type EvalCase,
  type EvalGroup,
  type EvalSample,
  groupName,
  type UnreadableItem,
} from "./sample.js";
export { type LogSettings, SettingsLog } from "./settings-log.js";
export { type EvalRow, groupBy, summarize } from "./summary.js";
export type { StepCounters, StepRun } from "./width-meter.js";
