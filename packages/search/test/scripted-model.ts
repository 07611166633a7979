/**
 * A ThoughtModel with a language of its own: asked to sort digits, it writes the next right digit, or with a given
 * probability another one, one token per digit and "." at the end. What it writes depends on prompt, text so far, seed
 * and position only. It counts open branches, and can be slow in a way that changes from run to run.
 */
import { thoughtSeed } from "../src/seeds.js";
import type {
  DecodedThought,
  PromptMessage,
  ThoughtBranch,
  ThoughtDecodeOptions,
  ThoughtModel,
  TokenUsage,
} from "../src/thought-model.js";

export interface ScriptedModelOptions {
  /** Chance of a wrong digit at each position. */
  errorRate: number;
  /** Waits before each token, to shuffle the order in which thoughts finish. */
  jitter?: () => Promise<void>;
  /** Thrown by decode instead of a token once this many tokens are generated. */
  failAfter?: number;
}

export class ScriptedModel implements ThoughtModel {
  readonly name = "scripted";
  openBranches = 0;
  opened = 0;
  generated = 0;
  readonly prompts: string[] = [];
  kvBytesRead = 0;

  constructor(readonly options: ScriptedModelOptions) {}

  async open(prompt: readonly PromptMessage[], options: { signal?: AbortSignal } = {}): Promise<ThoughtBranch> {
    await this.options.jitter?.();
    options.signal?.throwIfAborted();
    const text = prompt.map(({ content }) => content).join("\n");
    this.prompts.push(text);
    return new ScriptedBranch(this, text, "", text.length);
  }

  usage() {
    return { kvBytesRead: this.kvBytesRead, kvBytesUnshared: 2 * this.kvBytesRead };
  }
}

class ScriptedBranch implements ThoughtBranch {
  readonly usage: TokenUsage;
  #released = false;

  constructor(
    readonly model: ScriptedModel,
    readonly prompt: string,
    public answer: string,
    prefilledTokens: number,
  ) {
    this.usage = { generatedTokens: 0, promptTokens: 0, prefilledTokens };
    model.openBranches++;
    model.opened++;
  }

  fork(n: number): ThoughtBranch[] {
    this.#check();
    return Array.from({ length: n }, () => new ScriptedBranch(this.model, this.prompt, this.answer, 0));
  }

  async extend(text: string): Promise<void> {
    this.#check();
    this.answer += text;
  }

  async decode(options: ThoughtDecodeOptions): Promise<DecodedThought> {
    this.#check();
    this.usage.promptTokens += this.prompt.length + this.answer.length;
    let text = "";
    for (let tokens = 0; tokens < options.maxTokens; tokens++) {
      await this.model.options.jitter?.();
      if (options.signal?.aborted) return { text, tokens, finishReason: "aborted", ended: false };
      if (this.model.generated === this.model.options.failAfter) throw new Error("the scripted model failed");
      const token = this.#next(options);
      this.answer += token;
      this.usage.generatedTokens++;
      this.model.generated++;
      this.model.kvBytesRead += this.prompt.length + this.answer.length;
      if (token === ".") return { text, tokens: tokens + 1, finishReason: "stop", ended: true };
      if (options.stop?.includes(token)) {
        return { text, tokens: tokens + 1, finishReason: "stop", stopString: token, ended: false };
      }
      text += token;
      if (options.onText?.(token, tokens + 1) === false) {
        return { text, tokens: tokens + 1, finishReason: "cut", ended: false };
      }
    }
    return { text, tokens: options.maxTokens, finishReason: "length", ended: false };
  }

  release(): void {
    if (this.#released) return;
    this.#released = true;
    this.model.openBranches--;
  }

  #next({ temperature = 0, seed = 0 }: ThoughtDecodeOptions): string {
    const input = this.prompt.match(/\d+/)![0];
    const right = [...input].sort()[this.answer.length] ?? ".";
    if (temperature === 0) return right;
    const noise = thoughtSeed(seed, this.answer.length);
    const wrong = noise / 2 ** 32 < this.model.options.errorRate;
    return wrong && right !== "." ? String((Number(right) + 1 + (noise % 9)) % 10) : right;
  }

  #check(): void {
    if (this.#released) throw new Error("used after release");
  }
}
