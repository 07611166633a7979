import type { Speculation } from "@deftree/engine";
import {
  type Budget,
  breadthFirst,
  type Evaluator,
  type Problem,
  type Search,
  type SearchEvent,
  type SearchResult,
  type Strategy,
  search,
  type ThoughtModel,
} from "@deftree/search";
import type { CallbackManagerForChainRun } from "@langchain/core/callbacks/manager";
import type { BaseChatModel } from "@langchain/core/language_models/chat_models";
import { ensureConfig, Runnable, type RunnableBatchOptions, type RunnableConfig } from "@langchain/core/runnables";
import type { IterableReadableStream } from "@langchain/core/utils/stream";
import { ChatDeftree } from "./chat-deftree.js";
import { ChatThoughtModel } from "./chat-thought-model.js";
import { EngineThoughtModel } from "./engine-thought-model.js";
import { toLangChainError } from "./errors.js";
import { traceThoughts } from "./thought-trace.js";

export interface TreeOfThoughtsFields<Input, State, Answer> {
  /**
   * A {@link ChatDeftree}, whose engine the search then drives branch by branch; any other chat model; or a model of the
   * search's own, such as a {@link ChatThoughtModel} with its options or one with `cachedAnswers`.
   */
  model: BaseChatModel | ThoughtModel;
  /** What to search for an input. */
  problem: (input: Input) => Problem<State, Answer> | Promise<Problem<State, Answer>>;
  /** By default breadth-first, growing by `continue`, 8 thoughts wide, at most 16 levels. */
  strategy?: Strategy;
  budget?: Budget;
  /** How thoughts are scored: by the problem's program (default), or by a model (`llmValue`, `llmVote`, `choiceLogprobs`). */
  evaluate?: Evaluator;
  /** Same seed, same tree. 0 by default. */
  seed?: number;
  /** Speculative decoding of all that a search decodes; a chat model other than {@link ChatDeftree} ignores it. */
  speculation?: Speculation;
  /** Children grown while their parent waits for a model's verdict, see `SearchOptions.proposeAhead`. None by default. */
  proposeAhead?: number;
  /** The events of a search on this input that was cut off, if there are any: it then goes on where it ended. */
  resume?: (input: Input) => readonly SearchEvent<unknown, unknown>[] | undefined;
  /** Called with each event as it happens, by `invoke` and `batch` too. What it throws ends the search and rejects. */
  onEvent?: (event: SearchEvent<State, Answer>, input: Input) => void;
  /**
   * False keeps traces small: runs are recorded with scores and figures, without the input, the texts and the tree. True
   * by default.
   */
  tracePayloads?: boolean;
}

/**
 * A Tree-of-Thoughts search as a Runnable: `invoke` gives the {@link SearchResult}, `stream` the {@link SearchEvent}s as
 * they happen. A trace shows one nested run per thought; `streamEvents` shows each event as the custom event
 * `deftree:search`. The sampling settings of a search are its strategy's, not the chat model's.
 *
 * ```ts
 * const tot = treeOfThoughts({ model: new ChatDeftree(), problem: (digits: number[]) => sortingProblem(digits) });
 * const { answer, solved, statistics } = await tot.invoke([3, 1, 2, 1]);
 * for await (const event of await tot.stream([3, 1, 2, 1])) console.log(event);
 * ```
 *
 * An abort by `config.signal` (or `timeout`) rejects with its reason after all branches are released.
 */
export function treeOfThoughts<Input, State, Answer>(
  fields: TreeOfThoughtsFields<Input, State, Answer>,
): TreeOfThoughts<Input, State, Answer> {
  return new TreeOfThoughts(fields);
}

/** Created by {@link treeOfThoughts}. In a chain's `stream`, its output is the stream of events. */
export class TreeOfThoughts<Input, State, Answer> extends Runnable<
  Input,
  SearchResult<State, Answer> | SearchEvent<State, Answer>
