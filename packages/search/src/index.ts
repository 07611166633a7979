export type { Budget } from "./budget.js";
export { cachedAnswers } from "./cached-model.js";
export { bestOfNAtEqualTokens, type EqualTokensOptions, selfConsistencyAtEqualTokens } from "./equal-tokens.js";
export { type EvaluationContext, type Evaluator, programScore, type Verdict } from "./evaluator.js";
export {
  choiceLogprobs,
  llmValue,
  llmVote,
  type ModelEvaluatorOptions,
  readChoice,
  readLabel,
} from "./evaluators.js";
export type { BudgetName, PruneReason, SearchEvent, SearchStatistics, StopReason, ThoughtId } from "./events.js";
export type { Problem, ProposalQuestion, SplitProblem, ValueQuestion, VoteQuestion } from "./problem.js";
export { formatEvent, readEventLog } from "./resume.js";
export { type Search, type SearchOptions, type SearchResult, search } from "./search.js";
export type { ProposeKind, StrategySampling } from "./shapes.js";
export { type BestOfNOptions, bestOfN } from "./strategies/best-of-n.js";
export { type BreadthFirstOptions, breadthFirst } from "./strategies/breadth-first.js";
export { type DepthFirstOptions, depthFirst } from "./strategies/depth-first.js";
export { type GraphOfThoughtsOptions, graphOfThoughts } from "./strategies/graph-of-thoughts.js";
export { type MonteCarloOptions, monteCarlo } from "./strategies/monte-carlo.js";
export { type SelfConsistencyOptions, selfConsistency } from "./strategies/self-consistency.js";
export { singleShot } from "./strategies/single.js";
export type { Strategy, StrategyOptions } from "./strategy.js";
export type {
  DecodedThought,
  KvUsage,
  PromptMessage,
  ThoughtBranch,
  ThoughtDecodeOptions,
  ThoughtFormat,
  ThoughtModel,
  ThoughtSampling,
  TokenSpeculation,
  TokenUsage,
} from "./thought-model.js";
export {
  childrenOf,
  emptyTree,
  growTree,
  pathTo,
  type Thought,
  type ThoughtStatus,
  type ThoughtTree,
} from "./thought-tree.js";
export {
  type NestedThought,
  nestTree,
  type PreferenceOptions,
  type PreferencePair,
  preferencePairs,
} from "./tree-export.js";
