import { AbortWatch } from "./abort-watch.js";
import { loadAddon } from "./addon-loader.js";
import { Branch, type BranchContext } from "./branch.js";
import { ChatTemplate } from "./chat-template.js";
import { CommandBatch } from "./command-batch.js";
import { ConstraintCache } from "./constraint.js";
import { CustomDrafts } from "./custom-drafts.js";
import { checkSameVocabulary, type LoadedSources, sourcesToLoad } from "./draft-source.js";
import { checkAttentionPolicy, checkEngineOptions } from "./engine-options.js";
import type { BranchEngine, ChatTurn, EngineBranch, EngineInfo, EngineOptions, TextTokenizer } from "./engine-types.js";
import { DeftreeError } from "./errors.js";
import { makeLoadSpec } from "./load-spec.js";
import { readMedusaHeads } from "./medusa-heads.js";
import type { ModelFiles } from "./model-files.js";
import { resolveModel } from "./model-source.js";
import type {
  AttentionPolicy,
  NativeAddon,
  NativeCommand,
  NativeEngine,
  NativeMedusa,
  NativeStats,
} from "./native-addon.js";
import { TokenIdsOnly } from "./random-model.js";
import { fromAddon, StepDispatcher } from "./step-dispatcher.js";
import { shareReadEachStep } from "./tensor-table.js";
import { ModelTokenizer } from "./tokenizer.js";

/**
 * A model, its tokenizer, and one forest of branches that decode together on the engine's own thread.
 *
 * ```ts
 * await using engine = await Engine.load("mini");
 * const branch = engine.branch();
 * await branch.extend(engine.encodeChat([{ role: "user", content: "Hello" }]));
 * console.log((await branch.decode({ maxTokens: 32 })).text);
 * ```
 */
