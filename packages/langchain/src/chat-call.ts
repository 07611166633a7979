/** One answer of the chat model: a prompt's branch, its decoding, and what is said about it. */
import {
  type BranchEngine,
  type DecodedToken,
  type DecodeOptions,
  type DecodeResult,
  type DecodeStream,
  DeftreeError,
  type EngineBranch,
} from "@deftree/engine";
import type { UsageMetadata } from "@langchain/core/messages";

export class ChatCall {
  private constructor(
    private readonly engine: BranchEngine,
    private readonly branch: EngineBranch,
    private readonly promptTokens: number,
    private readonly reusedTokens: number,
    readonly options: DecodeOptions,
    /** Which of several samples of the prompt, where there are several. */
    private readonly sample: number | undefined,
    readonly decoding: DecodeStream,
  ) {}

  /** `n` answers to one prompt: it is computed once, and its forks decode side by side. */
  static async start(
    engine: BranchEngine,
    prompt: readonly number[],
    options: DecodeOptions,
    n: number,
  ): Promise<ChatCall[]> {
    if (!Number.isInteger(n) || n < 1) {
      throw new DeftreeError("E_BAD_ARGUMENT", `n is a whole number of answers, at least 1; got ${n}`);
    }
    const branch = engine.branch();
    try {
      const { reusedTokens } = await branch.extend(prompt, { signal: options.signal });
      const start = (sampled: EngineBranch, reused: number, sample?: number) =>
        new ChatCall(engine, sampled, prompt.length, reused, options, sample, sampled.decode(options));
      if (n === 1) return [start(branch, reusedTokens)];
      const samples = branch.fork(n);
      branch.prune({ keepCached: true });
      return samples.map((fork, sample) => start(fork, sample === 0 ? reusedTokens : prompt.length, sample));
    } catch (error) {
      branch.prune();
      throw error;
    }
  }

  get wantsLogprobs(): boolean {
    return this.options.logprobs !== undefined;
  }

  /** Drops the branch. The conversation stays cached, so its next turn computes only what is new. */
  end(): void {
    this.branch.prune({ keepCached: true });
  }

  usage(result: DecodeResult): UsageMetadata {
    const outputTokens = result.tokens.length;
    return {
      input_tokens: this.promptTokens,
      output_tokens: outputTokens,
      total_tokens: this.promptTokens + outputTokens,
      input_token_details: { cache_read: this.reusedTokens },
    };
  }

  metadata(result: DecodeResult): Record<string, unknown> {
    const { modelName } = this.engine.info;
    const { seed } = this.options;
    return {
      model: modelName,
      model_name: modelName,
      model_provider: "deftree",
      finish_reason: result.finishReason,
      ...(result.stopString === undefined ? {} : { stop_string: result.stopString }),
      ...(seed === undefined ? {} : { seed }),
      ...(this.sample === undefined ? {} : { sample: this.sample }),
    };
  }

  /** `{ logprobs }` in the shape that ChatOpenAI gives them; nothing when they were not asked for. */
  logprobs(tokens: readonly DecodedToken[]): { logprobs?: { content: TokenLogprob[] } } {
    if (!this.wantsLogprobs) return {};
    const { tokenizer } = this.engine;
    const entry = (id: number, logprob: number) => {
      const bytes = tokenizer.tokenBytes(id);
      return { token: new TextDecoder().decode(bytes), logprob, bytes: [...bytes] };
    };
    const content = tokens.map(({ id, logprob, topLogprobs = [] }) => ({
      ...entry(id, logprob ?? Number.NaN),
      top_logprobs: topLogprobs.map((top) => entry(top.id, top.logprob)),
    }));
    return { logprobs: { content } };
  }
}

interface TokenLogprob {
  token: string;
  logprob: number;
  bytes: number[];
  top_logprobs: Omit<TokenLogprob, "top_logprobs">[];
}
