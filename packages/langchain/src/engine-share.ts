import type { BranchEngine } from "@deftree/engine";
import { type ChatDeftreeFields, engineOptions } from "./chat-options.js";
import { type EngineLease, engines } from "./engine-pool.js";
import { toLangChainError } from "./errors.js";

/** A chat model's hold on its engine: the one it was given, or a share of a pooled one, taken on first use. */
export class EngineShare {
  readonly #model: string;
  readonly #fields: ChatDeftreeFields;
  #lease: EngineLease | undefined;
  #loaded: BranchEngine | undefined;

  constructor(model: string, fields: ChatDeftreeFields) {
    this.#model = model;
    this.#fields = fields;
    this.#loaded = fields.engine;
  }

  /** The engine, if it is there by now. */
  get loaded(): BranchEngine | undefined {
    return this.#loaded;
  }

  /**
   * Loads the engine on first use. An abort rejects at once with the signal's reason; the engine goes on loading, for
   * others wait for it too.
   */
  async engine(signal?: AbortSignal): Promise<BranchEngine> {
    if (this.#loaded !== undefined) return this.#loaded;
    this.#lease ??= engines.lease(this.#model, engineOptions(this.#fields));
    const lease = this.#lease;
    const loaded = lease.engine.then(
      (engine) => {
        if (this.#lease === lease) this.#loaded = engine;
        return engine;
      },
      (error) => {
        if (this.#lease === lease) this.#lease = undefined;
        throw toLangChainError(error);
      },
    );
    return unlessAborted(loaded, signal);
  }

  /** Gives a pooled engine back; the next use takes a share anew. */
  async giveBack(): Promise<void> {
    const lease = this.#lease;
    this.#lease = undefined;
    this.#loaded = this.#fields.engine;
    await lease?.giveBack();
  }
}

async function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return promise;
  let onAbort = () => {};
  // A signal of its own: many calls may share the caller's, and Node warns of an eleventh listener.
  const own = AbortSignal.any([signal]);
  const aborted = new Promise<never>((_, reject) => {
    // Naming the caller's signal keeps it: Node forgets a timeout that nobody but a signal made of it refers to.
    onAbort = () => reject(signal.reason);
    own.addEventListener("abort", onAbort, { once: true });
  });
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    own.removeEventListener("abort", onAbort);
  }
}
