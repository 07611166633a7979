import type { Problem, SearchEvent, SearchResult } from "@deftree/search";
import { patchConfig } from "@langchain/core/runnables";
import { DynamicStructuredTool } from "@langchain/core/tools";
import type { InferInteropZodInput, InferInteropZodOutput, InteropZodObject } from "@langchain/core/utils/types";
import { type ThoughtSearchFields, thoughtSearch } from "./thought-search.js";
import { type TreeOfThoughtsFields, treeOfThoughts } from "./tree-of-thoughts.js";

export interface TreeOfThoughtsToolFields<Schema extends InteropZodObject, State, Answer>
  extends Omit<TreeOfThoughtsFields<InferInteropZodOutput<Schema>, State, Answer>, "strategy" | "resume"> {
  name: string;
  /** What the tool finds, for the model that calls it. */
  description: string;
  /** Of the arguments, in Zod 3 or 4. */
  schema: Schema;
  /** By default that of `treeOfThoughts`. */
  strategy?: ThoughtSearchFields<InferInteropZodOutput<Schema>, State, Answer>["strategy"];
  problem: (args: InferInteropZodOutput<Schema>) => Problem<State, Answer> | Promise<Problem<State, Answer>>;
  /** The tool's answer ends the agent's turn. False by default. */
  returnDirect?: boolean;
  /** What the model is told; by default the answer, as JSON if it is no string, and whether it is known to be right. */
  toText?: (result: SearchResult<State, Answer>) => string;
}

/** Content and artifact. */
type Output<State, Answer> = [string, SearchResult<State, Answer>];

/**
 * A tool by which an agent calls a search. The message that it answers with has the result's text, and the whole
 * {@link SearchResult}, its tree included, as `artifact`; the search's events are the tool's own, `on_tool_event` in
 * the stream mode `tools`.
 *
 * ```ts
 * const sort = treeOfThoughtsTool({
 *   name: "sort",
 *   description: "Sorts digits",
 *   schema: z.object({ digits: z.array(z.number().int().min(0).max(9)) }),
 *   model: new ChatDeftree(),
 *   problem: ({ digits }) => sortingProblem(digits),
 * });
 * const agent = createAgent({ model, tools: [sort] });
 * ```
 */
export function treeOfThoughtsTool<Schema extends InteropZodObject, State, Answer>(
  fields: TreeOfThoughtsToolFields<Schema, State, Answer>,
): DynamicStructuredTool<
  Schema,
  InferInteropZodOutput<Schema>,
  InferInteropZodInput<Schema>,
  Output<State, Answer>,
  SearchEvent<State, Answer>
> {
  const { name, description, schema, strategy, returnDirect, toText = answerText, ...search } = fields;
  type Args = InferInteropZodOutput<Schema>;
  return new DynamicStructuredTool<
    Schema,
    Args,
    InferInteropZodInput<Schema>,
    Output<State, Answer>,
    SearchEvent<State, Answer>
  >({
    ...{ name, description, schema, returnDirect },
    responseFormat: "content_and_artifact",
    async *func(args: Args, runManager, config): AsyncGenerator<SearchEvent<State, Answer>, Output<State, Answer>> {
      const left = new AbortController();
      const signal = config?.signal === undefined ? left.signal : AbortSignal.any([config.signal, left.signal]);
      let searching!: Promise<SearchResult<State, Answer>>;
      const events = new ReadableStream<SearchEvent<State, Answer>>({
        start: (controller) => {
          const settings = {
            ...search,
            onEvent: (event: SearchEvent<State, Answer>, input: Args) => {
              search.onEvent?.(event, input);
              if (!left.signal.aborted) controller.enqueue(event);
            },
          };
          const runnable = strategy === undefined ? treeOfThoughts(settings) : thoughtSearch({ ...settings, strategy });
          searching = runnable.invoke(args, { ...patchConfig(config, { callbacks: runManager?.getChild() }), signal });
          searching.then(
            () => left.signal.aborted || controller.close(),
            (error) => controller.error(error),
          );
        },
        cancel: () => left.abort(),
      });
      yield* events;
      const result = await searching;
      return [toText(result), result];
    },
  });
}

function answerText({ answer, solved, best }: SearchResult<unknown, unknown>): string {
  if (best === undefined) return "The search found nothing.";
  const text = typeof answer === "string" ? answer : JSON.stringify(answer);
  return solved ? text : `${text} (the best found, not known to be right)`;
}
