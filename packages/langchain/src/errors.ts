import { DeftreeError } from "@deftree/engine";
import { ContextOverflowError, stampRetryable } from "@langchain/core/errors";

/** Codes after which the same call may succeed, once other branches are gone. */
const retryableCodes = new Set(["E_KV_FULL", "E_OOM"]);

/** An engine error as LangChain's middleware expects it: overflow by class, the all marked for retries. */
export function toLangChainError(error: unknown): unknown {
  if (!DeftreeError.isInstance(error)) return error;
  if (error.code === "E_CONTEXT_FULL") return stampRetryable(ContextOverflowError.fromError(error), false);
  return stampRetryable(error, retryableCodes.has(error.code));
}
