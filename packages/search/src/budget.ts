/**
 * What a search may use. Tokens are reserved before thoughts start, so the limit is never passed. `tokens`, `timeMs` and
 * `thoughts` end the search cleanly, with the best thought so far. `nodes` and `kvBytes` limit what is held at one time:
 * the search grows narrower, and ends only where not even one more thought fits.
 */
import type { BudgetName } from "./events.js";

export interface Budget {
  /** Generated tokens, those of an evaluating model included. */
  tokens?: number;
  /** Wall time in milliseconds; thoughts that run when it is over are dropped. */
  timeMs?: number;
  /** Thoughts started. */
  thoughts?: number;
  /**
   * Branches open at one time: prompts, thoughts that decode, and thoughts that wait to be grown on. A prompt that a strategy
   * cannot do without is opened whatever the limit.
   */
  nodes?: number;
  /**
   * KV that the search's branches hold at one time, a shared prefix counted once. Pages round each branch up by less than
   * one page more. For models that tell their KV bytes.
   */
  kvBytes?: number;
}

export interface BudgetUse {
  /** Generated, and reserved for what decodes. */
  tokens: number;
  thoughts: number;
  nodes: number;
  /** Held, and reserved for what decodes. */
  kvBytes: number;
  kvBytesPerToken: number;
}

/** How many thoughts may start side by side now, and the most tokens of each. */
export interface Grant {
  count: number;
  maxTokens: number;
}

export interface ReachedBudget {
  budget: BudgetName;
  limit: number;
  used: number;
}

/**
 * Grants up to `wanted` thoughts of up to `maxTokens` each. When less than one whole thought is left of the tokens, one
 * shorter thought uses them up.
 */
export function grant(budget: Budget, use: BudgetUse, wanted: number, maxTokens: number): Grant | ReachedBudget {
  const left = (name: "tokens" | "thoughts" | "nodes" | "kvBytes") =>
    (budget[name] ?? Number.POSITIVE_INFINITY) - use[name];
  const reached = (name: "tokens" | "thoughts" | "nodes" | "kvBytes") => ({
    budget: name,
    limit: budget[name]!,
    used: use[name],
  });
  if (left("tokens") < 1) return reached("tokens");
  for (const name of ["thoughts", "nodes"] as const) if (left(name) < 1) return reached(name);
  const tokens = Math.min(maxTokens, left("tokens"));
  const fitting = use.kvBytesPerToken > 0 ? Math.floor(left("kvBytes") / (use.kvBytesPerToken * tokens)) : wanted;
  if (fitting < 1) return reached("kvBytes");
  const affordable = Math.max(1, Math.floor(left("tokens") / maxTokens));
  return { count: Math.min(wanted, left("thoughts"), left("nodes"), fitting, affordable), maxTokens: tokens };
}

/** @throws RangeError on a limit that is not a positive number. */
export function checkBudget(budget: Budget): void {
  for (const [name, limit] of Object.entries(budget)) {
    if (limit !== undefined && !(limit > 0)) {
      throw new RangeError(`budget.${name} must be a positive number, got ${limit}`);
    }
  }
}
