import { ChatDeftree } from "@deftree/langchain";
import { expect, it } from "vitest";
import { benchPruning } from "./pruning.js";

it("runs each problem in all three ways, and says what two of them save of the first", async () => {
  await using model = new ChatDeftree({ threads: 1 });
  const options = { model, length: 48, items: 2, numbersPerThought: 8, width: 6, keep: 2, seed: 1 };
  const rows = await benchPruning(options);
  expect(rows.map(({ pruning }) => pruning)).toEqual(["late", "cut hopeless", "cut hopeless, narrow agreed"]);
  const [late, cut, both] = rows;
  expect(late).toMatchObject({ items: 2, saved: 0 });
  expect(cut!.generatedTokens).toBeLessThanOrEqual(late!.generatedTokens);
  expect(both!.generatedTokens).toBeLessThan(cut!.generatedTokens);
  expect(both!.saved).toBeCloseTo(1 - both!.generatedTokens / late!.generatedTokens, 10);
  for (const { hopelessTokens, duplicateTokens } of rows) expect(hopelessTokens + duplicateTokens).toBeLessThan(1);
  const again = await benchPruning(options);
  expect(again.map(({ solved }) => solved)).toEqual(rows.map(({ solved }) => solved));
});

it("measures nothing after an interruption", async () => {
  await using model = new ChatDeftree({ threads: 1 });
  const options = { model, length: 8, items: 5, numbersPerThought: 8, width: 2, keep: 1, seed: 1 };
  const rows = await benchPruning({ ...options, signal: AbortSignal.abort() });
  for (const row of rows) expect(row).toMatchObject({ items: 0, generatedTokens: 0, saved: 0 });
});
