/**
 * Branches that are opened on the model only when it has to decode from them. Until then they are a prompt, fork numbers
 * and known text. So a resumed search computes the branches that it grows on and no other, and a cached answer computes
 * none. Fork numbers are kept, so a branch opened late draws the random numbers that it would have drawn.
 *
 * A branch is not grown any more once it was forked, as is every strategy's way.
 */
import type {
  DecodedThought,
  PromptMessage,
  ThoughtBranch,
  ThoughtDecodeOptions,
  ThoughtModel,
  TokenUsage,
} from "./thought-model.js";

type Content = string | readonly number[];

/** Answers that were decoded, by where. */
export type AnswerMemory = Map<string, DecodedThought>;

export class LazyModel implements ThoughtModel {
  readonly name: string;
  readonly kvBytesPerToken: number | undefined;

  constructor(
    readonly model: ThoughtModel,
    private readonly memory?: AnswerMemory,
  ) {
    this.name = model.name;
    this.kvBytesPerToken = model.kvBytesPerToken;
  }

  async open(prompt: readonly PromptMessage[], options: { signal?: AbortSignal } = {}): Promise<ThoughtBranch> {
    options.signal?.throwIfAborted();
    return new LazyBranch(JSON.stringify(prompt), (signal) => this.model.open(prompt, { signal }), this.memory);
  }

  usage() {
    return this.model.usage();
  }
}

/** A child that has no real branch yet. */
interface WaitingChild {
  ordinal: number;
}

export class LazyBranch implements ThoughtBranch {
  readonly #known: TokenUsage = { generatedTokens: 0, promptTokens: 0, prefilledTokens: 0 };
  /** What stands on the branch, and is not on the real one yet. */
  #content: Content[] = [];
  #opening: Promise<ThoughtBranch> | undefined;
  #real: ThoughtBranch | undefined;
  #released = false;
  #numForked = 0;
  /** Children that may still need their real fork. */
  readonly #waiting = new Set<WaitingChild>();

  constructor(
    /** Prompt, fork numbers and texts that lead here. */
    private key: string,
    private readonly open: (signal?: AbortSignal) => Promise<ThoughtBranch>,
    private readonly memory?: AnswerMemory,
    /** Called when this will never be opened. */
    private readonly onUnneeded: () => void = () => {},
  ) {}

  get usage(): TokenUsage {
    const real = this.#real?.usage ?? { generatedTokens: 0, promptTokens: 0, prefilledTokens: 0 };
    return {
      generatedTokens: this.#known.generatedTokens + real.generatedTokens,
      promptTokens: this.#known.promptTokens + real.promptTokens,
      prefilledTokens: this.#known.prefilledTokens + real.prefilledTokens,
    };
  }

  get length(): number | undefined {
    return this.#real?.length;
  }

  fork(n: number, first = this.#numForked): LazyBranch[] {
    this.#numForked = Math.max(this.#numForked, first + n);
    return Array.from({ length: n }, (_, i) => {
      const child = { ordinal: first + i };
      this.#waiting.add(child);
      return new LazyBranch(
        `${this.key}/${child.ordinal}`,
        (signal) => this.#claim(child, signal),
        this.memory,
        () => this.#disclaim(child),
      );
    });
  }

  async extend(content: Content, signal?: AbortSignal): Promise<void> {
    this.key += `+${JSON.stringify(content)}`;
    if (this.#real === undefined) this.#content.push(content);
    else await this.#real.extend(content, signal);
  }

  /** Takes what was decoded in an earlier run as decoded here. */
  adopt(decoded: DecodedThought): void {
    this.#append(decoded);
    this.#known.generatedTokens += decoded.tokens;
  }

  async decode(options: ThoughtDecodeOptions): Promise<DecodedThought> {
    const { onText, signal, seed: _, speculation: __, ...rest } = options;
    const key = `${this.key}?${JSON.stringify(rest)}`;
    const known = this.memory?.get(key);
    if (known !== undefined) {
      this.#append(known);
      const goesOn = known.text === "" || onText?.(known.text, known.tokens) !== false;
      return goesOn ? known : { ...known, finishReason: "cut", ended: false };
    }
    const real = await this.#materialise(signal);
    const decoded = await real.decode(options);
    this.key += `+${JSON.stringify(decoded.text)}`;
    if (decoded.finishReason === "stop" || decoded.finishReason === "length") this.memory?.set(key, decoded);
    return decoded;
  }

  async score(continuations: string[], signal?: AbortSignal): Promise<number[]> {
    const real = await this.#materialise(signal);
    if (real.score === undefined) throw new TypeError("the model gives no log-probabilities");
    return real.score(continuations, signal);
  }

  release(): void {
    if (this.#released) return;
    this.#released = true;
    this.#releaseUnneeded();
  }

  #append({ text, stopString = "", tokenIds }: DecodedThought): void {
    this.key += `+${JSON.stringify(text + stopString)}`;
    const content = tokenIds ?? text + stopString;
    if (content.length > 0) this.#content.push(content);
  }

  #materialise(signal?: AbortSignal): Promise<ThoughtBranch> {
    this.#opening ??= this.#openNow(signal);
    return this.#opening;
  }

  async #openNow(signal?: AbortSignal): Promise<ThoughtBranch> {
    try {
      const real = await this.open(signal);
      this.#real = real;
      for (const content of this.#content.splice(0)) await real.extend(content, signal);
      return real;
    } catch (error) {
      this.onUnneeded();
      throw error;
    } finally {
      this.#releaseUnneeded();
    }
  }

  /** The real fork of `child`. */
  async #claim(child: WaitingChild, signal?: AbortSignal): Promise<ThoughtBranch> {
    const real = await this.#materialise(signal);
    const [fork] = real.fork(1, child.ordinal);
    this.#disclaim(child);
    return fork!;
  }

  #disclaim(child: WaitingChild): void {
    this.#waiting.delete(child);
    this.#releaseUnneeded();
  }

  /** The real branch goes when nobody needs it: not this one, and no child that has yet to be forked from it. */
  #releaseUnneeded(): void {
    if (!this.#released || this.#waiting.size > 0) return;
    if (this.#real !== undefined) this.#real.release();
    else if (this.#opening === undefined) this.onUnneeded();
  }
}
