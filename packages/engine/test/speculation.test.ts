/**
 * Speculation on against off on real engines: the same tokens. `DEFTREE_TEST_PROMPTS=1000` runs as many prompts; the tests
 * that verify every draft (`mode: "always"`) see more drafts than any user will.
 */
import { existsSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type DecodeOptions, type DecodeResult, Engine, type EngineBranch, type Speculation } from "../src/index.js";
import { expectNearTie, probabilitiesBelow, uniformRandom } from "./near-tie.js";
import { temporaryFolder } from "./temporary-folder.js";
import { writeTinyModel } from "./tiny-model.js";

const numPrompts = Number(process.env.DEFTREE_TEST_PROMPTS ?? 48);
const together = 8;
const tinyFolder = writeTinyModel(path.join(temporaryFolder(), "tiny"));
const miniWeights = fileURLToPath(new URL("../../model-mini/model/model.safetensors", import.meta.url));

/** Integers below a bound, the same for the same seed. */
function randomIntegers(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

/** Tasks that `mini` knows, with lists that repeat, and text that it does not know. */
function promptText(index: number): string {
  const random = randomIntegers(index);
  const digits = Array.from({ length: 8 + random(24) }, () => random(10));
  const list = `[${digits.join(", ")}]`;
  switch (index % 3) {
    case 0:
      return `Sort the list of digits in ascending order. Keep every repetition. Answer with the sorted list only.\nInput: ${list}`;
    case 1:
      return `Copy the list: ${list} ${list} ${list}`;
    default:
      return Array.from({ length: 20 }, () => String.fromCharCode(97 + random(26))).join(" ");
  }
}

const numbered = Array.from({ length: numPrompts }, (_, index) => index);
const samplings: (DecodeOptions & { name: string })[] = [
  { name: "greedy", temperature: 0 },
  ...[1, 2, 3].map((seed) => ({ name: `temperature 1, seed ${seed}`, temperature: 1, seed })),
];

interface Model {
  name: string;
  source: string;
  weights: "f32" | "auto";
}
const models: Model[] = [{ name: "tiny, f32", source: tinyFolder, weights: "f32" }];
if (existsSync(miniWeights)) {
  models.push({ name: "mini, f32", source: "mini", weights: "f32" });
  models.push({ name: "mini, default weights", source: "mini", weights: "auto" });
} else describe.skip("mini (packages/model-mini/model has no weights)", () => it("is absent", () => {}));

for (const { name, source, weights } of models) {
  describe(`speculation with ${name}`, () => {
    let engine: Engine;
    beforeAll(async () => {
      engine = await Engine.load(source, { device: "cpu", threads: 2, weights, kvTokens: 16384 });
    });
    afterAll(() => engine?.dispose());

    /**
     * How far a logit, or a sum of probabilities, of one position in two different steps may be apart. The steps differ in
     * the order of attention's sums alone: over 256 keys in f32 that moves an output by at most 256 x 2^-24 = 1.5e-5 of its
     * size, three layers and their norms make 5e-5 of it, and a logit of 20 then moves by 1e-3. That is the worst case;
     * rounding errors have either sign, so that nearly all positions stay within a tenth of it. Where KV is f16, a last bit
     * of a sum decides how K and V are rounded: 2^-11 of logits up to 10.
     */
    const tolerance = weights === "f32" ? 1e-3 : 5e-3;
    const mostBeyondTenth = 1e-3; // of all positions in f32
    const isExact = weights === "f32";

    async function open(prompt: string): Promise<EngineBranch> {
      const branch = engine.branch();
      await branch.extend(engine.encodeChat([{ role: "user", content: prompt }]));
      return branch;
    }

    /** Several prompts side by side, so that steps hold rows of many branches. */
    async function decodeAll(options: DecodeOptions): Promise<DecodeResult[]> {
      const results: DecodeResult[] = [];
      for (let first = 0; first < numPrompts; first += together) {
        const branches = await Promise.all(numbered.slice(first, first + together).map((i) => open(promptText(i))));
        results.push(...(await Promise.all(branches.map((branch) => branch.decode(options)))));
        for (const branch of branches) branch.prune();
      }
      return results;
    }

    /** The same tokens, but for one decode in a hundred (ten where weights are rounded) that left at a near tie. */
    async function expectSame(plain: DecodeResult[], speculative: DecodeResult[], options: DecodeOptions) {
      const differing = numbered.filter((i) => String(plain[i]!.tokens) !== String(speculative[i]!.tokens));
      expect(differing.length).toBeLessThanOrEqual(Math.max(1, (isExact ? 0.01 : 0.1) * numPrompts));
      for (const i of differing) {
        const [one, other] = [plain[i]!.tokens, speculative[i]!.tokens];
        const at = one.findIndex((token, index) => token !== other[index]);
        const branch = await open(promptText(i));
        await branch.extend(one.slice(0, at));
        await expectNearTie(branch, [one[at]!, other[at]!], options, tolerance);
        branch.prune();
      }
      const distances: number[] = [];
      for (const i of numbered.filter((i) => !differing.includes(i))) {
        const { logprobs = [], ...rest } = speculative[i]!;
        const { logprobs: expected = [], ...expectedRest } = plain[i]!;
        expect(rest).toEqual(expectedRest);
        distances.push(...expected.map((value, at) => Math.abs(value - logprobs[at]!)));
      }
      expect(distances.filter((distance) => !(distance < tolerance))).toEqual([]);
      if (!isExact) return;
      const numFar = distances.filter((distance) => distance > tolerance / 10).length;
      expect(numFar).toBeLessThanOrEqual(mostBeyondTenth * distances.length);
    }

    describe.each(samplings)("$name", ({ name: _, ...sampling }) => {
      const base: DecodeOptions = { ...sampling, maxTokens: 48, stopTokens: [] };
      it.each<[string, Speculation]>([
        ["every draft", { mode: "always" }],
        ["small trees", { mode: "always", maxDraftTokens: 2 }],
        ["drafts of one source", { mode: "always", sources: ["recycling"] }],
        ["drafts that pay", "auto"],
      ])("%s", { timeout: 300_000 }, async (_name, speculation) => {
        const before = engine.stats();
        const plain = await decodeAll(base);
        expect(engine.stats().draftedTokens).toBe(before.draftedTokens);
        const speculative = await decodeAll({ ...base, speculation });
        await expectSame(plain, speculative, base);
        const after = engine.stats();
        expect(after.refusedDrafts).toBe(0);
        if (speculation !== "auto") expect(after.draftedTokens).toBeGreaterThan(before.draftedTokens);
        await engine.checkInvariants();
      });

      it("with stop strings and log-probabilities", async () => {
        const options: DecodeOptions = { ...base, logprobs: 3, stop: [", 5", "7"], stopTokens: undefined };
        const plain = await decodeAll(options);
        const speculative = await decodeAll({ ...options, speculation: { mode: "always" } });
        await expectSame(plain, speculative, options);
        if (source === "mini") expect(plain.some(({ stopString }) => stopString !== undefined)).toBe(true);
      });

      it.runIf(isExact)("with forks, prunes and truncations in the middle", async () => {
        /** What the branches of one prompt's small tree hold; the pruned one ends when it likes. */
        async function grow(prompt: number, speculation: Speculation): Promise<{ kept: number[][]; pruned: number[] }> {
          const options = { ...base, speculation };
          const root = await open(promptText(prompt));
          const trunk = await root.decode({ ...options, maxTokens: 9 });
          const [left, middle, right] = root.fork(3) as [EngineBranch, EngineBranch, EngineBranch];
          const doomed = middle.decode({ ...options, maxTokens: 200 });
          const running = [left.decode(options), right.decode({ ...options, maxTokens: 14 })];
          for await (const _token of doomed) if (left.length > root.length + 6) break;
          middle.prune();
          const [leftResult, rightResult] = await Promise.all(running);
          await right.truncate(root.length + 5);
          const again = await right.decode({ ...options, maxTokens: 20 });
          for (const branch of [root, left, right]) branch.prune();
          return {
            kept: [trunk.tokens, leftResult!.tokens, rightResult!.tokens, again.tokens],
            pruned: (await doomed).tokens,
          };
        }
        const some = numbered.slice(0, 2 * together);
        const growAll = (speculation: Speculation) => Promise.all(some.map((prompt) => grow(prompt, speculation)));
        const plain = await growAll("off");
        const speculative = await growAll({ mode: "always" });
        for (const [i, { kept, pruned }] of plain.entries()) {
          expect(speculative[i]!.kept).toEqual(kept);
          const common = Math.min(pruned.length, speculative[i]!.pruned.length);
          expect(speculative[i]!.pruned.slice(0, common)).toEqual(pruned.slice(0, common));
        }
        await engine.checkInvariants();
      });
    });

    it("accepts more than one token a step where text repeats", async () => {
      const branch = await open("Copy the list");
      const line = engine.tokenizer.encode("[1, 2, 3, 4, 5, 6, 7, 8, 9] ");
      await branch.extend(Array.from({ length: 12 }, () => line).flat());
      const before = engine.stats();
      const { tokens } = await branch.decode({ maxTokens: 60, stopTokens: [], speculation: { mode: "always" } });
      const after = engine.stats();
      expect(tokens).toHaveLength(60);
      expect(after.decodedTokens - before.decodedTokens).toBe(60);
      const accepted = after.acceptedDraftTokens - before.acceptedDraftTokens;
      expect(after.draftTrees - before.draftTrees).toBeLessThanOrEqual(after.verifySteps - before.verifySteps);
      expect(after.steps - before.steps).toBeLessThanOrEqual(60 - accepted + 1);
      if (source === "mini") expect(accepted).toBeGreaterThan(20);
      branch.prune();
    });
  });
}

describe("speculation chosen at load", () => {
  it("is judged by the engine's own random numbers", async () => {
    await using engine = await Engine.load(tinyFolder, { device: "cpu", threads: 1 });
    const branch = engine.branch();
    await branch.extend("abc");
    for (const seed of [1, 2, 3]) {
      const [below, upTo] = await probabilitiesBelow(branch, 1);
      const number = uniformRandom(seed, branch.length);
      const { tokens } = await branch.decode({ maxTokens: 1, temperature: 1, seed, stopTokens: [] });
      expect(below(tokens[0]!)).toBeLessThanOrEqual(number + 1e-5);
      expect(upTo(tokens[0]!)).toBeGreaterThan(number - 1e-5);
    }
  });

  it.each<[Speculation | undefined, boolean]>([
    [undefined, false],
    ["off", false],
    [{ mode: "always" }, true],
  ])("%j", async (speculation, drafts) => {
    await using engine = await Engine.load(tinyFolder, { device: "cpu", threads: 1, speculation });
    const branch = engine.branch();
    await branch.extend(Array.from({ length: 64 }, (_, i) => 5 + (i % 8)));
    await branch.decode({ maxTokens: 24, stopTokens: [] });
    expect(engine.stats().draftedTokens > 0).toBe(drafts);
    await branch.decode({ maxTokens: 24, stopTokens: [], speculation: "off" });
    const before = engine.stats().draftedTokens;
    await branch.decode({ maxTokens: 24, stopTokens: [], speculation: { mode: "always" } });
    expect(engine.stats().draftedTokens).toBeGreaterThan(before);
  });

  it("auto measures what steps cost, and gives the same tokens", async () => {
    const decode = async (speculation: Speculation) => {
      await using engine = await Engine.load(tinyFolder, { device: "cpu", threads: 1, speculation });
      const branch = engine.branch();
      await branch.extend(Array.from({ length: 64 }, (_, i) => 5 + (i % 8)));
      return (await branch.decode({ maxTokens: 64, stopTokens: [] })).tokens;
    };
    expect(await decode("auto")).toEqual(await decode("off"));
  });

  it("decodes plainly where no page is free for drafts", async () => {
    await using engine = await Engine.load(tinyFolder, { device: "cpu", threads: 1, kvTokens: 64, pageSize: 8 });
    const branch = engine.branch();
    await branch.extend(Array.from({ length: 40 }, (_, i) => 5 + (i % 4)));
    const options = { maxTokens: 24, stopTokens: [] };
    const { tokens } = await branch.decode({ ...options, speculation: { mode: "always" } });
    await branch.truncate(40);
    expect(tokens).toEqual((await branch.decode(options)).tokens);
    expect(engine.stats().droppedDrafts).toBeGreaterThan(0);
  });
});
