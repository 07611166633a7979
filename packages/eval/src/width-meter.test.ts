import { expect, it } from "vitest";
import { WidthMeter } from "./width-meter.js";

it.each([1, 50, 97, 10_000])("keeps the sums of %i looks exact, and few runs in order", (looks) => {
  const counters = { steps: 5, decodedTokens: 100 };
  const meter = new WidthMeter(() => ({ ...counters }));
  for (let look = 0; look < looks; look++) {
    // At times no step, at times two.
    counters.steps += look % 3;
    counters.decodedTokens += (look % 3) * look;
    meter.look();
  }
  const sum = (of: "steps" | "tokens") => meter.runs.reduce((total, run) => total + run[of], 0);
  expect(sum("steps")).toBe(counters.steps - 5);
  expect(sum("tokens")).toBe(counters.decodedTokens - 100);
  expect(meter.runs.length).toBeLessThanOrEqual(96);
  const widths = meter.runs.map(({ steps, tokens }) => tokens / steps);
  expect(widths).toEqual(widths.toSorted((a, b) => a - b));
});
