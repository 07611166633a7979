import type { Strategy, StrategyOptions } from "../strategy.js";
import { bestOfN } from "./best-of-n.js";

/** Single-shot: one answer, greedy unless `sampling` says otherwise. What a search has to beat. */
export function singleShot({ sampling = { temperature: 0 }, speculation }: StrategyOptions = {}): Strategy {
  return { ...bestOfN({ n: 1, sampling, speculation }), name: "single" };
}
