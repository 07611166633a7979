/**
 * One running search, as a strategy sees it: the problem, the model, the event stream, the budget, and the account of
 * every open branch. All branches are opened through here, so that whatever way the search ends, none is left behind.
 */
import { BranchAccount } from "./branch-account.js";
import { type Budget, type BudgetUse, type Grant, grant } from "./budget.js";
import type { EvaluationContext, Evaluator } from "./evaluator.js";
import type { BudgetName, SearchEvent, StopReason, ThoughtId } from "./events.js";
import type { Growth } from "./growth.js";
import { isSolved, type Problem } from "./problem.js";
import type { PastSearch } from "./resume.js";
import { thoughtSeed } from "./seeds.js";
import type { LiveThought, Place } from "./thought.js";
import type {
  DecodedThought,
  PromptMessage,
  ThoughtBranch,
  ThoughtDecodeOptions,
  ThoughtModel,
  TokenSpeculation,
  TokenUsage,
} from "./thought-model.js";
import { ThoughtsAhead } from "./thoughts-ahead.js";

interface RunOptions {
  budget: Budget;
  seed: number;
  evaluator: Evaluator;
  /** A search that is resumed. */
  past?: PastSearch;
  speculation?: TokenSpeculation;
  /** Most children that are grown ahead of a thought's verdict. */
  proposeAhead: number;
  /** Aborted by the caller's signal, by the time budget, by a consumer that leaves, and by {@link SearchRun.fail}. */
  controller: AbortController;
}

export class SearchRun<State, Answer> implements EvaluationContext {
  readonly seed: number;
  readonly evaluator: Evaluator;
  readonly past: PastSearch | undefined;
  /** Ends every call on the model. */
  readonly signal: AbortSignal;
  /** The best scored thought so far. */
  best: LiveThought<State> | undefined;
  thoughts = 0;
  depth = 0;
  stopReason: StopReason | undefined;
  failure: { error: unknown } | undefined;
  readonly proposeAhead: number;
  readonly ahead: ThoughtsAhead;

  #closed = false;
  #waiting: (() => void)[] = [];
  readonly #controller: AbortController;
  readonly #budget: Budget;
  readonly #speculation: TokenSpeculation | undefined;
  /** By thought: its seed, and how many children it had. */
  readonly #seeds: number[];
  readonly #children: number[] = [];
  /** By branch: how many children were forked from it in their turn. */
  readonly #forked = new WeakMap<ThoughtBranch, number>();
  readonly #account = new BranchAccount();
  readonly #emit: (event: SearchEvent<State, Answer>) => void;

