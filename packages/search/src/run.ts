/**
 * One running search, as a strategy sees it: the problem, the model, the event stream, the budget, and the account of
 * every open branch. All branches are opened through here, so that whatever way the search ends, none is left behind.
 */
import { type Budget, type Grant, grant } from "./budget.js";
import type { SearchEvent, StopReason, ThoughtId } from "./events.js";
import type { Problem } from "./problem.js";
import type { Place } from "./propose.js";
import type { PromptMessage, ThoughtBranch, ThoughtModel, TokenUsage } from "./thought-model.js";

/** A finished thought whose branch may still be open. */
export interface LiveThought<State> {
  readonly id: ThoughtId;
  readonly parent: ThoughtId;
  readonly depth: number;
  /** Where it grew. */
  readonly place: Place;
  readonly branch: ThoughtBranch;
  /** The answer's whole text on the branch, ancestors' text and stop strings included. */
  readonly text: string;
  readonly state: State;
  /** The model ended its answer: nothing can follow. */
  readonly ended: boolean;
  /** `text` is a whole answer, right or wrong; else a part of one. */
  readonly answered: boolean;
  /** -Infinity until scored. */
  score: number;
}

interface RunOptions {
  budget: Budget;
  seed: number;
  /** Aborted by the caller's signal, by the time budget, by a consumer that leaves, and by {@link SearchRun.fail}. */
  controller: AbortController;
}

export class SearchRun<State, Answer> {
  readonly seed: number;
  /** Ends every call on the model. */
  readonly signal: AbortSignal;
  /** The best scored thought so far. */
  best: LiveThought<State> | undefined;
  thoughts = 0;
  depth = 0;
  stopReason: StopReason | undefined;
  failure: { error: unknown } | undefined;

  #closed = false;
  readonly #controller: AbortController;
  readonly #budget: Budget;
  readonly #open = new Set<ThoughtBranch>();
  readonly #released: TokenUsage = { generatedTokens: 0, promptTokens: 0, prefilledTokens: 0 };
  readonly #emit: (event: SearchEvent<State, Answer>) => void;

  constructor(
    readonly problem: Problem<State, Answer>,
    readonly model: ThoughtModel,
    options: RunOptions,
    emit: (event: SearchEvent<State, Answer>) => void,
  ) {
    this.seed = options.seed;
    this.#controller = options.controller;
    this.signal = options.controller.signal;
    this.#budget = options.budget;
    this.#emit = emit;
  }

  emit(event: SearchEvent<State, Answer>): void {
    this.#emit(event);
  }

  /** True once the strategy has to come to its end. */
  get stopped(): boolean {
    return this.stopReason !== undefined || this.signal.aborted;
  }

  /** Ends the search with an error: thoughts that still decode stop, then the search rejects with it. */
  fail(error: unknown): void {
    this.failure ??= { error };
    this.#controller.abort(error);
  }

  /** Opens a branch after a prompt. */
  async open(prompt: readonly PromptMessage[]): Promise<ThoughtBranch> {
    const branch = await this.model.open(prompt, { signal: this.signal });
    this.#open.add(branch);
    if (this.#closed) this.release(branch);
    return branch;
  }

  fork(branch: ThoughtBranch, n: number): ThoughtBranch[] {
    const children = branch.fork(n);
    for (const child of children) this.#open.add(child);
    return children;
  }

  /** Drops a branch and books what it cost. Twice is fine. */
  release(branch: ThoughtBranch): void {
    if (!this.#open.delete(branch)) return;
    branch.release();
    add(this.#released, branch.usage);
  }

  /** Drops every open branch, and any that a call still under way opens later. */
  close(): void {
    this.#closed = true;
    for (const branch of [...this.#open]) this.release(branch);
  }

  /** What all branches of the search cost so far, open ones included. */
  usage(): TokenUsage {
    const sum = { ...this.#released };
    for (const branch of this.#open) add(sum, branch.usage);
    return sum;
  }

  /** Leave to start up to `wanted` thoughts; undefined when the search is over, the reason then said and recorded. */
  grant(wanted: number, maxTokens: number): Grant | undefined {
    if (this.stopped) return undefined;
    const used = { tokens: this.usage().generatedTokens, thoughts: this.thoughts };
    const granted = grant(this.#budget, used, wanted, maxTokens);
    if ("count" in granted) return granted;
    this.emit({ type: "budget:reached", ...granted });
    this.stopReason = granted.budget;
    return undefined;
  }

  /** Announces a thought; thoughts are numbered in the order of these calls. */
  startThought(parent: ThoughtId, depth: number, merged?: readonly ThoughtId[]): ThoughtId {
    const thought = ++this.thoughts;
    this.depth = Math.max(this.depth, depth);
    this.emit({ type: "thought:started", thought, parent, depth, ...(merged && { merged: [...merged] }) });
    return thought;
  }

  /** Books a scored thought; the first of equals stays the best. */
  consider(thought: LiveThought<State>): void {
    if (this.best === undefined || this.#isBetter(thought, this.best)) this.best = thought;
  }

  get solved(): boolean {
    return this.best !== undefined && this.problem.isSolved(this.best.state);
  }

  /** An answer beats a part of one, then the higher score wins, then the deeper part. */
  #isBetter(a: LiveThought<State>, b: LiveThought<State>): boolean {
    if (a.answered !== b.answered) return a.answered;
    if (a.score !== b.score) return a.score > b.score;
    return !a.answered && a.depth > b.depth;
  }
}

function add(sum: TokenUsage, usage: Readonly<TokenUsage>): void {
  sum.generatedTokens += usage.generatedTokens;
  sum.promptTokens += usage.promptTokens;
  sum.prefilledTokens += usage.prefilledTokens;
}
