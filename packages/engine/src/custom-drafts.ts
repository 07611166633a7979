/** Asks draft sources of the user's own, and hands their answers to the engine, which waits for none. */
import type { DraftSource, DraftTree } from "./engine-types.js";
import type { NativeCommand, NativeDraftRequest } from "./native-addon.js";

type DraftCommand = Extract<NativeCommand, { op: "draft" }>;

interface OpenDecode {
  source: DraftSource;
  over: AbortController;
}

/** The decodes of an engine that draft with a source of the user's own. */
export class CustomDrafts {
  readonly #decodes = new Map<number, OpenDecode>();
  readonly #warned = new WeakSet<DraftSource>();

  constructor(private readonly submit: (command: DraftCommand) => void) {}

  /** @returns a function that ends it. */
  begin(branch: number, source: DraftSource): () => void {
    const decode = { source, over: new AbortController() };
    this.#decodes.set(branch, decode);
    return () => {
      if (this.#decodes.get(branch) === decode) this.#decodes.delete(branch);
      decode.over.abort();
    };
  }

  /** [dispatcher] */
  ask({ branch, tokens, maxTokens }: NativeDraftRequest): void {
    const decode = this.#decodes.get(branch);
    if (!decode) return;
    const answer = (tree: DraftTree | undefined) => this.#answer(decode, branch, tokens.length, tree);
    const fail = (cause: unknown) => this.#fail(decode, branch, tokens.length, cause);
    try {
      const proposed = decode.source.propose({ tokens, maxTokens, signal: decode.over.signal });
      if (isPromise(proposed)) proposed.then(answer).catch(fail);
      else answer(proposed);
    } catch (cause) {
      fail(cause);
    }
  }

  #answer(decode: OpenDecode, branch: number, length: number, tree: DraftTree | undefined): void {
    const { tokens, parents, probabilities } = tree ?? { tokens: [] };
    const chain = tokens.map((_, i) => i - 1);
    this.#submit(decode, {
      op: "draft",
      branch,
      length,
      failed: false,
      tokens: integers("tokens", tokens),
      parents: integers("parents", parents ?? chain),
      ...(probabilities && { probabilities: probabilities.map(Number) }),
    });
  }

  #fail(decode: OpenDecode, branch: number, length: number, cause: unknown): void {
    if (decode.over.signal.aborted) return;
    this.#submit(decode, { op: "draft", branch, length, failed: true });
    if (this.#warned.has(decode.source)) return;
    this.#warned.add(decode.source);
    const reason = cause instanceof Error ? cause.message : String(cause);
    process.emitWarning(`A draft source failed, decoding goes on without its drafts: ${reason}`, {
      code: "DEFTREE_DRAFT_SOURCE",
    });
  }

  #submit({ over }: OpenDecode, command: DraftCommand): void {
    if (!over.signal.aborted) this.submit(command);
  }
}

function isPromise<T>(value: T | Promise<T>): value is Promise<T> {
  return typeof (value as Promise<T> | undefined)?.then === "function";
}

/** What is no 32-bit integer would become another number in the array. */
function integers(what: string, values: readonly number[]): Int32Array {
  const bad = values.find((value) => (value | 0) !== value);
  if (bad !== undefined) throw new TypeError(`${what} must be integers; got ${String(bad)}`);
  return Int32Array.from(values);
}
