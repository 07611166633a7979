import type { Problem, SearchResult, ThoughtModel } from "@deftree/search";
import type { BaseChatModel } from "@langchain/core/language_models/chat_models";
import type { LangGraphRunnableConfig } from "@langchain/langgraph";
import { type GraphSearchFields, searchInGraph } from "./graph-search.js";

export interface ThoughtSearchNodeFields<GraphState, State, Answer, Update>
  extends GraphSearchFields<GraphState, State, Answer> {
  model: BaseChatModel | ThoughtModel;
  /** What to search for in a state of the graph. */
  problem: (state: GraphState) => Problem<State, Answer> | Promise<Problem<State, Answer>>;
  /** What the result changes in the graph's state. */
  update: (result: SearchResult<State, Answer>, state: GraphState) => Update;
}

/**
 * A search as a node of a LangGraph.
 *
 * ```ts
 * const node = thoughtSearchNode({
 *   model: new ChatDeftree(),
 *   problem: ({ digits }: { digits: number[] }) => sortingProblem(digits),
 *   update: ({ answer, solved }) => ({ sorted: answer, solved }),
 * });
 * const graph = new StateGraph(State).addNode("think", node).addEdge(START, "think").compile({ checkpointer });
 * ```
 *
 * - Its events stand in the stream mode `custom` as `{ name: "thoughts", payload }`; `compile({
 *   transformers: [thoughtsTransformer] })` makes them `run.extensions.thoughts`.
 * - With a checkpointer, each thought is saved when it is finished. After a cut-off, `graph.invoke(null, config)` goes on
 *   with the thoughts that were saved and grows the tree that the search would have grown uninterrupted: none of them is
 *   generated again. What is saved are texts, token ids and scores; the KV of branches that go on is computed once more.
 *   LangGraph's durability `"exit"` saves nothing before a node's end.
 * - All thoughts of the search decode side by side inside the node, so a slow one does not hold up the others as it would
 *   between the supersteps of a graph.
 */
export function thoughtSearchNode<GraphState, State, Answer, Update>(
  fields: ThoughtSearchNodeFields<GraphState, State, Answer, Update>,
): (state: GraphState, config: LangGraphRunnableConfig) => Promise<Update> {
  const { model, problem, update, ...others } = fields;
  return async (state, config) =>
    update(await searchInGraph(others, model, await problem(state), state, config), state);
}
