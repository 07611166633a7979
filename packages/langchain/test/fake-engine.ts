/**
 * A BranchEngine without a model: a token is one UTF-16 code unit, the answer is what `reply` says, and with a
 * temperature above 0 each digit of it is another one with probability 1/4, by the seed. Prompts that were extended
 * are remembered as the cache of prefixes.
 */
import type {
  BranchEngine,
  ChatTurn,
  DecodedToken,
  DecodeOptions,
  DecodeResult,
  DecodeStream,
  EngineBranch,
  EngineInfo,
  ExtendResult,
  TextTokenizer,
} from "@deftree/engine";
import { DeftreeError } from "@deftree/engine";

const endOfTurn = 0x10000;

export interface FakeEngineOptions {
  /** The whole answer to a rendered prompt. */
  reply: (prompt: string) => string;
  /** Awaited before each token. */
  pause?: () => Promise<void>;
  /** 2000 by default. */
  contextLength?: number;
}

export class FakeEngine implements BranchEngine {
  openBranches = 0;
  disposed = false;
  decodedTokens = 0;
  readonly decodes: DecodeOptions[] = [];
  readonly cached: number[][] = [];
  readonly info = {
    modelName: "fake",
    modelPath: "fake",
    contextLength: 2000,
    vocabSize: endOfTurn + 1,
    device: "cpu",
    attention: "deft-flatten",
  } as EngineInfo;

  readonly tokenizer: TextTokenizer = {
    vocabSize: endOfTurn + 1,
    encode: (text) => [...text].map((character) => character.charCodeAt(0)),
    encodeWithSpecialTokens: (text) => this.tokenizer.encode(text),
    decode: (tokens) =>
      tokens
        .filter((token) => token !== endOfTurn)
        .map((token) => String.fromCharCode(token))
        .join(""),
    tokenBytes: (token) => new TextEncoder().encode(token === endOfTurn ? "" : String.fromCharCode(token)),
    eosTokens: [endOfTurn],
    bosToken: undefined,
  };

  constructor(readonly options: FakeEngineOptions) {
    this.info.contextLength = options.contextLength ?? this.info.contextLength;
  }

  branch(): EngineBranch {
    return new FakeBranch(this, [], 0);
  }

  encodeChat(turns: readonly ChatTurn[], options: { addGenerationPrompt?: boolean } = {}): number[] {
    const text = turns.map(({ role, content }) => `<${role}>${content}\n`).join("");
    return this.tokenizer.encode(options.addGenerationPrompt ? `${text}<assistant>` : text);
  }

  stats() {
    const { decodedTokens } = this;
    return { decodedTokens, kvBytesRead: decodedTokens, kvBytesUnshared: 3 * decodedTokens } as ReturnType<
      BranchEngine["stats"]
    >;
  }

  async checkInvariants(): Promise<void> {}

  async dispose(): Promise<void> {
    this.disposed = true;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }
}

class FakeBranch implements EngineBranch {
  static #ids = 0;
  readonly id = FakeBranch.#ids++;
  disposed = false;

  constructor(
    private readonly engine: FakeEngine,
    private tokens: number[],
    /** Where the answer begins. */
    private promptLength: number,
  ) {
    engine.openBranches++;
  }

  get length(): number {
    return this.tokens.length;
  }