  constructor(
    readonly problem: Problem<State, Answer>,
    readonly model: ThoughtModel,
    options: RunOptions,
    emit: (event: SearchEvent<State, Answer>) => void,
  ) {
    this.seed = options.seed;
    this.evaluator = options.evaluator;
    this.past = options.past;
    this.#controller = options.controller;
    this.signal = options.controller.signal;
    this.#budget = options.budget;
    this.#speculation = options.speculation;
    this.#seeds = [options.seed];
    this.#emit = emit;
    this.proposeAhead = options.proposeAhead;
    this.ahead = new ThoughtsAhead((branch) => this.#account.release(branch), emit);
  }

  emit(event: SearchEvent<State, Answer>): void {
    this.#emit(event);
  }

  /** True once the strategy has to come to its end. */
  get stopped(): boolean {
    return this.stopReason !== undefined || this.signal.aborted;
  }

  /**
   * Ends the search with an error: thoughts that still decode stop, then the search rejects with it. What fails after the
   * search was stopped fails for that.
   */
  fail(error: unknown): void {
    if (this.signal.aborted) return;
    this.failure ??= { error };
    this.#controller.abort(error);
  }

  /** Opens a branch after a prompt. */
  async open(prompt: readonly PromptMessage[]): Promise<ThoughtBranch> {
    const branch = await this.model.open(prompt, { signal: this.signal });
    this.#account.add(branch);
    if (this.#closed) this.release(branch);
    return branch;
  }

  fork(branch: ThoughtBranch, n: number): ThoughtBranch[] {
    if (n === 0) return [];
    const first = this.numForked(branch);
    this.#forked.set(branch, first + n);
    return this.#forkAt(branch, n, first);
  }

  numForked(branch: ThoughtBranch): number {
    return this.#forked.get(branch) ?? 0;
  }

  /** Children ahead of their turn: {@link fork} and {@link takeAhead} go on counting before them. */
  forkAhead(branch: ThoughtBranch, n: number): ThoughtBranch[] {
    return this.#forkAt(branch, n, this.numForked(branch));
  }

  /** Of the next `n` children of `branch`, those that grow already as `shape` says. */
  takeAhead(branch: ThoughtBranch, n: number, shape: string): Growth[] {
    const first = this.numForked(branch);
    const taken = this.ahead.take(branch, first, n, shape);
    this.#forked.set(branch, first + taken.length);
    return taken;
  }

  #forkAt(branch: ThoughtBranch, n: number, first: number): ThoughtBranch[] {
    const children = branch.fork(n, first);
    for (const child of children) this.#account.add(child, branch);
    return children;
  }

  /** Drops a branch, with what grows ahead from it, and books what it cost. Twice is fine. */
  release(branch: ThoughtBranch): void {
    this.#account.release(branch);
    this.ahead.drop(branch);
  }

  /** Drops every open branch, and any that a call still under way opens later. */
  close(): void {
    this.#closed = true;
    this.ahead.dropAll();
    this.#account.releaseAll();
  }

  /** What all branches of the search cost so far, open ones included. */
  usage(): TokenUsage {
    return this.#account.usage();
  }

  /** Tokens that the budget has left, less what is reserved for decodes under way. */
  get tokensLeft(): number {
    const { tokens = Number.POSITIVE_INFINITY } = this.#budget;
    return tokens - this.usage().generatedTokens - this.#account.reservedTokens;
  }

  /**
   * Leave to start up to `wanted` thoughts; undefined when a budget has no room for one. Unless thoughts decode that may
   * give room back, or the caller `canDoWithout`, the search is over then, the reason said and recorded.
   */
  grant(wanted: number, maxTokens: number, canDoWithout = false): Grant | undefined {
    if (this.stopped) return undefined;
    let granted = grant(this.#budget, this.#use(), wanted, maxTokens);
    // What grows ahead gives way.
    if (!("count" in granted && granted.count === wanted) && this.ahead.dropAll()) {
      granted = grant(this.#budget, this.#use(), wanted, maxTokens);
    }
    const reserved = this.#account.reservedTokens;
    if ("count" in granted) return reserved > 0 && granted.maxTokens < maxTokens ? undefined : granted;
    const isOver = granted.budget === "tokens" || granted.budget === "thoughts";
    if (reserved === 0 && (isOver || !canDoWithout)) this.#reach(granted.budget, granted.limit, granted.used);
    return undefined;
  }

  /** Leave to grow up to `wanted` thoughts ahead of their turn; 0 where a budget has no room for them now. */
  grantAhead(wanted: number, maxTokens: number): number {
    if (this.stopped) return 0;
    const granted = grant(this.#budget, this.#use(), wanted, maxTokens);
    return "count" in granted ? granted.count : 0;
  }

  #use(): BudgetUse {
    const { kvBytes } = this.#budget;
    const bytes = kvBytes === undefined ? 0 : (this.model.kvBytesPerToken ?? 0);
    const reserved = this.#account.reservedTokens;
    return {
      tokens: this.usage().generatedTokens + reserved,
      thoughts: this.thoughts,
      nodes: this.#account.openBranches,
      kvBytesPerToken: bytes,
      kvBytes: bytes === 0 ? 0 : bytes * (this.#account.heldTokens + reserved),
    };
  }

  /**
   * Leave to sample up to `wanted` texts of `maxTokens` each that are no thoughts (an evaluation); waits for decodes under
   * way that may give tokens back. Fewer, or none, when the budget has no more.
   */
  async grantSamples(wanted: number, maxTokens: number): Promise<number> {
    while (!this.stopped && this.tokensLeft < wanted * maxTokens && this.#account.reservedTokens > 0) {
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
    const { tokens } = this.#budget;
    const count = Math.min(wanted, Math.floor(Math.max(0, this.tokensLeft) / maxTokens));
    if (count === 0 && !this.stopped) this.#reach("tokens", tokens!, this.usage().generatedTokens);
    return count;
  }

  /** Decodes with the search's speculation until the search ends; meanwhile `maxTokens` of the budget are reserved. */
  async decode(branch: ThoughtBranch, options: ThoughtDecodeOptions): Promise<DecodedThought> {
    const giveBack = this.#account.reserve(branch, options.maxTokens);
    try {
      return await branch.decode({ signal: this.signal, speculation: this.#speculation, ...options });
    } finally {
      giveBack();
      const waiting = this.#waiting;
      this.#waiting = [];
      for (const resolve of waiting) resolve();
    }
  }

  /** Of the random numbers that the thought decodes with. */
  seedOf(thought: ThoughtId): number {
    return this.#seeds[thought]!;
  }

  /** Of the child of `parent` that comes after `next` more. */
  seedOfNext(parent: ThoughtId, next = 0): number {
    return thoughtSeed(this.seedOf(parent), (this.#children[parent] ?? 0) + next);
  }

  /** Announces a thought; thoughts are numbered in the order of these calls. */
  startThought(place: Place): ThoughtId {
    const { parent, depth, merged, parts } = place;
    const thought = ++this.thoughts;
    this.#seeds[thought] = this.seedOfNext(parent);
    this.#children[parent] = (this.#children[parent] ?? 0) + 1;
    this.depth = Math.max(this.depth, depth);
    this.emit({
      type: "thought:started",
      thought,
      parent,
      depth,
      ...(merged && { merged: [...merged] }),
      ...(parts && { parts: [...parts] }),
    });
    return thought;
  }

  /** Books a scored thought; of equals the first by number stays the best, whenever they come. */
  consider(thought: LiveThought<State>): void {
    if (this.best === undefined || this.#isBetter(thought, this.best)) this.best = thought;
  }

  /** The best thought is a right answer, and the problem's program may say so. */
  get solved(): boolean {
    return this.evaluator.usesProgram && this.best !== undefined && isSolved(this.problem, this.best.state);
  }

  /** An answer beats a part of one, then the higher score wins, then the deeper part, then the lower number. */
  #isBetter(a: LiveThought<State>, b: LiveThought<State>): boolean {
    if (a.answered !== b.answered) return a.answered;
    if (a.score !== b.score) return a.score > b.score;
    if (!a.answered && a.depth !== b.depth) return a.depth > b.depth;
    return a.id < b.id;
  }

  #reach(budget: BudgetName, limit: number, used: number): void {
    this.emit({ type: "budget:reached", budget, limit, used });
    this.stopReason = budget;
  }
}
