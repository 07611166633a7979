export { ChatDeftree } from "./chat-deftree.js";
export type { ChatDeftreeCallOptions, ChatDeftreeFields, ChatDeftreeSampling } from "./chat-options.js";
export { ChatThoughtModel, type ChatThoughtModelOptions } from "./chat-thought-model.js";
export { EngineThoughtModel } from "./engine-thought-model.js";
export { ThoughtSearch, type ThoughtSearchFields, thoughtSearch } from "./thought-search.js";
export { type TreeOfThoughtsToolFields, treeOfThoughtsTool } from "./tool.js";
export { TreeOfThoughts, type TreeOfThoughtsFields, treeOfThoughts } from "./tree-of-thoughts.js";
