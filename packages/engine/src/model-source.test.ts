import { cpSync, mkdirSync, writeFileSync } from "node:fs";
import path from "node:path";
import { afterEach, describe, expect, it } from "vitest";
import { ggufFile } from "../test/gguf-writer.js";
import { temporaryFolder } from "../test/temporary-folder.js";
import { tinyGguf } from "../test/tiny-gguf.js";
import { hfConfig, tinyConfig, writeTinyModel } from "../test/tiny-model.js";
import { tinyChatTemplate } from "../test/tiny-tokenizer.js";
import { parseHfConfig } from "./hf-config.js";
import { hubCacheFolder, isHubModelId } from "./hub-cache.js";
import { resolveModel } from "./model-source.js";

const root = temporaryFolder();
const folder = writeTinyModel(path.join(root, "tiny"));
const savedCache = process.env.HF_HUB_CACHE;
afterEach(() => {
  if (savedCache === undefined) delete process.env.HF_HUB_CACHE;
  else process.env.HF_HUB_CACHE = savedCache;
});

describe("resolveModel", () => {
  it("reads a folder", async () => {
    const files = await resolveModel(folder);
    expect(files).toMatchObject({ name: "tiny", path: folder, chatTemplate: tinyChatTemplate, config: tinyConfig });
    expect(files.tokenizer).toMatchObject({ eosTokens: [2], bosToken: undefined, addBosToken: false });
    expect(files.tensors).toHaveLength(2 + 9 * tinyConfig.numLayers);
  });

  it("reads shards: each tensor names its file", async () => {
    const files = await resolveModel(writeTinyModel(path.join(root, "shards"), { numShards: 3, tied: false }));
    expect(files.files).toHaveLength(3);
    expect(new Set(files.tensors.map(({ file }) => file))).toEqual(new Set([0, 1, 2]));
  });

  it("reads a GGUF file to the same config and tensors as a folder", async () => {
    const file = path.join(root, "tiny-model.gguf");
    writeFileSync(file, ggufFile(tinyGguf()));
    const [gguf, hf] = [await resolveModel(file), await resolveModel(folder)];
    const rmsNormEps = Math.fround(tinyConfig.rmsNormEps);
    expect(gguf.config).toEqual({ ...tinyConfig, rmsNormEps, qkPermuted: true });
    expect(gguf.name).toBe("tiny-model");
    const describeTensors = (tensors: typeof gguf.tensors) =>
      tensors.map(({ name, shape, bytes }) => [name, shape, bytes]);
    expect(describeTensors(gguf.tensors)).toEqual(describeTensors(hf.tensors));
  });

  it("reads the GGUF file of a folder that has one", async () => {
    const only = path.join(root, "gguf-folder");
    mkdirSync(only);
    writeFileSync(path.join(only, "a.gguf"), ggufFile(tinyGguf()));
    expect((await resolveModel(only)).name).toBe("a");
    cpSync(path.join(only, "a.gguf"), path.join(only, "b.gguf"));
    await expect(resolveModel(only)).rejects.toMatchObject({
      code: "E_MODEL_NOT_FOUND",
      message: expect.stringMatching(/a\.gguf, b\.gguf/),
    });
  });

  it("finds org/name in the hub cache by its main ref", async () => {
    process.env.HF_HUB_CACHE = path.join(root, "hub");
    const repository = path.join(root, "hub", "models--org--tiny");
    const commit = "0123456789abcdef0123456789abcdef01234567";
    mkdirSync(path.join(repository, "refs"), { recursive: true });
    mkdirSync(path.join(repository, "snapshots", "ffff"), { recursive: true });
    writeFileSync(path.join(repository, "refs", "main"), commit);
    cpSync(folder, path.join(repository, "snapshots", commit), { recursive: true });
    expect((await resolveModel("org/tiny")).name).toBe("org/tiny");
    await expect(resolveModel("org/other")).rejects.toMatchObject({
      code: "E_MODEL_NOT_FOUND",
      message: expect.stringContaining(path.join(root, "hub")),
    });
  });

  it("does not follow a ref out of the cache", async () => {
    process.env.HF_HUB_CACHE = path.join(root, "hub-evil");
    const repository = path.join(root, "hub-evil", "models--org--tiny");
    mkdirSync(path.join(repository, "refs"), { recursive: true });
    writeFileSync(path.join(repository, "refs", "main"), "../../../tiny");
    await expect(resolveModel("org/tiny")).rejects.toMatchObject({ code: "E_MODEL_NOT_FOUND" });
  });
});

describe("config.json variants", () => {
  const variant = async (name: string, config: Record<string, unknown>) =>
    (await resolveModel(writeTinyModel(path.join(root, name), { config }))).config;
  const llama3 = { factor: 32, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 8192 };
  const expected = { factor: 32, lowFreqFactor: 1, highFreqFactor: 4, originalContextLen: 8192 };

  it("reads llama3 RoPE scaling in the old and the new place", async () => {
    const old = await variant("rope-old", { rope_theta: 5e5, rope_scaling: { rope_type: "llama3", ...llama3 } });
    expect(old).toMatchObject({ ropeTheta: 5e5, ropeScaling: expected });
    const now = await variant("rope-new", {
      rope_theta: undefined,
      rope_parameters: { rope_type: "llama3", rope_theta: 5e5, ...llama3 },
    });
    expect(now).toMatchObject({ ropeTheta: 5e5, ropeScaling: expected });
    expect((await variant("rope-none", { rope_scaling: null })).ropeScaling).toBeUndefined();
  });

  it("takes head_dim as hidden size over heads where it is not given", () => {
    const config = {
      ...hfConfig(tinyConfig),
      head_dim: undefined,
      num_attention_heads: 2,
      num_key_value_heads: undefined,
    };
    expect(parseHfConfig(JSON.parse(JSON.stringify(config)), "config.json")).toMatchObject({
      headDim: 64,
      numQoHeads: 2,
      numKvHeads: 2,
    });
  });
});

describe("hub cache", () => {
  it("is where Hugging Face's tools have it", () => {
    expect(hubCacheFolder({ HF_HUB_CACHE: "/a" })).toBe("/a");
    expect(hubCacheFolder({ HF_HOME: "/b" })).toBe(path.join("/b", "hub"));
    expect(hubCacheFolder({ XDG_CACHE_HOME: "/c" })).toBe(path.join("/c", "huggingface", "hub"));
    expect(hubCacheFolder({})).toMatch(/\.cache.huggingface.hub$/);
  });
  it("knows a model id from a path", () => {
    expect(["meta-llama/Llama-3.2-1B", "a/b.c"].map(isHubModelId)).toEqual([true, true]);
    expect(["a", "a/b/c", "../b", "a/..", "/a/b", "./a", "a b/c"].map(isHubModelId)).toEqual(Array(7).fill(false));
  });
});