  async extend(content: string | readonly number[], options: { signal?: AbortSignal } = {}): Promise<ExtendResult> {
    this.#check();
    if (options.signal?.aborted) throw new DeftreeError("E_ABORTED", "the extend was aborted");
    const added = typeof content === "string" ? this.engine.tokenizer.encode(content) : content;
    if (this.tokens.length + added.length > this.engine.info.contextLength) {
      throw new DeftreeError("E_CONTEXT_FULL", "the prompt is longer than the context");
    }
    const start = this.tokens.length;
    this.tokens = [...this.tokens, ...added];
    if (typeof content !== "string" && start === 0) this.promptLength = this.tokens.length;
    const reusedTokens = Math.max(0, this.#longestCached() - start);
    this.engine.cached.push([...this.tokens]);
    return { length: this.tokens.length, reusedTokens };
  }

  fork(n: number): EngineBranch[] {
    this.#check();
    return Array.from({ length: n }, () => new FakeBranch(this.engine, [...this.tokens], this.promptLength));
  }

  decode(options: DecodeOptions = {}): DecodeStream {
    this.#check();
    this.engine.decodes.push(options);
    const seen: DecodedToken[] = [];
    let wake = () => {};
    let done = false;
    const result = this.#decode(options, (token) => {
      seen.push(token);
      wake();
    }).finally(() => {
      done = true;
      wake();
    });
    return {
      result,
      // biome-ignore lint/suspicious/noThenProperty: a decode stream is awaitable by contract
      then: (onfulfilled, onrejected) => result.then(onfulfilled, onrejected),
      async *[Symbol.asyncIterator]() {
        for (let next = 0; next < seen.length || !done; ) {
          if (next < seen.length) yield seen[next++]!;
          else await new Promise<void>((resolve) => (wake = resolve));
        }
      },
    };
  }

  async score(continuation: string | readonly number[]) {
    const tokens = typeof continuation === "string" ? this.engine.tokenizer.encode(continuation) : [...continuation];
    return { tokens, logprobs: tokens.map(() => -1), total: -tokens.length };
  }

  async logits(): Promise<Float32Array> {
    throw new Error("the fake engine has no logits");
  }

  async truncate(length: number): Promise<void> {
    this.tokens.length = length;
  }

  prune(): void {
    if (!this.disposed) this.engine.openBranches--;
    this.disposed = true;
  }

  [Symbol.dispose](): void {
    this.prune();
  }

  async #decode(options: DecodeOptions, publish: (token: DecodedToken) => void): Promise<DecodeResult> {
    const { stop = [], maxTokens = 1000, signal } = options;
    const tokens: number[] = [];
    const text = () => this.engine.tokenizer.decode(tokens);
    while (tokens.length < maxTokens) {
      await this.engine.options.pause?.();
      if (signal?.aborted) return { tokens, text: text(), finishReason: "aborted" };
      if (this.disposed) return { tokens, text: text(), finishReason: "pruned" };
      const token = this.#next(options);
      tokens.push(token);
      this.tokens.push(token);
      this.engine.decodedTokens++;
      const stopString = stop.find((candidate) => text().endsWith(candidate));
      const isText = token !== endOfTurn && stopString === undefined;
      publish({
        id: token,
        text: isText ? String.fromCharCode(token) : "",
        ...(options.logprobs === undefined ? {} : { logprob: -0.5, topLogprobs: [{ id: token, logprob: -0.5 }] }),
      });
      if (token === endOfTurn) return { tokens, text: text(), finishReason: "stop" };
      if (stopString !== undefined) {
        return { tokens, text: text().slice(0, -stopString.length), finishReason: "stop", stopString };
      }
    }
    return { tokens, text: text(), finishReason: "length" };
  }

  #next({ temperature = 0, seed = 0 }: DecodeOptions): number {
    const prompt = this.engine.tokenizer.decode(this.tokens.slice(0, this.promptLength));
    const position = this.tokens.length - this.promptLength;
    const right = this.engine.options.reply(prompt)[position];
    if (right === undefined) return endOfTurn;
    const noise = hash(seed + hash(position));
    const wrong = temperature > 0 && /\d/.test(right) && noise % 4 === 1;
    return (wrong ? String((Number(right) + 1 + (noise % 9)) % 10) : right).charCodeAt(0);
  }

  #longestCached(): number {
    const common = (cached: number[]) => {
      let length = 0;
      while (length < this.tokens.length && cached[length] === this.tokens[length]) length++;
      return length;
    };
    return Math.max(0, ...this.engine.cached.map(common));
  }

  #check(): void {
    if (this.disposed) throw new DeftreeError("E_DISPOSED", "the branch was pruned");
  }
}

function hash(value: number): number {
  const mixed = Math.imul(value ^ (value >>> 16), 0x45d9f3b);
  const again = Math.imul(mixed ^ (mixed >>> 16), 0x45d9f3b);
  return (again ^ (again >>> 16)) >>> 0;
}
