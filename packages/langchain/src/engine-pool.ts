/**
 * Engines of this process, one per model and settings: chat models that name the same ones share an engine, and with it
 * one forest of cached prefixes.
 */
import { type BranchEngine, Engine, type EngineOptions } from "@deftree/engine";

type LoadEngine = (model: string, options: EngineOptions) => Promise<BranchEngine>;

interface Entry {
  engine: Promise<BranchEngine>;
  users: number;
}

/** A share of a pooled engine; the engine is disposed when the last share is given back. */
export interface EngineLease {
  readonly engine: Promise<BranchEngine>;
  /** Twice is fine. */
  giveBack(): Promise<void>;
}

export class EnginePool {
  readonly #entries = new Map<string, Entry>();

  constructor(private readonly load: LoadEngine = (model, options) => Engine.load(model, options)) {}

  lease(model: string, options: EngineOptions): EngineLease {
    const key = JSON.stringify([
      model,
      Object.entries(options)
        .filter(([, value]) => value !== undefined)
        .sort(),
    ]);
    let entry = this.#entries.get(key);
    if (entry === undefined) {
      entry = { engine: this.load(model, options), users: 0 };
      this.#entries.set(key, entry);
      // A load that failed must not stand in the way of the next try.
      entry.engine.catch(() => this.#entries.delete(key));
    }
    entry.users++;
    return { engine: entry.engine, giveBack: this.#giveBackOnce(key, entry) };
  }

  #giveBackOnce(key: string, entry: Entry): () => Promise<void> {
    let given = false;
    return async () => {
      if (given) return;
      given = true;
      if (--entry.users > 0) return;
      if (this.#entries.get(key) === entry) this.#entries.delete(key);
      const engine = await entry.engine.catch(() => undefined);
      await engine?.dispose();
    };
  }
}

export const engines = new EnginePool();
