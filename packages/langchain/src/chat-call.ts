/** One answer of the chat model: a prompt's branch, its decoding, and what is said about it. */
import type {
  BranchEngine,
  DecodedToken,
  DecodeOptions,
  DecodeResult,
  DecodeStream,
  EngineBranch,
} from "@deftree/engine";
import type { UsageMetadata } from "@langchain/core/messages";

export class ChatCall {
  private constructor(
    private readonly engine: BranchEngine,
    private readonly branch: EngineBranch,
    private readonly promptTokens: number,
    private readonly reusedTokens: number,
    readonly decoding: DecodeStream,
    private readonly seed: number | undefined,
  ) {}

  static async start(engine: BranchEngine, prompt: readonly number[], options: DecodeOptions): Promise<ChatCall> {
    const branch = engine.branch();
    try {
      const { reusedTokens } = await branch.extend(prompt, { signal: options.signal });
      return new ChatCall(engine, branch, prompt.length, reusedTokens, branch.decode(options), options.seed);
    } catch (error) {
      branch.prune();
      throw error;
    }
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
    return {
      model: modelName,
      model_name: modelName,
      model_provider: "deftree",
      finish_reason: result.finishReason,
      ...(result.stopString === undefined ? {} : { stop_string: result.stopString }),
      ...(this.seed === undefined ? {} : { seed: this.seed }),
    };
  }

  /** Log-probabilities of tokens in the shape that ChatOpenAI gives them. */
  logprobs(tokens: readonly DecodedToken[]): { content: TokenLogprob[] } {
    const { tokenizer } = this.engine;
    const entry = (id: number, logprob: number) => {
      const bytes = tokenizer.tokenBytes(id);
      return { token: new TextDecoder().decode(bytes), logprob, bytes: [...bytes] };
    };
    return {
      content: tokens.map(({ id, logprob, topLogprobs = [] }) => ({
        ...entry(id, logprob ?? Number.NaN),
        top_logprobs: topLogprobs.map((top) => entry(top.id, top.logprob)),
      })),
    };
  }
}

interface TokenLogprob {
  token: string;
  logprob: number;
  bytes: number[];
  top_logprobs: Omit<TokenLogprob, "top_logprobs">[];
}