export class Engine implements BranchEngine {
  readonly tokenizer: TextTokenizer;
  readonly #native: NativeEngine;
  readonly #batch: CommandBatch;
  readonly #aborts = new AbortWatch((requests) => {
    if (!this.#dispatcher.fatal) this.#submit(requests.map((request) => ({ op: "cancel", request })));
  });
  readonly #dispatcher: StepDispatcher;
  readonly #template: ChatTemplate | undefined;
  readonly #context: BranchContext;
  #info: EngineInfo;
  #nextBranch = 1;
  #disposing: Promise<void> | undefined;

  /**
   * Loads a model.
   * @param source `"mini"`, a folder in Hugging Face's format, a `.gguf` file, `"org/name"` from the hub cache, or
   *   `"random:llama-3-8b"` (also llama-3.2-1b, tiny, and numbers as in `"random:tiny,layers=4,seed=7"`): random weights,
   *   token ids only.
   * @throws E_BAD_ARGUMENT, E_MODEL_NOT_FOUND, E_BAD_MODEL, E_OOM, E_DEVICE, E_ADDON_MISSING, E_ABORTED
   */
  static async load(source: string, options: EngineOptions = {}): Promise<Engine> {
    checkEngineOptions(options);
    const { model, heads } = sourcesToLoad(options);
    const [files, draft] = await Promise.all([
      resolveModel(source),
      model === undefined ? undefined : resolveModel(model),
    ]);
    const medusa = heads === undefined ? undefined : await readMedusaHeads(heads, files.config);
    return Engine.fromFiles(files, options, loadAddon(), draft, medusa);
  }

  /** @internal The rest of {@link load}, over any addon. */
  static async fromFiles(
    files: ModelFiles,
    options: EngineOptions,
    addon: NativeAddon,
    draft?: ModelFiles,
    medusa?: NativeMedusa,
  ): Promise<Engine> {
    const { signal } = options;
    const { tokenizer, template } = textSide(files);
    if (draft) checkSameVocabulary(tokenizer.byteTable, textSide(draft).tokenizer.byteTable, draft.name);
    const sources = sourcesToLoad(options).loaded;
    const { spec, deviceReason } = makeLoadSpec(files, options, tokenizer.byteTable, addon, {
      sources,
      model: draft,
      medusa,
    });
    const dispatcher = new StepDispatcher();
    throwIfAborted(signal);
    const loading = addon.load(spec, (message) => dispatcher.dispatch(message), signal);
    const native = await unlessAborted(loading, signal).catch((cause) => {
      throw fromAddon(cause);
    });
    const nativeInfo = native.info();
    const info: EngineInfo = {
      ...nativeInfo,
      stepWeightBytes: Math.round(nativeInfo.weightBytes * shareReadEachStep(files.config)),
      deviceReason,
      modelPath: files.path,
      modelName: files.name,
      contextLength: spec.config.contextLen,
      vocabSize: spec.config.vocabSize,
      attention: spec.attention,
    };
    return new Engine(native, dispatcher, tokenizer, template, info, sources);
  }

  private constructor(
    native: NativeEngine,
    dispatcher: StepDispatcher,
    tokenizer: TextTokenizer,
    template: ChatTemplate | undefined,
    info: EngineInfo,
    draftSources: LoadedSources,
  ) {
    this.#native = native;
    this.#batch = new CommandBatch(native, dispatcher);
    this.#dispatcher = dispatcher;
    this.tokenizer = tokenizer;
    this.#template = template;
    this.#info = info;
    const customDrafts = new CustomDrafts((command) => {
      if (!dispatcher.fatal) this.#submit([command]);
    });
    dispatcher.onDraftRequest = (request) => customDrafts.ask(request);
    this.#context = {
      draftSources,
      customDrafts,
      tokenizer,
      dispatcher,
      contextLength: info.contextLength,
      constraints: new ConstraintCache((grammar) => native.compileConstraint(grammar)),
      submit: (commands) => this.#submit(commands),
      cancelOnAbort: (request, signal) => this.#aborts.watch(request, signal),
      newBranchId: () => this.#nextBranch++,
    };
  }

  get info(): EngineInfo {
    return this.#info;
  }

  branch(): EngineBranch {
    const branch = this.#nextBranch++;
    this.#submit([{ op: "create", branch }]);
    return new Branch(this.#context, branch, 0);
  }

  /**
   * @param options `addGenerationPrompt` (default true) opens the assistant's turn.
   * @throws E_BAD_ARGUMENT for a model without a chat template and for a conversation that its template refuses.
   */
  encodeChat(
    turns: readonly ChatTurn[],
    { addGenerationPrompt = true }: { addGenerationPrompt?: boolean } = {},
  ): number[] {
    if (this.#disposing) throw disposedError();
    if (!this.#template) {
      throw new DeftreeError(
        "E_BAD_ARGUMENT",
        `${this.#info.modelName} has no chat template: extend a branch with text or token ids instead`,
      );
    }
    return this.#template.encode(turns, addGenerationPrompt);
  }

  /** Switches the attention policy from the next step on; the tokens do not depend on it. */
  setAttention(attention: AttentionPolicy): void {
    checkAttentionPolicy(attention);
    this.#submit([{ op: "setAttention", attention }]);
    this.#info = { ...this.#info, attention };
  }

  /** Counters and times since load. */
  stats(): NativeStats {
    this.#checkAlive();
    return this.#native.stats();
  }

  /** Checks the forest between two steps. Rejects with E_INTERNAL when a rule is broken. */
  async checkInvariants(): Promise<void> {
    this.#checkAlive();
    this.#batch.flush();
    await this.#native.checkInvariants().catch((cause) => {
      throw fromAddon(cause);
    });
  }

  /** Ends the engine within one step; open requests fail with E_DISPOSED. Twice is fine. */
  dispose(): Promise<void> {
    this.#disposing ??= this.#shutDown();
    return this.#disposing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  async #shutDown(): Promise<void> {
    this.#template?.close();
    this.#dispatcher.failAll(disposedError());
    await this.#native.dispose().catch((cause) => {
      throw fromAddon(cause);
    });
  }

  /** After a device error, and after dispose, every call gets the same error: what ended the engine. */
  #checkAlive(): void {
    if (this.#dispatcher.fatal) throw this.#dispatcher.fatal;
  }

  #submit(commands: NativeCommand[]): void {
    this.#checkAlive();
    this.#batch.add(commands);
  }
}

function disposedError(): DeftreeError {
  return new DeftreeError("E_DISPOSED", "The engine was disposed");
}

function textSide(files: ModelFiles) {
  const { vocabSize } = files.config;
  if (!files.tokenizer) return { tokenizer: new TokenIdsOnly(vocabSize), template: undefined };
  const tokenizer = new ModelTokenizer(files.tokenizer, vocabSize);
  const { chatTemplate } = files;
  return { tokenizer, template: chatTemplate === undefined ? undefined : new ChatTemplate(chatTemplate, tokenizer) };
}

function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw new DeftreeError("E_ABORTED", "Loading was aborted", { cause: signal.reason });
}

/** The loaded engine, or E_ABORTED as soon as the signal says so; what is loaded after that is disposed. */
async function unlessAborted(loading: Promise<NativeEngine>, signal: AbortSignal | undefined): Promise<NativeEngine> {
  if (!signal) return loading;
  let onAbort = () => {};
  const aborted = new Promise<never>((_, reject) => {
    onAbort = () => reject(new DeftreeError("E_ABORTED", "Loading was aborted", { cause: signal.reason }));
    signal.addEventListener("abort", onAbort, { once: true });
  });
  try {
    return await Promise.race([loading, aborted]);
  } catch (error) {
    if (signal.aborted) loading.then((native) => native.dispose()).catch(() => {});
    throw error;
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}
