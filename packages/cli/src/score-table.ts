import type { CompareMethod, MethodScore } from "@deftree/bench";
import { formatBytes, formatCount, type Output } from "./output.js";

const methodNames: Record<CompareMethod, string> = {
  "single-shot": "single-shot (greedy)",
  "best-of-n": "best-of-n, equal tokens",
  "tree-of-thoughts": "Tree of Thoughts",
};

export function methodName(method: CompareMethod): string {
  return methodNames[method];
}

export function printScores(output: Output, scores: readonly MethodScore[]): void {
  output.table(
    ["method", "exact", "mean errors", "tokens", "prompt tokens", "reused", "KV read", "unshared", "tokens/s"],
    scores.map((score) => [
      methodName(score.method),
      `${score.solved}/${score.items}`,
      score.meanErrors.toFixed(2),
      formatCount(score.generatedTokens),
      formatCount(score.promptTokens),
      formatCount(score.reusedTokens),
      formatBytes(score.kvBytesRead),
      formatBytes(score.kvBytesUnshared),
      formatCount(score.tokensPerSecond),
    ]),
  );
}
