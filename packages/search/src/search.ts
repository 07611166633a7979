/** Runs a strategy on a problem with a model. */
import { type Budget, checkBudget } from "./budget.js";
import { type Evaluator, programScore } from "./evaluator.js";
import { EventLog } from "./event-log.js";
import type { SearchEvent, SearchStatistics, StopReason } from "./events.js";
import { LazyModel } from "./lazy-branch.js";
import { checkCount } from "./options.js";
import { isSolved, type Problem } from "./problem.js";
import { PastSearch, type StartedEvent } from "./resume.js";
import { SearchRun } from "./run.js";
import { textHash } from "./seeds.js";
import type { Strategy, StrategyOptions } from "./strategy.js";
import type { ThoughtModel, TokenSpeculation } from "./thought-model.js";
import { emptyTree, growTree, type Thought, type ThoughtTree } from "./thought-tree.js";

export interface SearchOptions {
  budget?: Budget;
  /** Same seed, same tree, whatever else the model decodes. 0 by default. */
  seed?: number;
  /** Ends the search early, with the best so far and stop reason `aborted`; it does not reject. */
  signal?: AbortSignal;
  /** How thoughts are scored: by the problem's program (default), or by a model. Of every strategy. */
  evaluate?: Evaluator;
  /**
   * While a thought waits for a model's verdict, so many of its children are grown already: kept with their parent, dropped
   * with it. The tree is the same as without, on a model whose thoughts have seeds of their own; the tokens of the dropped are
   * `wastedTokens`. 0, for none, by default. Of the strategies that continue thoughts; what a program scores waits for
   * nothing, so nothing is grown ahead.
   */
  proposeAhead?: number;
  /** Of all decodes, in place of the strategy's: {@link StrategyOptions.speculation}. */
  speculation?: TokenSpeculation;
  /**
   * The events of a search that was cut off ({@link readEventLog}): goes on where it ended, with the same model, problem,
   * strategy, evaluation and seed; the budget may be another one. The stream begins anew with what the log holds, without
   * the thoughts' single pieces.
   */
  resume?: readonly SearchEvent<unknown, unknown>[];
}

export interface SearchResult<State, Answer> {
  /** The thought the search answers with; undefined when no thought was finished. */
  best: Thought<State> | undefined;
  /** `best`'s whole text, that of its ancestors included. */
  text: string | undefined;
  answer: Answer | undefined;
  score: number | undefined;
  solved: boolean;
  stopReason: StopReason;
  tree: ThoughtTree<State>;
  statistics: SearchStatistics;
}

/**
 * A running search: async-iterable event by event, and awaitable for its result. It starts with the first of either.
 * Breaking out of the iteration ends the search. However it ends, every branch it opened is released first.
 */
export interface Search<State, Answer>
  extends AsyncIterable<SearchEvent<State, Answer>>,
    PromiseLike<SearchResult<State, Answer>> {
  readonly result: Promise<SearchResult<State, Answer>>;
}

/**
 * Errors of the model and of the problem's prompts and parsers reject the result, as does a log to resume of another search
 * (RangeError); errors of its scorer do not, see {@link Problem.failureScore}.
 * @throws RangeError on a budget that is not positive, or of KV bytes with a model that does not tell its own; on a
 *   `proposeAhead` that is no count, or under a budget of tokens, since it may waste them.
 */
export function search<State, Answer>(
  problem: Problem<State, Answer>,
  strategy: Strategy,
  model: ThoughtModel,
  options: SearchOptions = {},
): Search<State, Answer> {
  checkBudget(options.budget ?? {});
  if (options.budget?.kvBytes !== undefined && model.kvBytesPerToken === undefined) {
    throw new RangeError(`budget.kvBytes needs a model that tells its KV bytes; ${model.name} does not`);
  }
  checkAhead(options);
  const controller = new AbortController();
  const log = new EventLog<SearchEvent<State, Answer>>();
  let running: Promise<SearchResult<State, Answer>> | undefined;
  const start = () => {
    if (running === undefined) {
      running = drive(problem, strategy, model, options, controller, log);
      running.catch(() => {});
    }
    return running;
  };
  return {
    get result() {
      return start();
    },
    // biome-ignore lint/suspicious/noThenProperty: a search is awaitable by design
    then: (onfulfilled, onrejected) => start().then(onfulfilled, onrejected),
    async *[Symbol.asyncIterator]() {
      const result = start();
      try {
        yield* log.read();
      } finally {
        controller.abort();
        await result.catch(() => {});
      }
    },
  };
}

function checkAhead({ proposeAhead = 0, budget }: SearchOptions): void {
  if (proposeAhead === 0) return;
  checkCount("proposeAhead", proposeAhead);
  if (budget?.tokens !== undefined) {
    throw new RangeError("proposeAhead may waste tokens, so it does not go with budget.tokens");
  }
}

