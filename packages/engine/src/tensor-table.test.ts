import { describe, expect, it } from "vitest";
import { tinyConfig } from "../test/tiny-model.js";
import { shareReadEachStep } from "./tensor-table.js";

describe("the share of the weights that a step reads", () => {
  it("leaves an embedding table of its own out", () => {
    const { vocabSize, hiddenSize } = tinyConfig;
    const tied = { ...tinyConfig, tieWordEmbeddings: true };
    expect(shareReadEachStep(tied)).toBe(1);
    // Two layers of 128 x (256 + 2 x 128 + 256) and 3 x 128 x 256, five norms of 128, and two tables.
    const table = vocabSize * hiddenSize;
    const layers = 2 * (128 * 768 + 3 * 128 * 256) + 5 * 128;
    expect(shareReadEachStep({ ...tinyConfig, tieWordEmbeddings: false })).toBeCloseTo(
      (layers + table) / (layers + 2 * table),
      12,
    );
  });
});
