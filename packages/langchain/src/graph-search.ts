/** A search inside a LangGraph node: its events in the graph's custom stream, its log in the graph's checkpoint. */
import type { Problem, SearchEvent, SearchResult, ThoughtModel } from "@deftree/search";
import type { BaseChatModel } from "@langchain/core/language_models/chat_models";
import type { RunnableConfig } from "@langchain/core/runnables";
import { StreamChannel, type StreamTransformer } from "@langchain/langgraph";
import { CheckpointedLog } from "./checkpoint.js";
import { type ThoughtSearchFields, thoughtSearch } from "./thought-search.js";
import { type TreeOfThoughtsFields, treeOfThoughts } from "./tree-of-thoughts.js";

/** What a search writes to the custom stream of its graph, an event each, in LangGraph's form of a named event. */
export interface ThoughtsChunk<State = unknown, Answer = unknown> {
  name: "thoughts";
  payload: SearchEvent<State, Answer>;
}

/** A search's settings besides its model and problem. */
export interface GraphSearchFields<Input, State, Answer>
  extends Omit<TreeOfThoughtsFields<Input, State, Answer>, "model" | "problem" | "resume" | "strategy"> {
  /** By default that of `treeOfThoughts`. */
  strategy?: ThoughtSearchFields<Input, State, Answer>["strategy"];
  /**
   * Whether thoughts are saved in the graph's checkpoint, where the run has one, as soon as they are finished. True by
   * default; false begins a search that was cut off anew.
   */
  checkpoint?: boolean;
}

/** What a node knows of its graph's run. */
interface NodeRuntime extends RunnableConfig {
  writer?: ((chunk: unknown) => void) | null;
}

/**
 * Rejects with the signal's reason after all branches are released. Where the run has a thread to save to, the search goes
 * on from what an earlier run of the same node saved.
 */
export async function searchInGraph<Input, State, Answer>(
  fields: GraphSearchFields<Input, State, Answer>,
  model: BaseChatModel | ThoughtModel,
  problem: Problem<State, Answer>,
  input: Input,
  { writer, ...config }: NodeRuntime,
): Promise<SearchResult<State, Answer>> {
  const { strategy, checkpoint = true, ...others } = fields;
  const saves = checkpoint && config.configurable?.thread_id !== undefined;
  const log = saves ? await CheckpointedLog.open() : undefined;
  const settings: TreeOfThoughtsFields<Input, State, Answer> = {
    ...{ ...others, model, problem: () => problem },
    resume: () => log?.past,
    onEvent: (event) => {
      fields.onEvent?.(event, input);
      log?.push(event);
      writer?.({ name: "thoughts", payload: event } satisfies ThoughtsChunk<State, Answer>);
    },
  };
  const search = strategy === undefined ? treeOfThoughts(settings) : thoughtSearch({ ...settings, strategy });
  const result = await search.invoke(input, config);
  await log?.flush();
  return result;
}

/**
 * The `thoughts` of a run, for the `transformers` of a graph: an async iterable of the events of all its searches, each of
 * which begins with `search:started`. Clients of a LangGraph server find the same events as `custom:thoughts`.
 */
export function thoughtsTransformer<State = unknown, Answer = unknown>(): StreamTransformer<{
  thoughts: StreamChannel<SearchEvent<State, Answer>>;
}> {
  const thoughts = StreamChannel.local<SearchEvent<State, Answer>>();
  return {
    init: () => ({ thoughts }),
    process: ({ method, params }) => {
      if (method === "custom" && isThoughtsChunk<State, Answer>(params.data)) thoughts.push(params.data.payload);
      return true;
    },
  };
}

function isThoughtsChunk<State, Answer>(data: unknown): data is ThoughtsChunk<State, Answer> {
  return typeof data === "object" && data !== null && "name" in data && data.name === "thoughts" && "payload" in data;
}
