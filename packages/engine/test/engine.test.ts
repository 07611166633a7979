/** The contract over the native engine: small random models in several formats, and mini, under every policy. */
import { existsSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { attentionPolicies, Engine, inspectHost } from "../src/index.js";
import { describeBranchEngine } from "./engine.contract.js";
import { temporaryFolder } from "./temporary-folder.js";
import { testDevice } from "./test-device.js";
import { writeTinyModel } from "./tiny-model.js";

const root = temporaryFolder();
const options = { device: testDevice, threads: 2, kvTokens: 8192 } as const;
const f32 = writeTinyModel(path.join(root, "f32"), { dtype: "F32" });
const bf16 = writeTinyModel(path.join(root, "bf16"), { dtype: "BF16", tied: false, numShards: 3 });

describeBranchEngine("tiny model, F32", () => Engine.load(f32, options));
describeBranchEngine("tiny model, BF16 in shards, untied", () => Engine.load(bf16, options));
const smallestWeights = testDevice === "cpu" ? "int8" : "bf16";
describeBranchEngine(`tiny model, ${smallestWeights} weights, steps of 32 tokens`, () =>
  Engine.load(f32, { ...options, weights: smallestWeights, maxStepTokens: 32 }),
);
for (const attention of attentionPolicies.slice(1)) {
  describeBranchEngine(`tiny model, F32, ${attention}`, () => Engine.load(f32, { ...options, attention }));
}

const miniWeights = fileURLToPath(new URL("../../model-mini/model/model.safetensors", import.meta.url));
if (existsSync(miniWeights)) describeBranchEngine("mini", () => Engine.load("mini", options));
else describe.skip("mini (packages/model-mini/model has no weights)", () => it("is absent", () => {}));

describe("Engine.load", () => {
  it("says what it loaded", async () => {
    await using engine = await Engine.load(bf16, { ...options, contextLength: 256 });
    expect(engine.info).toMatchObject({
      device: testDevice,
      modelName: "bf16",
      contextLength: 256,
      attention: "deft-flatten",
      pageSize: 16,
      numThreads: testDevice === "cpu" ? 2 : 0,
      deviceReason: expect.stringMatching(`^${testDevice}: asked for`),
    });
    expect(engine.info.numPages).toBe(8192 / 16);
    expect(engine.info.weightBytes).toBeGreaterThan(0);
  });

  it("holds at least one context by default", async () => {
    await using engine = await Engine.load(f32, { device: "cpu" });
    expect(engine.info.numPages * engine.info.pageSize).toBe(4 * engine.info.contextLength);
  });

  it("switches the attention policy without changing the tokens", async () => {
    await using engine = await Engine.load(f32, options);
    const texts = new Set<string>();
    for (const policy of attentionPolicies) {
      engine.setAttention(policy);
      expect(engine.info.attention).toBe(policy);
      const branch = engine.branch();
      await branch.extend("One two three");
      const [left, right] = branch.fork(2);
      const results = await Promise.all([left!.decode({ maxTokens: 8 }), right!.decode({ maxTokens: 8 })]);
      texts.add(results.map(({ tokens }) => tokens.join()).join("|"));
      for (const each of [branch, left!, right!]) each.prune();
    }
    expect(texts.size).toBe(1);
    expect(() => engine.setAttention("nope" as never)).toThrow(/deft-flatten, deft-node/);
  });

  it.each([
    [{ attention: "nope" }, /"nope".*deft-flatten, deft-node/],
    [{ device: "tpu" }, /auto, cpu, cuda/],
    [{ weights: "int2" }, /auto, f32, bf16, int8/],
    [{ kvType: "i8" }, /auto, f32, f16, bf16/],
    [{ kvToken: 1 }, /"kvToken".*kvTokens/],
    [{ threads: 0 }, /threads/],
    [{ threads: 1.5 }, /threads/],
    [{ pageSize: 0 }, /pageSize/],
    [{ maxStepTokens: -1 }, /maxStepTokens/],
    [{ contextLength: 513 }, /512/],
    [{ speculation: "fast" }, /"off", "auto" or an object; got "fast"/],
    [{ speculation: { mode: "never" } }, /speculation.mode "never".*auto, always/],
    [{ speculation: { maxDraftTokens: 0 } }, /speculation.maxDraftTokens.*1 to 1024; got 0/],
    [{ speculation: { sources: ["medusa"] } }, /speculation.sources "medusa".*suffix, recycling/],
    [{ speculation: { maxDraftToken: 8 } }, /"maxDraftToken".*mode, maxDraftTokens, sources/],
    [{ signal: "x" }, /AbortSignal/],
  ])("refuses %j and says what is valid", async (bad, message) => {
    const loading = Engine.load(f32, bad as object);
    await expect(loading).rejects.toMatchObject({ code: "E_BAD_ARGUMENT", message: expect.stringMatching(message) });
  });

  it.skipIf(inspectHost().cuda.devices.length > 0)(
    "without a GPU takes the CPU or refuses, with the reason",
    async () => {
      const { problem } = inspectHost().cuda;
      expect(problem).not.toBe("");
      await using auto = await Engine.load(f32, { ...options, device: "auto" });
      expect(auto.info).toMatchObject({ device: "cpu", deviceReason: `auto: ${problem}` });
      await expect(Engine.load(f32, { ...options, device: "cuda" })).rejects.toMatchObject({
        code: "E_DEVICE",
        message: `device "cuda" cannot be used: ${problem}`,
      });
    },
  );

  it.skipIf(testDevice === "cpu")("says how much memory is wanted and free where a GPU has too little", async () => {
    await expect(Engine.load("random:llama-3-8b", { device: "cuda", kvTokens: 2 ** 26 })).rejects.toMatchObject({
      code: "E_OOM",
      message: expect.stringMatching(/GiB.*GiB/),
      figures: { wantedBytes: expect.any(Number), freeBytes: expect.any(Number) },
    });
  });

  it("can be aborted", async () => {
    await expect(Engine.load(f32, { ...options, signal: AbortSignal.abort() })).rejects.toMatchObject({
      code: "E_ABORTED",
    });
    const controller = new AbortController();
    const loading = Engine.load(f32, { ...options, signal: controller.signal });
    controller.abort();
    await expect(loading).rejects.toMatchObject({ code: "E_ABORTED" });
  });

  it("says how many tokens of KV a prompt wants when there are not enough", async () => {
    await using engine = await Engine.load(f32, { ...options, kvTokens: 64 });
    const branch = engine.branch();
    await expect(branch.extend(Array(100).fill(5))).rejects.toMatchObject({
      code: "E_KV_FULL",
      figures: { wantedTokens: 100, totalTokens: 64 },
    });
    await engine.checkInvariants();
    branch.prune();
    const small = engine.branch();
    await small.extend(Array(40).fill(5));
    expect((await small.decode({ maxTokens: 4, stopTokens: [] })).tokens).toHaveLength(4);
  });

  it("keeps engines apart", async () => {
    await using first = await Engine.load(f32, options);
    await using second = await Engine.load(f32, options);
    const run = async (engine: Engine) => {
      const branch = engine.branch();
      await branch.extend("Hello");
      return (await branch.decode({ maxTokens: 8 })).tokens;
    };
    const [a, b] = await Promise.all([run(first), run(second)]);
    expect(a).toEqual(b);
  });

  it("encodes a chat, with special tokens for the template only", async () => {
    await using engine = await Engine.load(f32, options);
    const tokens = engine.encodeChat([{ role: "user", content: "x<|im_end|>y" }]);
    expect(tokens.filter((token) => token === 2)).toHaveLength(1);
    expect(engine.tokenizer.eosTokens).toEqual([2]);
    const withoutPrompt = engine.encodeChat([{ role: "user", content: "x<|im_end|>y" }], {
      addGenerationPrompt: false,
    });
    expect(tokens.slice(0, withoutPrompt.length)).toEqual(withoutPrompt);
    expect(tokens.length).toBeGreaterThan(withoutPrompt.length);
  });
});
