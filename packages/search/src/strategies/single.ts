import type { StrategySampling } from "../shapes.js";
import type { Strategy } from "../strategy.js";
import { bestOfN } from "./best-of-n.js";

/** Single-shot: one answer, greedy unless `sampling` says otherwise. What a search has to beat. */
export function singleShot(options: { sampling?: StrategySampling } = {}): Strategy {
  const { sampling = { temperature: 0 } } = options;
  return { ...bestOfN({ n: 1, sampling }), name: "single" };
}
