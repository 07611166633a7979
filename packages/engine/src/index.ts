export { benchAttention } from "./attention-bench.js";
export { type PlanOptions, type PlanTree, planAttention } from "./attention-plan.js";
export { assertEnforceable, type Constraint } from "./constraint.js";
export { Engine } from "./engine.js";
export { attentionPolicies } from "./engine-options.js";
export type {
  AttentionPolicy,
  BranchEngine,
  ChatTurn,
  DecodedToken,
  DecodeOptions,
  DecodeResult,
  DecodeStream,
  DraftContext,
  DraftModelSource,
  DraftSource,
  DraftSourceName,
  DraftTree,
  EngineBranch,
  EngineInfo,
  EngineOptions,
  ExtendResult,
  FinishReason,
  ForkOptions,
  MedusaSource,
  SamplingOptions,
  Speculation,
  SpeculationOptions,
  TextTokenizer,
} from "./engine-types.js";
export { DeftreeError, type DeftreeErrorCode } from "./errors.js";
export { type CudaReport, type HostReport, inspectHost } from "./host.js";
export type {
  NativeAttentionBench,
  NativeAttentionBenchRequest,
  NativeAttentionBenchRow,
  NativeAttentionPlan,
  NativeStats,
  NativeWorkItem,
} from "./native-addon.js";
