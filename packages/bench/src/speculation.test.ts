import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { benchSpeculation, type SpeculationBenchResult } from "./speculation.js";

const engine = { device: "cpu", threads: 1 } as const;
const miniWeights = fileURLToPath(new URL("../../model-mini/model/model.safetensors", import.meta.url));

function expectWhole({ rows }: SpeculationBenchResult, maxTokens: number): void {
  for (const row of rows) {
    for (const value of Object.values(row)) if (typeof value === "number") expect(value).toBeGreaterThanOrEqual(0);
    expect(row.tokens).toBeGreaterThan(0);
    expect(row.tokens).toBeLessThanOrEqual(row.decodes * maxTokens);
    expect(row.tokensPerStep).toBeGreaterThanOrEqual(1);
    expect(row.acceptedPerTree).toBeLessThanOrEqual(row.draftedPerTree);
    expect(row.acceptanceLength).toBeCloseTo(1 + row.acceptedPerTree, 9);
    expect(row.ratio).toBeCloseTo(row.speculativeTokensPerSecond / row.plainTokensPerSecond, 9);
  }
}

describe("bench speculation", () => {
  it("says that token ids of a random model are shapes, and measures the cost of stars", async () => {
    const sizes: number[] = [];
    const result = await benchSpeculation({
      model: "random:tiny",
      engine: { ...engine, weights: "f32" },
      prompts: 2,
      maxTokens: 12,
      branches: 2,
      costModel: "random:tiny",
      costPromptTokens: 48,
      costSteps: 2,
      onCost: ({ queryTokens }) => sizes.push(queryTokens),
    });
    expect(result.rows.map(({ workload, text }) => [workload, text])).toEqual([
      ["repeated-tokens", "shapes"],
      ["random-tokens", "shapes"],
    ]);
    for (const row of result.rows) expect(row).toMatchObject({ decodes: 2, differing: 0 });
    expectWhole(result, 12);
    expect(sizes).toEqual([1, 2, 4, 8, 16, 32, 64, 128, 256]);
    expect(result.verificationCost).toMatchObject({ text: "shapes", model: "random:tiny" });
    for (const { stepMs } of result.verificationCost!.rows) expect(stepMs).toBeGreaterThan(0);
  });

  it.skipIf(!existsSync(miniWeights))("decodes mini's real text in rounds", async () => {
    const names = ["improve", "chat", "random-text"];
    const result = await benchSpeculation({
      model: "mini",
      engine: { ...engine, weights: "f32" },
      workloads: names,
      prompts: 3,
      rounds: 2,
      maxTokens: 48,
    });
    expect(result.rows.map(({ workload }) => workload)).toEqual(names);
    expectWhole(result, 48);
    for (const row of result.rows) expect(row).toMatchObject({ text: "real", decodes: 6, refusedDrafts: 0 });
    expect(result.rows[0]!.temperature).toBe(0);
    expect(result.rows[2]!.temperature).toBe(3);
    expect(result.verificationCost).toBeUndefined();
  });

  it("refuses a workload that the model cannot have", async () => {
    const bench = benchSpeculation({ model: "random:tiny", engine, workloads: ["chat"] });
    await expect(bench).rejects.toMatchObject({
      code: "E_BAD_ARGUMENT",
      message: expect.stringMatching(/"chat".*repeated-tokens, random-tokens/),
    });
  });

  it("ends with what it has", async () => {
    const controller = new AbortController();
    const result = await benchSpeculation({
      model: "random:tiny",
      engine,
      prompts: 1,
      maxTokens: 8,
      costModel: "random:tiny",
      signal: controller.signal,
      onRow: () => controller.abort(),
    });
    expect(result).toMatchObject({ interrupted: true, rows: [{ workload: "repeated-tokens" }] });
    expect(result.verificationCost).toBeUndefined();
    await expect(benchSpeculation({ model: "random:tiny", engine, signal: AbortSignal.abort() })).rejects.toMatchObject(
      {
        code: "E_ABORTED",
      },
    );
  });
});
