/** Routes what a step published to the requests that wait for it. */
import { DeftreeError, type DeftreeErrorCode } from "./errors.js";
import type { NativeDraftRequest, NativeErrorInfo, NativeFinished, NativeStepMessage } from "./native-addon.js";

export interface StepToken {
  id: number;
  /** {@link NativeStepMessage.timeMs} */
  timeMs: number;
  /** NaN where not asked for. */
  logprob: number;
  top: { token: number; logprob: number }[] | undefined;
}

/** An open request. Exactly one of `finish` and `fail` is called, once, after all tokens. */
export interface RequestHandler {
  token?(token: StepToken): void;
  finish(finished: NativeFinished): void;
  fail(error: DeftreeError): void;
}

export class StepDispatcher {
  readonly #open = new Map<number, RequestHandler>();
  #nextRequest = 1;
  #fatal: DeftreeError | undefined;

  /** What is done with requests for drafts. */
  onDraftRequest: (request: NativeDraftRequest) => void = () => {};

  get numOpen(): number {
    return this.#open.size;
  }

  /** The error that ended the engine, if one did. */
  get fatal(): DeftreeError | undefined {
    return this.#fatal;
  }

  /** @returns the request's id. */
  open(handler: RequestHandler): number {
    const request = this.#nextRequest++;
    this.#open.set(request, handler);
    return request;
  }

  /** Ends one open request with `error`; nothing when it has ended. */
  fail(request: number, error: DeftreeError): void {
    const handler = this.#open.get(request);
    this.#open.delete(request);
    handler?.fail(error);
  }

  /** Forgets a request that was never submitted. */
  abandon(request: number): void {
    this.#open.delete(request);
  }

  dispatch(message: NativeStepMessage): void {
    for (let entry = 0; entry < message.requests.length; entry++) {
      this.#open.get(message.requests[entry]!)?.token?.({
        id: message.tokens[entry]!,
        timeMs: message.timeMs,
        logprob: message.logprobs[entry] ?? Number.NaN,
        top: message.topLogprobs?.[entry],
      });
    }
    for (const finished of message.finished) {
      const handler = this.#open.get(finished.request);
      this.#open.delete(finished.request);
      if (!handler) continue;
      if (finished.error) handler.fail(toDeftreeError(finished.error));
      else handler.finish(finished);
    }
    for (const request of message.draftRequests ?? []) this.onDraftRequest(request);
    if (message.fatal) this.failAll(toDeftreeError(message.fatal));
  }

  /** Ends every open request, and every later one, with `error`. */
  failAll(error: DeftreeError): void {
    this.#fatal ??= error;
    const open = [...this.#open.values()];
    this.#open.clear();
    for (const handler of open) handler.fail(error);
  }
}

const codes: Record<DeftreeErrorCode, true> = {
  E_BAD_ARGUMENT: true,
  E_BAD_MODEL: true,
  E_KV_FULL: true,
  E_CONTEXT_FULL: true,
  E_OOM: true,
  E_ABORTED: true,
  E_DEVICE: true,
  E_DISPOSED: true,
  E_INTERNAL: true,
  E_ADDON_MISSING: true,
  E_MODEL_NOT_FOUND: true,
  E_NETWORK: true,
};

function toDeftreeError({ code, message, figures }: NativeErrorInfo): DeftreeError {
  const named = Object.entries(figures).map(([name, value]) => [camelCase(name), value]);
  return new DeftreeError(Object.hasOwn(codes, code) ? (code as DeftreeErrorCode) : "E_INTERNAL", message, {
    figures: Object.fromEntries(named),
  });
}

/** C++ names figures in snake_case. */
function camelCase(name: string): string {
  return name.replace(/_([a-z0-9])/g, (_, letter: string) => letter.toUpperCase());
}

/** Whatever the addon threw or rejected with, as a DeftreeError: its errors carry `code` and `figures`. */
export function fromAddon(cause: unknown): DeftreeError {
  if (DeftreeError.isInstance(cause)) return cause;
  const { code, message, figures } = (cause ?? {}) as Partial<NativeErrorInfo>;
  const error = toDeftreeError({ code: String(code), message: message ?? String(cause), figures: figures ?? {} });
  return new DeftreeError(error.code, error.message, { cause, figures: error.figures });
}