> {
  static override lc_name(): string {
    return "TreeOfThoughts";
  }

  lc_namespace = ["deftree", "tree_of_thoughts"];
  override lc_serializable = false;

  readonly #fields: TreeOfThoughtsFields<Input, State, Answer>;

  constructor(fields: TreeOfThoughtsFields<Input, State, Answer>) {
    super();
    this.#fields = fields;
  }

  override async invoke(input: Input, options?: Partial<RunnableConfig>): Promise<SearchResult<State, Answer>> {
    return this.#run(input, options, () => {});
  }

  declare stream: (
    input: Input,
    options?: Partial<RunnableConfig>,
  ) => Promise<IterableReadableStream<SearchEvent<State, Answer>>>;

  declare batch: (
    inputs: Input[],
    options?: Partial<RunnableConfig> | Partial<RunnableConfig>[],
    batchOptions?: RunnableBatchOptions,
  ) => Promise<SearchResult<State, Answer>[]>;

  override async *_streamIterator(
    input: Input,
    options?: Partial<RunnableConfig>,
  ): AsyncGenerator<SearchEvent<State, Answer>> {
    // Wrapped, since a promise of a search would wait for its result.
    let onSearch!: (running: Search<State, Answer>) => void;
    const started = new Promise<{ running: Search<State, Answer> }>((resolve) => {
      onSearch = (running) => resolve({ running });
    });
    const finished = this.#run(input, options, onSearch);
    finished.catch(() => {});
    const { running } = await Promise.race([started, finished.then(() => started)]);
    try {
      yield* running;
      await finished;
    } catch (error) {
      throw toLangChainError(error);
    } finally {
      await finished.catch(() => {});
    }
  }

  /** Runs one search inside a traced run; `onSearch` gets it before it starts. */
  #run(
    input: Input,
    options: Partial<RunnableConfig> | undefined,
    onSearch: (running: Search<State, Answer>) => void,
  ): Promise<SearchResult<State, Answer>> {
    // The signal goes to the search alone: `_callWithConfig` would reject before the branches are released.
    const { signal, ...config } = ensureConfig(options);
    const { onEvent, tracePayloads = true } = this.#fields;
    let result: SearchResult<State, Answer>;
    const run = async (
      _: Input,
      __?: Partial<RunnableConfig>,
      runManager?: CallbackManagerForChainRun,
    ): Promise<SearchResult<State, Answer>> => {
      signal?.throwIfAborted();
      const {
        strategy = breadthFirst({ grow: "continue", width: 8, depth: 16 }),
        budget,
        evaluate,
        seed,
        speculation,
        proposeAhead,
      } = this.#fields;
      const [problem, model] = await Promise.all([this.#fields.problem(input), thoughtModel(this.#fields.model)]);
      const running = search(problem, strategy, model, {
        ...{ budget, evaluate, seed, speculation, proposeAhead, signal },
        resume: this.#fields.resume?.(input),
      });
      onSearch(running);
      await Promise.all([
        traceThoughts(running, runManager, tracePayloads),
        onEvent && forEach(running, (event) => onEvent(event, input)),
      ]);
      result = await running;
      signal?.throwIfAborted();
      // Only the trace sees what this returns.
      return tracePayloads ? result : (summaryOf(result) as typeof result);
    };
    const traced: unknown = tracePayloads ? input : {};
    return this._callWithConfig(run, traced as Input, config).then(
      () => result,
      (error) => {
        throw toLangChainError(error);
      },
    );
  }
}

/** What a small trace records of a result. */
type SearchSummary = Pick<SearchResult<unknown, unknown>, "score" | "solved" | "stopReason" | "statistics">;

function summaryOf({ score, solved, stopReason, statistics }: SearchResult<unknown, unknown>): SearchSummary {
  return { score, solved, stopReason, statistics };
}

/** Ends the search, all branches released, before it rejects with what `action` throws. */
async function forEach<T>(events: AsyncIterable<T>, action: (event: T) => void): Promise<void> {
  for await (const event of events) action(event);
}

async function thoughtModel(model: BaseChatModel | ThoughtModel): Promise<ThoughtModel> {
  if (!("invoke" in model)) return model;
  return model instanceof ChatDeftree ? new EngineThoughtModel(await model.engine()) : new ChatThoughtModel(model);
}
