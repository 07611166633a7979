/** The raw addon with its answers as promises: what the lifecycle tests need and no more. */
import { fileURLToPath } from "node:url";
import { loadAddon } from "../../src/addon-loader.js";
import type {
  NativeCommand,
  NativeEngine,
  NativeErrorInfo,
  NativeFinished,
  NativeLoadSpec,
  NativeStepMessage,
} from "../../src/native-addon.js";

/** The file that {@link loadAddon} loads in the workspace, for threads that load it themselves. */
export const addonPath =
  process.env.DEFTREE_ADDON ?? fileURLToPath(new URL("../../../../build/native/deftree.node", import.meta.url));

type WithoutRequest<C> = C extends { request: number } ? Omit<C, "request"> : never;
/** A command that is answered, without its request id. */
export type RequestCommand = WithoutRequest<Exclude<NativeCommand, { op: "cancel" }>>;

export class AddonHarness {
  readonly engine: NativeEngine;
  readonly #messages: NativeStepMessage[];
  readonly #waiting: Map<number, (finished: NativeFinished) => void>;
  #nextRequest = 1;

  private constructor(
    engine: NativeEngine,
    messages: NativeStepMessage[],
    waiting: Map<number, (finished: NativeFinished) => void>,
  ) {
    this.engine = engine;
    this.#messages = messages;
    this.#waiting = waiting;
  }

  static async load(spec: NativeLoadSpec): Promise<AddonHarness> {
    const messages: NativeStepMessage[] = [];
    const waiting = new Map<number, (finished: NativeFinished) => void>();
    const engine = await loadAddon().load(spec, (message) => {
      messages.push(message);
      for (const finished of message.finished) waiting.get(finished.request)?.(finished);
    });
    return new AddonHarness(engine, messages, waiting);
  }

  /** Resolves with the answer, an error included. */
  request(command: RequestCommand): Promise<NativeFinished> & { id: number } {
    const id = this.#nextRequest++;
    const answer = new Promise<NativeFinished>((resolve) => this.#waiting.set(id, resolve));
    this.engine.submit([{ ...command, request: id } as NativeCommand]);
    return Object.assign(answer, { id });
  }

  /** The tokens published for a request so far. */
  tokens(request: number): number[] {
    return this.#messages.flatMap((message) => [...message.tokens].filter((_, i) => message.requests[i] === request));
  }

  /** Resolves when the next message of a step has come. */
  async nextMessage(): Promise<void> {
    const seen = this.#messages.length;
    while (this.#messages.length === seen) await new Promise((resolve) => setImmediate(resolve));
  }
}

/** Tokens 0 to `length` - 1, shifted. */
export function promptOf(length: number, shift = 0): Int32Array {
  return Int32Array.from({ length }, (_, i) => (i + shift) % 300);
}

export const endlessDecode = (branch: number): RequestCommand => ({
  op: "decode",
  branch,
  maxTokens: 100_000,
  stopTokens: [],
  stopStrings: [],
  sampling: { temperature: 1, seed: 1 },
});

export function codeOf(error: unknown): string | undefined {
  return (error as NativeErrorInfo | undefined)?.code;
}

export function thrownCode(body: () => unknown): string | undefined {
  try {
    body();
  } catch (error) {
    return codeOf(error);
  }
  return undefined;
}