async function drive<State, Answer>(
  problem: Problem<State, Answer>,
  strategy: Strategy,
  model: ThoughtModel,
  options: SearchOptions,
  controller: AbortController,
  log: EventLog<SearchEvent<State, Answer>>,
): Promise<SearchResult<State, Answer>> {
  const { budget = {}, seed = 0, signal, evaluate: evaluator = programScore() } = options;
  const { speculation = strategy.speculation, proposeAhead = 0 } = options;
  const tree = emptyTree<State>();
  const emit = (event: SearchEvent<State, Answer>) => {
    growTree(tree, event);
    log.push(event);
  };
  const startedAt = performance.now();
  const kvBefore = model.usage();
  let run: SearchRun<State, Answer>;
  try {
    const started = startOf(problem, strategy, model, seed, evaluator);
    const past = options.resume && new PastSearch(options.resume, started);
    const used = past === undefined ? model : new LazyModel(model);
    run = new SearchRun(problem, used, { budget, seed, evaluator, past, speculation, proposeAhead, controller }, emit);
    emit({ ...started, state: problem.initial });
  } catch (error) {
    log.close(error);
    throw error;
  }
  const stopWatching = watch(run, budget.timeMs, signal, controller);
  try {
    await runStrategy(strategy, run);
    run.close();
    await run.ahead.ended();
    const { best, stopReason = "finished" } = run;
    const solved = best !== undefined && isSolved(problem, best.state);
    const answer = best && problem.answer(best.state);
    if (best !== undefined) {
      emit({ type: "solution", thought: best.id, answer: answer as Answer, score: best.score, solved });
    }
    const statistics = report(strategy, run, solved, kvBefore, performance.now() - startedAt);
    emit({ type: "done", stopReason, statistics });
    log.close();
    const thought = best && tree.thoughts[best.id];
    return { best: thought, text: best?.text, answer, score: best?.score, solved, stopReason, tree, statistics };
  } catch (error) {
    log.close(error);
    throw error;
  } finally {
    stopWatching();
    run.close();
  }
}

/** What tells a search from another: a log of one is not resumed as the other. */
function startOf<State, Answer>(
  problem: Problem<State, Answer>,
  strategy: Strategy,
  model: ThoughtModel,
  seed: number,
  evaluator: Evaluator,
): StartedEvent {
  const evaluation = [evaluator.name, evaluator.usesProgram, evaluator.settings];
  const fingerprint = textHash(
    JSON.stringify([problem.prompt(), problem.thought, problem.answerFormat, strategy.settings, evaluation]),
  );
  const names = { strategy: strategy.name, problem: problem.name, model: model.name };
  return { type: "search:started", ...names, seed, fingerprint, state: problem.initial };
}

/** Ends with the strategy, cleanly too when the run was stopped; throws what the model or the problem threw. */
async function runStrategy<State, Answer>(strategy: Strategy, run: SearchRun<State, Answer>): Promise<void> {
  try {
    if (!run.stopped) await strategy.run(run);
  } catch (error) {
    if (!run.signal.aborted) throw error;
  }
  if (run.failure !== undefined) throw run.failure.error;
  if (run.signal.aborted) run.stopReason ??= "aborted";
}

/** Ends the run when the caller's signal or the time budget says so. */
function watch<State, Answer>(
  run: SearchRun<State, Answer>,
  timeMs: number | undefined,
  signal: AbortSignal | undefined,
  controller: AbortController,
): () => void {
  const stop = (reason: StopReason) => {
    if (run.stopReason !== undefined) return;
    run.stopReason = reason;
    if (reason === "time") run.emit({ type: "budget:reached", budget: "time", limit: timeMs!, used: timeMs! });
    if (reason === "aborted") run.emit({ type: "search:aborted" });
    controller.abort();
  };
  const timer = timeMs === undefined ? undefined : setTimeout(() => stop("time"), timeMs);
  const onAbort = () => stop("aborted");
  if (signal?.aborted) onAbort();
  // A signal of its own: many searches may have one caller's.
  const own = signal && AbortSignal.any([signal]);
  own?.addEventListener("abort", onAbort, { once: true });
  return () => {
    clearTimeout(timer);
    own?.removeEventListener("abort", onAbort);
  };
}

function report<State, Answer>(
  strategy: Strategy,
  run: SearchRun<State, Answer>,
  solved: boolean,
  kvBefore: { kvBytesRead: number; kvBytesUnshared: number },
  elapsedMs: number,
): SearchStatistics {
  const usage = run.usage();
  const kv = run.model.usage();
  return {
    strategy: strategy.name,
    thoughts: run.thoughts,
    depth: run.depth,
    generatedTokens: usage.generatedTokens,
    wastedTokens: run.ahead.wastedTokens,
    promptTokens: usage.promptTokens,
    reusedTokens: Math.max(0, usage.promptTokens - usage.prefilledTokens),
    kvBytesRead: kv.kvBytesRead - kvBefore.kvBytesRead,
    kvBytesUnshared: kv.kvBytesUnshared - kvBefore.kvBytesUnshared,
    elapsedMs,
    bestScore: run.best?.score,
    solved,
  };
}
