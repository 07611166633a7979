import { describe, expect, it } from "vitest";
import { benchAgents } from "./agents.js";

const options = {
  model: "mini",
  engine: { device: "cpu", threads: 1 },
  agents: 4,
  promptTokens: 200,
  maxTokens: 4,
} as const;

describe("benchAgents", () => {
  it("counts a common prompt once a round, and each round's anew", async () => {
    const { rounds, lastOverFirst, interrupted } = await benchAgents({ ...options, rounds: 2 });
    expect(rounds).toHaveLength(2);
    for (const { promptTokens, computedTokens, firstMs, lastMs } of rounds) {
      expect(promptTokens).toBeGreaterThanOrEqual(200);
      expect(computedTokens).toBeGreaterThanOrEqual(200);
      // The system prompt once, and all that an agent's prompt has besides.
      expect(computedTokens).toBeLessThanOrEqual(200 + 4 * (promptTokens - 200) + 15);
      expect(lastMs).toBeGreaterThanOrEqual(firstMs);
    }
    expect(lastOverFirst).toBeGreaterThanOrEqual(1);
    expect(interrupted).toBe(false);
  });

  it("ends after the round at hand when it is aborted", async () => {
    const controller = new AbortController();
    const { signal } = controller;
    const onRound = () => controller.abort();
    const { rounds, interrupted } = await benchAgents({ ...options, rounds: 1000, signal, onRound });
    expect(interrupted).toBe(true);
    expect(rounds).toHaveLength(1);
  });
});
