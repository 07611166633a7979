/** Stable codes of every error deftree throws. */
export type DeftreeErrorCode =
  | "E_BAD_ARGUMENT"
  | "E_BAD_MODEL"
  | "E_KV_FULL"
  | "E_CONTEXT_FULL"
  | "E_OOM"
  | "E_ABORTED"
  | "E_DEVICE"
  | "E_DISPOSED"
  | "E_INTERNAL"
  | "E_ADDON_MISSING"
  | "E_MODEL_NOT_FOUND"
  | "E_NETWORK";

const marker = Symbol.for("deftree.error");

/** The one error class. `message` is a sentence with the figures and the way out; `figures` are the same numbers as data. */
export class DeftreeError extends Error {
  override readonly name = "DeftreeError";
  readonly code: DeftreeErrorCode;
  readonly figures: Readonly<Record<string, number>>;

  constructor(
    code: DeftreeErrorCode,
    message: string,
    options: { cause?: unknown; figures?: Record<string, number> } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.figures = options.figures ?? {};
    Object.defineProperty(this, marker, { value: true });
  }

  /** True also for an error of another copy of this package. */
  static isInstance(value: unknown): value is DeftreeError {
    return value instanceof Error && (value as unknown as Record<symbol, unknown>)[marker] === true;
  }
}
