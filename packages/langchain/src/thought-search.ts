import type { SearchEvent, SearchResult, Strategy } from "@deftree/search";
import type { RunnableConfig } from "@langchain/core/runnables";
import { TreeOfThoughts, type TreeOfThoughtsFields } from "./tree-of-thoughts.js";

export interface ThoughtSearchFields<Input, State, Answer>
  extends Omit<TreeOfThoughtsFields<Input, State, Answer>, "strategy"> {
  /** The algorithm, or what picks one for an input, such as a graph with more parts for a longer list. */
  strategy: Strategy | ((input: Input) => Strategy);
}

/**
 * Any strategy of `@deftree/search` as a Runnable, with all that {@link TreeOfThoughts} has: `invoke`, `stream`,
 * `streamEvents`, `batch`, one traced run per thought, and an abort that rejects after all branches are released. Its
 * traces are named after the strategy.
 *
 * ```ts
 * const search = thoughtSearch({
 *   model: new ChatDeftree(),
 *   problem: (digits: number[]) => sortingProblem(digits),
 *   strategy: bestOfN({ n: 16 }), // selfConsistency, breadthFirst, depthFirst, monteCarlo, graphOfThoughts
 * });
 * const { answer, statistics } = await search.invoke([3, 1, 2, 1]);
 * ```
 */
export function thoughtSearch<Input, State, Answer>(
  fields: ThoughtSearchFields<Input, State, Answer>,
): ThoughtSearch<Input, State, Answer> {
  return new ThoughtSearch(fields);
}

/** Created by {@link thoughtSearch}. */
export class ThoughtSearch<Input, State, Answer> extends TreeOfThoughts<Input, State, Answer> {
  static override lc_name(): string {
    return "ThoughtSearch";
  }

  override lc_namespace = ["deftree", "thought_search"];

  readonly #fields: ThoughtSearchFields<Input, State, Answer>;

  constructor(fields: ThoughtSearchFields<Input, State, Answer>) {
    const { strategy, ...rest } = fields;
    super(rest);
    this.#fields = fields;
  }

  override async invoke(input: Input, options?: Partial<RunnableConfig>): Promise<SearchResult<State, Answer>> {
    return this.#on(input).invoke(input, options);
  }

  override async *_streamIterator(
    input: Input,
    options?: Partial<RunnableConfig>,
  ): AsyncGenerator<SearchEvent<State, Answer>> {
    yield* this.#on(input)._streamIterator(input, options);
  }

  #on(input: Input): TreeOfThoughts<Input, State, Answer> {
    const { strategy: chosen, ...rest } = this.#fields;
    const strategy = typeof chosen === "function" ? chosen(input) : chosen;
    const search = new TreeOfThoughts({ ...rest, strategy });
    search.name = this.name ?? `thoughtSearch(${strategy.name})`;
    return search;
  }
}
