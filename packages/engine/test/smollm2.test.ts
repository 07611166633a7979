/**
 * A real model, SmolLM2-135M-Instruct in Q4_1, against independent numbers: Hugging Face's tokens, and logits and
 * log-probabilities of transformers on the dequantised weights. The model file is looked for in DEFTREE_TEST_MODELS (or
 * ~/.cache/deftree-test-models), the numbers in DEFTREE_SHARED (or ../shared beside the repository).
 */
import { existsSync, readFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { loadAddon } from "../src/addon-loader.js";
import { type BranchEngine, Engine } from "../src/index.js";
import { resolveModel } from "../src/model-source.js";
import { ModelTokenizer } from "../src/tokenizer.js";

interface NextLogits {
  ids: number[];
  top_ids: number[];
  top_logits: number[];
  logsumexp: number;
}
interface Reference {
  tokenizer: { text: string; plain: number[]; special: number[] }[];
  prompts: (NextLogits & {
    name: string;
    text: string;
    greedy_ids: number[];
    greedy_text: string;
    greedy_margins: number[];
    continuation: { text: string; ids: number[]; logprobs: number[] };
  })[];
  trees: { name: string; prefix: string; prefix_ids: number[]; branches: (NextLogits & { text: string })[] }[];
}

const modelsFolder = process.env.DEFTREE_TEST_MODELS ?? path.join(os.homedir(), ".cache", "deftree-test-models");
const sharedFolder = process.env.DEFTREE_SHARED ?? fileURLToPath(new URL("../../../../shared", import.meta.url));
const model = path.join(modelsFolder, "SmolLM2-135M-Instruct.Q4_1.gguf");
const referenceFile = path.join(sharedFolder, "models", "smollm2-reference.json");
const blocksFile = path.join(sharedFolder, "models", "gguf-blocks.json");

const missing = [model, referenceFile, blocksFile].filter((file) => !existsSync(file));
if (missing.length > 0) describe.skip(`SmolLM2 (absent: ${missing.join(", ")})`, () => it("is absent", () => {}));
else {
  const reference = JSON.parse(readFileSync(referenceFile, "utf8")) as Reference;
  describe("SmolLM2's tokenizer", () => describeTokenizer(reference));
  describe("SmolLM2 in f32", () => describeF32(reference));
  describe("SmolLM2 with default weights", () => describeDefaultWeights(reference));
  describe("GGUF blocks", () => describeBlocks());
}

function describeTokenizer(reference: Reference): void {
  let tokenizer: ModelTokenizer;
  beforeAll(async () => {
    const files = await resolveModel(model);
    tokenizer = new ModelTokenizer(files.tokenizer!, files.config.vocabSize);
  });
  it.each(reference.tokenizer)("$text", ({ text, plain, special }) => {
    expect(tokenizer.encode(text)).toEqual(plain);
    expect(tokenizer.encodeWithSpecialTokens(text)).toEqual(special);
    expect(tokenizer.decode(plain)).toBe(text);
  });
}

/** Relative to the largest of the values: 1e-3 is what f32 must reach. */
function expectClose(actual: number[], expected: number[], tolerance = 1e-3): void {
  const scale = Math.max(...expected.map(Math.abs));
  const worst = Math.max(...expected.map((value, index) => Math.abs(actual[index]! - value)));
  expect(worst / scale).toBeLessThan(tolerance);
}

function expectLogits(logits: Float32Array, { top_ids: ids, top_logits: values, logsumexp }: NextLogits): void {
  expectClose(
    ids.map((id) => logits[id]!),
    values,
  );
  const largest = Math.max(...logits);
  const logSum = largest + Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit - largest), 0));
  expectClose([logSum], [logsumexp]);
  expect(logits.indexOf(largest)).toBe(ids[0]);
}

function describeF32(reference: Reference): void {
  let engine: BranchEngine;
  beforeAll(async () => {
    engine = await Engine.load(model, { device: "cpu", weights: "f32", kvType: "f32", contextLength: 1024 });
  });
  afterAll(() => engine?.dispose());

  it("writes the chat as the reference does", () => {
    const tokens = engine.encodeChat([{ role: "user", content: "What is the capital of France?" }]);
    expect(tokens).toEqual(reference.prompts.find(({ name }) => name === "france")!.ids);
  });

  it.each(reference.prompts)("$name: logits, log-probabilities, greedy tokens", async (prompt) => {
    using branch = engine.branch();
    expect(engine.tokenizer.encodeWithSpecialTokens(prompt.text)).toEqual(prompt.ids);
    await branch.extend(prompt.ids);
    expectLogits(await branch.logits(), prompt);
    expect(engine.tokenizer.encode(prompt.continuation.text)).toEqual(prompt.continuation.ids);
    expectClose((await branch.score(prompt.continuation.ids)).logprobs, prompt.continuation.logprobs);
    const { tokens, text } = await branch.decode({ maxTokens: prompt.greedy_ids.length });
    expect(tokens).toEqual(prompt.greedy_ids);
    expect(prompt.greedy_text.startsWith(text)).toBe(true);
  });

  it.each(reference.trees)("$name: branches decoded in one step have the logits of each alone", async (tree) => {
    using root = engine.branch();
    await root.extend(tree.prefix_ids);
    const children = root.fork(tree.branches.length);
    const logits = await Promise.all(
      children.map(async (child, index) => {
        await child.extend(tree.branches[index]!.ids);
        return child.logits();
      }),
    );
    for (const [index, branch] of tree.branches.entries()) expectLogits(logits[index]!, branch);
    for (const child of children) child.prune();
  });
}

function describeDefaultWeights(reference: Reference): void {
  let engine: BranchEngine;
  beforeAll(async () => {
    engine = await Engine.load(model, { device: "cpu", contextLength: 1024 });
  });
  afterAll(() => engine?.dispose());

  it.each(reference.prompts)(
    "$name: greedy tokens up to the first near tie",
    async ({ ids, greedy_ids: greedy, greedy_margins: margins }) => {
      const firstTie = margins.findIndex((margin) => margin < 0.3);
      const sure = firstTie < 0 ? greedy : greedy.slice(0, firstTie);
      using branch = engine.branch();
      await branch.extend(ids);
      const { tokens } = await branch.decode({ maxTokens: greedy.length });
      expect(tokens.slice(0, sure.length)).toEqual(sure);
    },
  );

  it("answers in words", async () => {
    using branch = engine.branch();
    await branch.extend(engine.encodeChat([{ role: "user", content: "What is the capital of Germany?" }]));
    const { text, finishReason } = await branch.decode({ maxTokens: 48 });
    expect(text).toMatch(/Berlin/);
    expect(finishReason).toBe("stop");
  });
}

function describeBlocks(): void {
  interface Block {
    type: string;
    bytes_hex: string;
    values: number[];
  }
  const { blocks } = JSON.parse(readFileSync(blocksFile, "utf8")) as { blocks: Block[] };
  const unsupported = ["Q2_K", "Q3_K"];
  it.each(blocks.filter(({ type }) => !unsupported.includes(type)))(
    "$type",
    async ({ type, bytes_hex: hex, values }) => {
      const actual = loadAddon().dequantize(type, Buffer.from(hex, "hex"));
      expect(actual).toHaveLength(values.length);
      for (const [index, value] of values.entries()) {
        expect(Math.abs(actual[index]! - value)).toBeLessThanOrEqual(1e-6 * Math.max(1, Math.abs(value)));
      }
    },
  );
  it.each(unsupported)("%s is refused", async (type) => {
    const addon = loadAddon();
    expect(() => addon.dequantize(type, new Uint8Array(84))).toThrow();
  });
}
