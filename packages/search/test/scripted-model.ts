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
  /** What it answers to a prompt, in place of sorted digits; undefined for these. */
  reply?: (prompt: string, seed: number) => string | undefined;
  /** Log-probability of a text after a prompt. */
  logprob?: (prompt: string, text: string) => number;
  /** Thrown by decode instead of a token once this many tokens are generated. */
  failAfter?: number;
  /** Thrown by decode at once where the answer so far is one of these. */
  failAt?: (answer: string) => boolean;
}

export class ScriptedModel implements ThoughtModel {
  readonly name = "scripted";
  openBranches = 0;
  opened = 0;
  generated = 0;
  readonly prompts: string[] = [];
  readonly decodes: ThoughtDecodeOptions[] = [];
  kvBytesRead = 0;
  readonly kvBytesPerToken = 2;
  /** Most tokens that branches held together, and most branches open, at one time. */
  mostHeld = 0;
  mostOpen = 0;
  readonly #held = new Map<ScriptedBranch, number>();

  constructor(readonly options: ScriptedModelOptions) {}

  async open(prompt: readonly PromptMessage[], options: { signal?: AbortSignal } = {}): Promise<ThoughtBranch> {
    await this.options.jitter?.();
    options.signal?.throwIfAborted();
    const text = prompt.map(({ content }) => content).join("\n");
    this.prompts.push(text);
    return new ScriptedBranch(this, text, "", text.length, undefined);
  }

  /** Books what a branch holds of its own; undefined: nothing any more. */
  hold(branch: ScriptedBranch, tokens: number | undefined): void {
    if (tokens === undefined) this.#held.delete(branch);
    else this.#held.set(branch, tokens);
    this.mostHeld = Math.max(
      this.mostHeld,
      [...this.#held.values()].reduce((a, b) => a + b, 0),
    );
    this.mostOpen = Math.max(this.mostOpen, this.openBranches);
  }

  usage() {
    return { kvBytesRead: this.kvBytesRead, kvBytesUnshared: 2 * this.kvBytesRead };
  }
}

class ScriptedBranch implements ThoughtBranch {
  readonly usage: TokenUsage;
  #released = false;
  #children = 0;

  constructor(
    readonly model: ScriptedModel,
    readonly prompt: string,
    public answer: string,
    prefilledTokens: number,
    private readonly parent: ScriptedBranch | undefined,
  ) {
    this.usage = { generatedTokens: 0, promptTokens: 0, prefilledTokens };
    model.openBranches++;
    model.opened++;
    if (parent) parent.#children++;
    this.#book();
  }

  get length(): number {
    return this.prompt.length + this.answer.length;
  }

  fork(n: number): ThoughtBranch[] {
    this.#check();
    return Array.from({ length: n }, () => new ScriptedBranch(this.model, this.prompt, this.answer, 0, this));
  }

  async extend(content: string | readonly number[]): Promise<void> {
    this.#check();
    const text = typeof content === "string" ? content : String.fromCharCode(...content);
    this.answer += text;
    this.usage.prefilledTokens += text.length;
    this.#book();
  }

  async score(continuations: string[]): Promise<number[]> {
    this.#check();
    return continuations.map((text) => this.model.options.logprob?.(this.prompt, text) ?? -text.length);
  }

  async decode(options: ThoughtDecodeOptions): Promise<DecodedThought> {
    this.#check();
    this.model.decodes.push(options);
    this.usage.promptTokens += this.prompt.length + this.answer.length;
    if (this.model.options.failAt?.(this.answer)) throw new Error("the scripted model failed");
    let text = "";
    for (let tokens = 0; tokens < options.maxTokens; tokens++) {
      await this.model.options.jitter?.();
      if (options.signal?.aborted) return { text, tokens, finishReason: "aborted", ended: false };
      if (this.model.generated === this.model.options.failAfter) throw new Error("the scripted model failed");
      const token = this.#next(options);
      this.answer += token;
      this.#book();
      this.usage.generatedTokens++;
      this.model.generated++;
      this.model.kvBytesRead += this.prompt.length + this.answer.length;
      if (token === ".") return { text, tokens: tokens + 1, finishReason: "stop", ended: true };
      if (options.stop?.includes(token)) {
        return { text, tokens: tokens + 1, finishReason: "stop", stopString: token, ended: false };
      }
      text += token;
      const verdict = options.onText?.(token, tokens + 1);
      if (verdict === false) return { text, tokens: tokens + 1, finishReason: "cut", ended: false };
      if (verdict === "end") return { text, tokens: tokens + 1, finishReason: "stop", ended: false };
    }
    return { text, tokens: options.maxTokens, finishReason: "length", ended: false };
  }

  release(): void {
    if (this.#released) return;
    this.#released = true;
    this.model.openBranches--;
    this.#free();
  }

  #book(): void {
    this.model.hold(this, this.length - (this.parent?.length ?? 0));
  }

  /** What a branch holds is free when it and all that grow from it are released. */
  #free(): void {
    if (!this.#released || this.#children > 0) return;
    this.model.hold(this, undefined);
    if (this.parent === undefined) return;
    this.parent.#children--;
    this.parent.#free();
  }

  #next({ temperature = 0, seed = 0 }: ThoughtDecodeOptions): string {
    const reply = this.model.options.reply?.(this.prompt, seed);
    if (reply !== undefined) return reply[this.answer.length] ?? ".";
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
