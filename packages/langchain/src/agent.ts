/** `@deftree/langchain/agent`: for agents of the package `langchain`. */
export { type TreeOfThoughtsMiddlewareFields, treeOfThoughtsMiddleware } from "./middleware.js";
export { type ReasoningOptions, type ReasoningState, reasoningProblem } from "./reasoning-problem.js";
