import type { ConstraintCache } from "./constraint.js";
import type { CustomDrafts } from "./custom-drafts.js";
import { TokenStream } from "./decode-stream.js";
import { customSource, type LoadedSources, nativeSpeculation } from "./draft-source.js";
import { checkDecodeOptions, checkTokens, nativeSampling } from "./engine-options.js";
import type {
  DecodeOptions,
  DecodeStream,
  EngineBranch,
  ExtendResult,
  ForkOptions,
  TextTokenizer,
} from "./engine-types.js";
import { DeftreeError } from "./errors.js";
import type { NativeCommand, NativeFinished } from "./native-addon.js";
import { noText, TokenIdsOnly } from "./random-model.js";
import { fromAddon, type StepDispatcher } from "./step-dispatcher.js";

/** What branches share of their engine. */
export interface BranchContext {
  readonly tokenizer: TextTokenizer;
  readonly dispatcher: StepDispatcher;
  readonly contextLength: number;
  readonly constraints: ConstraintCache;
  /**
   * Together with all commands of this turn of the event loop, in order.
   * @throws E_DISPOSED after dispose, or the error that ended the engine.
   */
  submit(commands: NativeCommand[]): void;
  /** Cancels `request` when `signal` aborts. @returns a function that stops listening. */
  cancelOnAbort(request: number, signal: AbortSignal): () => void;
  newBranchId(): number;
  readonly draftSources: LoadedSources;
  readonly customDrafts: CustomDrafts;
}

interface Cancellable {
  signal?: AbortSignal;
}

/**
 * A branch of the native engine. Commands go in when the turn of the event loop ends, in the order of the calls; promises
 * tell how they ended.
 */
export class Branch implements EngineBranch {
  readonly id: number;
  readonly #context: BranchContext;
  /** Tokens that the engine is known to have on the path. */
  #known: number;
  /** Tokens of extends on their way. */
  #pending = 0;
  #disposed = false;
  /** Children so far: part of their random path. */
  #numForked = 0;

  /** The caller has submitted, or will submit, the command that makes `id`. */
  constructor(context: BranchContext, id: number, length: number) {
    this.#context = context;
    this.id = id;
    this.#known = length;
  }

  get length(): number {
    return this.#known + this.#pending;
  }

  get disposed(): boolean {
    return this.#disposed;
  }

