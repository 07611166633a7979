import type { DecodedToken, DecodeResult, DecodeStream, FinishReason, TextTokenizer } from "./engine-types.js";
import type { DeftreeError } from "./errors.js";
import type { NativeFinished, NativeFinishReason } from "./native-addon.js";
import type { RequestHandler, StepToken } from "./step-dispatcher.js";
import { TextStream } from "./text-stream.js";

interface TokenStreamOptions {
  stop: readonly string[];
  /** Tokens whose text is not part of the result. */
  stopTokens: readonly number[];
  wantsLogprobs: boolean;
  onToken(): void;
  /** Called once, with the branch's length where it is known. */
  onEnd(branchLength: number | undefined): void;
}

/** One decode: fed by the dispatcher, read by the caller. Tokens are kept, so it may be iterated late, or twice. */
export class TokenStream implements DecodeStream, RequestHandler {
  readonly result: Promise<DecodeResult>;
  readonly #tokenizer: TextTokenizer;
  readonly #stop: readonly string[];
  readonly #stopTokens: ReadonlySet<number>;
  readonly #wantsLogprobs: boolean;
  readonly #onEnd: (branchLength: number | undefined) => void;
  readonly #onToken: () => void;
  readonly #text: TextStream;
  readonly #tokens: DecodedToken[] = [];
  #wake: (() => void)[] = [];
  #ended = false;
  #error: DeftreeError | undefined;
  #resolve!: (result: DecodeResult) => void;
  #reject!: (error: DeftreeError) => void;

  constructor(tokenizer: TextTokenizer, { stop, stopTokens, wantsLogprobs, onToken, onEnd }: TokenStreamOptions) {
    this.#tokenizer = tokenizer;
    this.#stop = stop;
    this.#stopTokens = new Set(stopTokens);
    this.#wantsLogprobs = wantsLogprobs;
    this.#onToken = onToken;
    this.#onEnd = onEnd;
    this.#text = new TextStream(stop.map((text) => Buffer.from(text, "utf8")));
    this.result = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    this.result.catch(() => {}); // who only iterates gets the error there
  }

  /** [dispatcher] */
  token({ id, timeMs, logprob, top }: StepToken): void {
    const text = this.#stopTokens.has(id) ? "" : this.#text.push(this.#tokenizer.tokenBytes(id));
    const decoded: DecodedToken = { id, text, timeMs };
    if (this.#wantsLogprobs) decoded.logprob = logprob;
    if (top) decoded.topLogprobs = top.map((entry) => ({ id: entry.token, logprob: entry.logprob }));
    this.#tokens.push(decoded);
    this.#onToken();
    this.#wakeReaders();
  }

  /** [dispatcher] */
  finish(finished: NativeFinished): void {
    this.#end(finishReason(finished.reason), finished.branchLength, finished.stopIndex);
  }

  /** Ends it before it ran, with nothing decoded. */
  finishAborted(): void {
    this.#end("aborted", undefined, undefined);
  }

  /** [dispatcher] */
  fail(error: DeftreeError): void {
    this.#error = error;
    this.#ended = true;
    this.#onEnd(undefined);
    this.#reject(error);
    this.#wakeReaders();
  }

  // biome-ignore lint/suspicious/noThenProperty: a DecodeStream can be awaited for the whole result
  then<T = DecodeResult, E = never>(
    onFulfilled?: ((result: DecodeResult) => T | PromiseLike<T>) | null,
    onRejected?: ((error: unknown) => E | PromiseLike<E>) | null,
  ): Promise<T | E> {
    return this.result.then(onFulfilled, onRejected);
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<DecodedToken> {
    for (let next = 0; ; ) {
      while (next < this.#numReadable()) yield this.#tokens[next++]!;
      if (this.#error) throw this.#error;
      if (this.#ended) return;
      await new Promise<void>((resolve) => this.#wake.push(resolve));
    }
  }

  /** While text is held back, the last token waits: its text may still grow. */
  #numReadable(): number {
    return this.#ended || !this.#text.isHolding ? this.#tokens.length : this.#tokens.length - 1;
  }

  #end(reason: FinishReason, branchLength: number | undefined, stopIndex: number | undefined): void {
    const rest = this.#text.flush();
    const last = this.#tokens.at(-1);
    if (last) last.text += rest;
    const result: DecodeResult = {
      tokens: this.#tokens.map(({ id }) => id),
      text: this.#tokens.map(({ text }) => text).join(""),
      finishReason: reason,
    };
    const matched = this.#text.match?.index ?? stopIndex;
    if (matched !== undefined) result.stopString = this.#stop[matched];
    if (this.#wantsLogprobs) result.logprobs = this.#tokens.map(({ logprob }) => logprob!);
    this.#ended = true;
    this.#onEnd(branchLength);
    this.#resolve(result);
    this.#wakeReaders();
  }

  #wakeReaders(): void {
    const waiting = this.#wake;
    this.#wake = [];
    for (const wake of waiting) wake();
  }
}

function finishReason(reason: NativeFinishReason): FinishReason {
  switch (reason) {
    case "stop":
    case "stop-string":
      return "stop";
    case "pruned":
      return "pruned";
    case "aborted":
      return "aborted";
    default:
      return "length";
  }
}
