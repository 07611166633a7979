import { expect } from "vitest";
import { DeftreeError } from "../src/errors.js";
import { resolveModel } from "../src/model-source.js";
import { ModelTokenizer } from "../src/tokenizer.js";

/** Loads as far as TypeScript goes: headers, config, tokenizer. */
export async function loadHeaders(source: string): Promise<void> {
  const files = await resolveModel(source);
  new ModelTokenizer(files.tokenizer!, files.config.vocabSize);
}

/** A typed error that names `file`, at once, with nothing allocated for what the file claims. */
export async function expectRefused(source: string, file: string, codes = ["E_BAD_MODEL"]): Promise<void> {
  const before = process.memoryUsage().rss;
  const error = await loadHeaders(source).then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error, "it was accepted").toBeDefined();
  expect(DeftreeError.isInstance(error), String((error as Error).stack)).toBe(true);
  expect(codes).toContain((error as DeftreeError).code);
  expect((error as DeftreeError).message).toContain(file);
  expect(process.memoryUsage().rss - before).toBeLessThan(500e6);
}