  async extend(content: string | readonly number[], { signal }: Cancellable = {}): Promise<ExtendResult> {
    this.#checkUsable();
    const tokens = this.#tokensOf(content);
    this.#checkFits(tokens.length, "extend");
    checkNotAborted(signal);
    if (tokens.length === 0) return { length: this.length, reusedTokens: 0 };
    this.#pending += tokens.length;
    let finished: NativeFinished;
    try {
      finished = await this.#request(
        (request) => ({ op: "extend", request, branch: this.id, tokens: Int32Array.from(tokens) }),
        signal,
      );
    } finally {
      this.#pending -= tokens.length;
    }
    this.#known = finished.branchLength;
    this.#checkDone(finished, "extend");
    return { length: finished.branchLength, reusedTokens: finished.reusedTokens ?? 0 };
  }

  fork(n: number, { firstOrdinal = this.#numForked }: ForkOptions = {}): Branch[] {
    this.#checkUsable();
    if (!Number.isInteger(n) || n < 1 || n > 65536) {
      throw new DeftreeError("E_BAD_ARGUMENT", `fork takes a number of branches from 1 to 65536; got ${n}`);
    }
    if (!Number.isInteger(firstOrdinal) || firstOrdinal < 0 || firstOrdinal + n > 2 ** 32) {
      throw new DeftreeError("E_BAD_ARGUMENT", `firstOrdinal must be an integer from 0; got ${firstOrdinal}`);
    }
    const branches = Array.from(
      { length: n },
      () => new Branch(this.#context, this.#context.newBranchId(), this.length),
    );
    this.#numForked = Math.max(this.#numForked, firstOrdinal + n);
    const request = this.#context.dispatcher.open({
      finish: ({ branchLength }) => {
        for (const branch of branches) branch.#known = branchLength;
      },
      fail: () => {}, // the children's own commands fail with the same reason
    });
    this.#submit(request, [
      { op: "fork", request, branch: this.id, children: branches.map(({ id }) => id), firstOrdinal },
    ]);
    return branches;
  }

  decode(options: DecodeOptions = {}): DecodeStream {
    const problem = this.#problemWithDecode(options);
    const { tokenizer, dispatcher, contextLength, constraints, draftSources, customDrafts } = this.#context;
    const { signal, stop = [], stopTokens = tokenizer.eosTokens } = problem ? {} : options;
    let detach = () => {};
    let endDrafts = () => {};
    const stream = new TokenStream(tokenizer, {
      stop,
      stopTokens,
      wantsLogprobs: options.logprobs !== undefined,
      onToken: () => {
        this.#known++;
      },
      onEnd: (branchLength) => {
        detach();
        endDrafts();
        if (branchLength !== undefined) this.#known = branchLength;
      },
    });
    if (problem) stream.fail(problem);
    else if (signal?.aborted) stream.finishAborted();
    else {
      const request = dispatcher.open(stream);
      const source = customSource(options.speculation, draftSources);
      if (source) endDrafts = customDrafts.begin(this.id, source);
      try {
        this.#submit(request, [
          {
            op: "decode",
            request,
            branch: this.id,
            maxTokens: options.maxTokens ?? contextLength,
            stopTokens: [...stopTokens],
            stopStrings: stop.map((text) => Buffer.from(text, "utf8")),
            sampling: nativeSampling(options),
            ...(options.speculation !== undefined && {
              speculation: nativeSpeculation(options.speculation, draftSources),
            }),
            ...(options.constraint !== undefined && { constraint: constraints.native(options.constraint) }),
          },
        ]);
        if (signal) detach = this.#context.cancelOnAbort(request, signal);
      } catch (error) {
        stream.fail(fromAddon(error));
      }
    }
    return stream;
  }

  async score(
    continuation: string | readonly number[],
    { signal }: Cancellable = {},
  ): Promise<{ tokens: number[]; logprobs: number[]; total: number }> {
    this.#checkUsable();
    const tokens = this.#tokensOf(continuation);
    this.#checkNotEmpty("score");
    this.#checkFits(tokens.length, "score");
    checkNotAborted(signal);
    if (tokens.length === 0) return { tokens, logprobs: [], total: 0 };
    const finished = await this.#request(
      (request) => ({ op: "score", request, branch: this.id, tokens: Int32Array.from(tokens) }),
      signal,
    );
    this.#checkDone(finished, "score");
    const logprobs = [...(finished.logprobs ?? [])];
    return { tokens, logprobs, total: logprobs.reduce((sum, logprob) => sum + logprob, 0) };
  }

  async logits(): Promise<Float32Array> {
    this.#checkUsable();
    this.#checkNotEmpty("logits");
    const finished = await this.#request((request) => ({ op: "logits", request, branch: this.id }), undefined);
    this.#checkDone(finished, "logits");
    return finished.logits ?? new Float32Array(0);
  }

  async truncate(length: number): Promise<void> {
    this.#checkUsable();
    if (!Number.isInteger(length) || length < 0 || length > this.length) {
      throw new DeftreeError(
        "E_BAD_ARGUMENT",
        `truncate takes a length from 0 to ${this.length}, the branch's; got ${length}`,
        {
          figures: { length: this.length },
        },
      );
    }
    const finished = await this.#request(
      (request) => ({ op: "truncate", request, branch: this.id, length }),
      undefined,
    );
    this.#known = finished.branchLength;
    this.#checkDone(finished, "truncate");
  }

  prune({ keepCached = false }: { keepCached?: boolean } = {}): void {
    if (this.#disposed) return;
    this.#disposed = true;
    if (this.#context.dispatcher.fatal) return; // the engine is gone, and the branch with it
    this.#context.submit([{ op: "prune", branch: this.id, keepCached }]);
  }

  [Symbol.dispose](): void {
    this.prune();
  }

  #tokensOf(content: string | readonly number[]): number[] {
    if (typeof content === "string") return this.#context.tokenizer.encode(content);
    if (!Array.isArray(content)) throw new DeftreeError("E_BAD_ARGUMENT", "Content is a string or a list of token ids");
    checkTokens(content, this.#context.tokenizer.vocabSize);
    return [...content];
  }

  /** Submits one command and waits for its end. */
  #request(command: (request: number) => NativeCommand, signal: AbortSignal | undefined): Promise<NativeFinished> {
    return new Promise<NativeFinished>((resolve, reject) => {
      let detach = () => {};
      const request = this.#context.dispatcher.open({
        finish: (finished) => {
          detach();
          resolve(finished);
        },
        fail: (error) => {
          detach();
          reject(error);
        },
      });
      this.#submit(request, [command(request)]);
      if (signal) detach = this.#context.cancelOnAbort(request, signal);
    });
  }

  #submit(request: number, commands: NativeCommand[]): void {
    try {
      this.#context.submit(commands);
    } catch (error) {
      this.#context.dispatcher.abandon(request);
      throw error;
    }
  }

  #checkUsable(): void {
    const { fatal } = this.#context.dispatcher;
    if (fatal) throw fatal;
    if (this.#disposed) throw new DeftreeError("E_DISPOSED", `Branch ${this.id} was pruned`);
  }

  /** A stream is returned in any case, so what is wrong with the call is its error. */
  #problemWithDecode(options: DecodeOptions): DeftreeError | undefined {
    try {
      this.#checkUsable();
      const { tokenizer } = this.#context;
      checkDecodeOptions(options, tokenizer.vocabSize, this.#context.draftSources);
      if ((options.stop?.length || options.constraint) && tokenizer instanceof TokenIdsOnly) throw noText();
      this.#checkNotEmpty("decode");
      if (options.constraint) this.#context.constraints.native(options.constraint); // compiled, or refused
      return undefined;
    } catch (error) {
      return fromAddon(error);
    }
  }

  #checkNotEmpty(operation: string): void {
    if (this.length === 0)
      throw new DeftreeError("E_BAD_ARGUMENT", `${operation} needs a token to follow; extend the empty branch first`);
  }

  #checkFits(added: number, operation: string): void {
    const { contextLength } = this.#context;
    const wanted = this.length + added;
    if (wanted > contextLength) {
      throw new DeftreeError(
        "E_CONTEXT_FULL",
        `${operation} would make the branch ${wanted} tokens long (${this.length} + ${added}); the context holds ${contextLength}`,
        { figures: { length: this.length, added, wanted, contextLength } },
      );
    }
  }

  #checkDone({ reason }: NativeFinished, operation: string): void {
    if (reason === "aborted") throw new DeftreeError("E_ABORTED", `${operation} was aborted`);
    if (reason === "pruned")
      throw new DeftreeError("E_DISPOSED", `Branch ${this.id} was pruned while ${operation} ran`);
  }
}

function checkNotAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted)
    throw new DeftreeError("E_ABORTED", "The signal was aborted before the call", { cause: signal.reason });
}
