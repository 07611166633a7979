/** `@deftree/langchain/graph`: for graphs of `@langchain/langgraph`. */
export { type ThoughtSearchNodeFields, thoughtSearchNode } from "./graph-node.js";
export { type ThoughtsChunk, thoughtsTransformer } from "./graph-search.js";
