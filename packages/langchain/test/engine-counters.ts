/** What a search left behind, by the engine's own counters. */
import type { BranchEngine } from "@deftree/engine";
import { expect } from "vitest";

/** All branches gone, and of the pages only cached prompts kept, once the step under way has ended. */
export async function expectAllFree(engine: BranchEngine): Promise<void> {
  const before = engine.stats().steps;
  await engine.checkInvariants();
  const { branches, numPages, freePages, cachedPages, steps } = engine.stats();
  expect(branches).toBe(0);
  expect(freePages + cachedPages).toBe(numPages);
  expect(steps - before).toBeLessThanOrEqual(1);
}
