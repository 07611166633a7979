/** A search's model over the engine's branches: forks share their KV, siblings decode in one step. */
import type { BranchEngine, DecodeResult, EngineBranch, Speculation } from "@deftree/engine";
import type {
  DecodedThought,
  KvUsage,
  PromptMessage,
  ThoughtBranch,
  ThoughtDecodeOptions,
  ThoughtModel,
  TokenUsage,
} from "@deftree/search";

export class EngineThoughtModel implements ThoughtModel {
  readonly name: string;
  readonly kvBytesPerToken: number | undefined;

  constructor(private readonly engine: BranchEngine) {
    this.name = engine.info.modelName;
    this.kvBytesPerToken = engine.info.kvBytesPerToken;
  }

  async open(prompt: readonly PromptMessage[], options: { signal?: AbortSignal } = {}): Promise<ThoughtBranch> {
    const branch = this.engine.branch();
    try {
      const tokens = this.engine.encodeChat(prompt, { addGenerationPrompt: true });
      const { reusedTokens } = await branch.extend(tokens, options);
      return new EngineThoughtBranch(this.engine, branch, tokens.length - reusedTokens, true);
    } catch (error) {
      branch.prune();
      throw error;
    }
  }

  usage(): KvUsage {
    const { kvBytesRead, kvBytesUnshared } = this.engine.stats();
    return { kvBytesRead, kvBytesUnshared };
  }
}

class EngineThoughtBranch implements ThoughtBranch {
  readonly usage: TokenUsage;

  constructor(
    private readonly engine: BranchEngine,
    private readonly branch: EngineBranch,
    prefilledTokens: number,
    /** A prompt stays in the cache for the next search on it; thoughts do not. */
    private readonly keepCached: boolean,
  ) {
    this.usage = { generatedTokens: 0, promptTokens: 0, prefilledTokens };
  }

  get length(): number {
    return this.branch.length;
  }

  fork(n: number, first?: number): ThoughtBranch[] {
    return this.branch
      .fork(n, { firstOrdinal: first })
      .map((child) => new EngineThoughtBranch(this.engine, child, 0, false));
  }

  async extend(content: string | readonly number[], signal?: AbortSignal): Promise<void> {
    const before = this.branch.length;
    const { length, reusedTokens } = await this.branch.extend(content, { signal });
    this.usage.prefilledTokens += length - before - reusedTokens;
  }

  async decode(options: ThoughtDecodeOptions): Promise<DecodedThought> {
    const { onText, signal, speculation, format, ...rest } = options;
    const cut = new AbortController();
    const before = this.branch.length;
    this.usage.promptTokens += before;
    const stream = this.branch.decode({
      ...rest,
      speculation: speculation as Speculation | undefined,
      ...(format && { constraint: format }),
      signal: signal === undefined ? cut.signal : AbortSignal.any([signal, cut.signal]),
    });
    let text = "";
    let tokens = 0;
    let verdict: boolean | "end" | void = true;
    try {
      for await (const token of stream) {
        tokens++;
        text += token.text;
        if (token.text !== "") verdict = onText?.(token.text, tokens);
        if (verdict === false) this.release();
        if (verdict === "end") cut.abort();
        if (verdict === false || verdict === "end") break;
      }
    } catch (error) {
      cut.abort();
      await stream.result.catch(() => {});
      throw error;
    }
    const result = await stream.result;
    this.usage.generatedTokens += result.tokens.length;
    if (verdict === false) return { text, tokens, finishReason: "cut", ended: false };
    if (verdict === "end") {
      // More may have been decoded by the time the engine heard of it.
      const tokenIds = result.tokens.slice(0, tokens);
      await this.branch.truncate(before + tokens);
      return { text, tokens, finishReason: "stop", stopString: this.#after(text, tokenIds), ended: false, tokenIds };
    }
    return {
      text: result.text,
      tokens: result.tokens.length,
      finishReason: result.finishReason === "pruned" ? "aborted" : result.finishReason,
      stopString: this.#stopText(result),
      ended: result.finishReason === "stop" && this.engine.tokenizer.eosTokens.includes(result.tokens.at(-1)!),
      tokenIds: result.tokens,
    };
  }

  async score(continuations: string[], signal?: AbortSignal): Promise<number[]> {
    const scores = await Promise.all(continuations.map((text) => this.branch.score(text, { signal })));
    return scores.map(({ total }) => total);
  }

  release(): void {
    this.branch.prune({ keepCached: this.keepCached });
  }

  /** The stop string, and what else the token that completed it carries: the branch holds all of it. */
  #stopText({ stopString, tokens, text }: DecodeResult): string | undefined {
    return stopString === undefined ? undefined : (this.#after(text, tokens) ?? stopString);
  }

  /** What `tokens` say beyond `text`. */
  #after(text: string, tokens: readonly number[]): string | undefined {
    const whole = this.engine.tokenizer.decode(tokens);
    return whole.startsWith(text) ? whole.slice(text.length) || undefined : undefined;
  }
}
