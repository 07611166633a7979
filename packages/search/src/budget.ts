/**
 * What a search may use. A budget ends the search cleanly, with the best thought so far. Tokens are reserved before
 * thoughts start, so the limit is never passed, and with the same seed the same thoughts start.
 */
import type { BudgetName } from "./events.js";

export interface Budget {
  /** Generated tokens. */
  tokens?: number;
  /** Wall time in milliseconds; thoughts that run when it is over are dropped. */
  timeMs?: number;
  thoughts?: number;
}

/** How many thoughts may start side by side now, and the most tokens of each. */
export interface Grant {
  count: number;
  maxTokens: number;
}

interface ReachedBudget {
  budget: BudgetName;
  limit: number;
  used: number;
}

/**
 * Grants up to `wanted` thoughts of up to `maxTokens` each. When less than one whole thought is left of the tokens, one
 * shorter thought uses them up.
 */
export function grant(
  budget: Budget,
  used: { tokens: number; thoughts: number },
  wanted: number,
  maxTokens: number,
): Grant | ReachedBudget {
  const tokensLeft = (budget.tokens ?? Number.POSITIVE_INFINITY) - used.tokens;
  const thoughtsLeft = (budget.thoughts ?? Number.POSITIVE_INFINITY) - used.thoughts;
  if (tokensLeft < 1) return { budget: "tokens", limit: budget.tokens!, used: used.tokens };
  if (thoughtsLeft < 1) return { budget: "thoughts", limit: budget.thoughts!, used: used.thoughts };
  if (tokensLeft < maxTokens) return { count: 1, maxTokens: tokensLeft };
  return { count: Math.min(wanted, thoughtsLeft, Math.floor(tokensLeft / maxTokens)), maxTokens };
}

/** @throws RangeError on a limit that is not a positive number. */
export function checkBudget(budget: Budget): void {
  for (const [name, limit] of Object.entries(budget)) {
    if (limit !== undefined && !(limit > 0)) {
      throw new RangeError(`budget.${name} must be a positive number, got ${limit}`);
    }
  }
}
