/** Hugging Face folders that are broken or lie: each must give a typed error that names the file. */
import { cpSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { describe, expect, it } from "vitest";
import { expectRefused, loadHeaders } from "./expect-refused.js";
import { temporaryFolder } from "./temporary-folder.js";
import { hfConfig, safetensorsWithHeader, tinyConfig, writeTinyModel } from "./tiny-model.js";

const root = temporaryFolder();
const pristine = writeTinyModel(path.join(root, "pristine"));
const sharded = writeTinyModel(path.join(root, "sharded"), { numShards: 2 });
let numFolders = 0;

/** A copy of a good folder for a test to break. */
function copyOf(folder: string): string {
  const copy = path.join(root, `copy-${numFolders++}`);
  cpSync(folder, copy, { recursive: true });
  return copy;
}

function writeJson(folder: string, name: string, value: unknown): void {
  writeFileSync(path.join(folder, name), typeof value === "string" ? value : JSON.stringify(value));
}

describe("the untouched models", () => {
  it("load", async () => {
    await loadHeaders(pristine);
    await loadHeaders(sharded);
  });
});

describe("config.json", () => {
  const good = hfConfig(tinyConfig);
  const cases: Record<string, unknown> = {
    "no JSON": "{",
    "an empty file": "",
    "a list": [],
    "a bomb of brackets": "[".repeat(100_000),
    "a repeated key": '{"hidden_size": 128, "hidden_size": 64}',
    "a repeated key, spelled differently": '{"hidden_size": 128, "hidden_s\\u0069ze": 64}',
    "another architecture": { ...good, architectures: ["GPT2LMHeadModel"] },
    "no architecture": { ...good, architectures: undefined, model_type: undefined },
    NaN: JSON.stringify(good).replace('"rope_theta":10000', '"rope_theta":NaN'),
    "an infinite base": JSON.stringify(good).replace('"rope_theta":10000', '"rope_theta":1e999'),
    "zero layers": { ...good, num_hidden_layers: 0 },
    "negative heads": { ...good, num_attention_heads: -4 },
    "half a layer": { ...good, num_hidden_layers: 1.5 },
    "a text for a number": { ...good, hidden_size: "128" },
    "a huge vocabulary": { ...good, vocab_size: 2 ** 52 },
    "huge layers": { ...good, num_hidden_layers: 1e9 },
    "KV heads that do not divide": { ...good, num_key_value_heads: 3 },
    "an odd head": { ...good, head_dim: 63 },
    "a zero epsilon": { ...good, rms_norm_eps: 0 },
    "an unknown RoPE scaling": { ...good, rope_scaling: { rope_type: "yarn", factor: 4 } },
    "llama3 RoPE scaling without numbers": { ...good, rope_scaling: { rope_type: "llama3" } },
    "a RoPE factor of zero": {
      ...good,
      rope_scaling: {
        rope_type: "llama3",
        factor: 0,
        low_freq_factor: 1,
        high_freq_factor: 4,
        original_max_position_embeddings: 8192,
      },
    },
    biases: { ...good, attention_bias: true },
    "another activation": { ...good, hidden_act: "gelu" },
    "quantised weights": { ...good, quantization_config: { quant_method: "awq" } },
    "a width that the tensors do not have": { ...good, hidden_size: 256 },
    "more layers than there are": { ...good, num_hidden_layers: 3 },
    "an untied head that is not there": { ...good, tie_word_embeddings: false },
    "a vocabulary smaller than the embedding": { ...good, vocab_size: 100 },
  };
  for (const [name, config] of Object.entries(cases)) {
    it(`with ${name}`, async () => {
      const folder = copyOf(pristine);
      writeJson(folder, "config.json", config);
      await expectRefused(folder, folder);
    });
  }
});

describe("safetensors", () => {
  const weights = readFileSync(path.join(pristine, "model.safetensors"));
  const headerBytes = Number(weights.readBigUInt64LE());
  const header = weights.subarray(8, 8 + headerBytes).toString();
  const data = weights.subarray(8 + headerBytes);
  const first = "model.embed_tokens.weight";

  async function expectFileRefused(file: Uint8Array): Promise<void> {
    const folder = copyOf(pristine);
    writeFileSync(path.join(folder, "model.safetensors"), file);
    await expectRefused(folder, path.join(folder, "model.safetensors"));
  }

  const lengths = [0, 1, 7, 8, 9, 8 + headerBytes - 1, 8 + headerBytes, weights.length - 1, weights.length - 4096];
  it.each(lengths)("cut after %i bytes", async (length) => expectFileRefused(weights.subarray(0, length)));

  it("with bytes after its end", async () => expectFileRefused(Buffer.concat([weights, Buffer.alloc(1)])));

  it.each([2n ** 64n - 1n, 2n ** 63n, 2n ** 32n, 100_000_001n])(
    "saying that its header has %s bytes",
    async (length) => {
      const file = Buffer.from(weights);
      file.writeBigUInt64LE(length);
      await expectFileRefused(file);
    },
  );

  it("with a header that is a bomb of brackets", async () =>
    expectFileRefused(safetensorsWithHeader("[".repeat(5_000_000), data)));
  it("with a header that is no object", async () => expectFileRefused(safetensorsWithHeader("[]", data)));
  it("with a header of other bytes", async () => expectFileRefused(safetensorsWithHeader("\u0000\u0001", data)));
  it("with a tensor twice", async () => {
    const entry = JSON.stringify(JSON.parse(header)[first]);
    await expectFileRefused(safetensorsWithHeader(header.replace("{", `{"${first}":${entry},`), data));
  });

  type Entry = { dtype: unknown; shape: unknown; data_offsets: unknown };
  const lies: Record<string, (entry: Entry, tensors: Record<string, Entry>) => void> = {
    "an unknown dtype": (entry) => Object.assign(entry, { dtype: "F8_E4M3" }),
    "no dtype": (entry) => Object.assign(entry, { dtype: undefined }),
    "a dtype from the prototype": (entry) => Object.assign(entry, { dtype: "constructor" }),
    "a shape whose product overflows": (entry) => Object.assign(entry, { shape: [2 ** 32, 2 ** 32] }),
    "a shape whose product wraps to its size": (entry) => Object.assign(entry, { shape: [2 ** 40, 2 ** 24, 0] }),
    "a negative dimension": (entry) => Object.assign(entry, { shape: [-268, -128] }),
    "a fraction as dimension": (entry) => Object.assign(entry, { shape: [268.5, 128] }),
    "too many dimensions": (entry) => Object.assign(entry, { shape: [...Array(60).fill(1), 268, 128] }),
    "a shape of text": (entry) => Object.assign(entry, { shape: "268x128" }),
    "a zero dimension": (entry) => Object.assign(entry, { shape: [0, 128] }),
    "offsets beyond the file": (entry) => Object.assign(entry, { data_offsets: [0, 2 ** 50] }),
    "offsets backwards": (entry) => Object.assign(entry, { data_offsets: [1000, 0] }),
    "negative offsets": (entry) => Object.assign(entry, { data_offsets: [-4, 268 * 128 * 4 - 4] }),
    "one offset": (entry) => Object.assign(entry, { data_offsets: [0] }),
    "huge offsets": (entry) => Object.assign(entry, { data_offsets: [2 ** 60, 2 ** 60 + 268 * 128 * 4] }),
    "a smaller shape than its bytes": (entry) => Object.assign(entry, { shape: [1, 1] }),
    "another tensor's bytes": (_, tensors) => {
      const [q, o] = ["q", "o"].map((part) => tensors[`model.layers.0.self_attn.${part}_proj.weight`]!);
      o!.data_offsets = q!.data_offsets;
    },
    "a transposed shape": (_, tensors) => {
      (tensors["model.layers.0.mlp.up_proj.weight"]!.shape as number[]).reverse();
    },
    "a number for an entry": (_, tensors) => Object.assign(tensors, { [first]: 3 }),
    "a missing tensor": (_, tensors) => {
      tensors.other = tensors[first]!;
      delete tensors[first];
    },
    "a bias": (entry, tensors) => {
      Object.assign(tensors, {
        "model.layers.0.self_attn.q_proj.bias": { dtype: "F32", shape: [0], data_offsets: [0, 0] },
      });
      entry.dtype = "F32";
    },
  };
  for (const [name, lie] of Object.entries(lies)) {
    it(`with ${name}`, async () => {
      const tensors = JSON.parse(header);
      lie(tensors[first], tensors);
      await expectFileRefused(safetensorsWithHeader(JSON.stringify(tensors), data));
    });
  }
});

describe("index and shards", () => {
  const index = JSON.parse(readFileSync(path.join(sharded, "model.safetensors.index.json"), "utf8"));
  const missing = ["E_BAD_MODEL", "E_MODEL_NOT_FOUND"];
  const names = [
    "../model-1-of-2.safetensors",
    "/etc/passwd",
    "..\\model.safetensors",
    "sub/model.safetensors",
    ".hidden.safetensors",
    "C:model.safetensors",
    "model.bin",
    "",
    "a\u0000.safetensors",
    7,
    null,
  ];
  it.each(names)("shard named %j", async (name) => {
    const folder = copyOf(sharded);
    index.weight_map["model.norm.weight"] = name;
    writeJson(folder, "model.safetensors.index.json", index);
    await expectRefused(folder, folder);
  });
  const indexes: Record<string, unknown> = {
    "no map": {},
    "an empty map": { weight_map: {} },
    "a map of lists": { weight_map: { a: [] } },
    "no JSON": "{]",
    "thousands of shards": {
      weight_map: Object.fromEntries(Array.from({ length: 2000 }, (_, i) => [`t${i}`, `s${i}.safetensors`])),
    },
    "a shard that is not there": { weight_map: { a: "model-3-of-2.safetensors" } },
    "too few shards": { weight_map: { a: "model-1-of-2.safetensors" } },
  };
  for (const [name, value] of Object.entries(indexes)) {
    it(`index with ${name}`, async () => {
      const folder = copyOf(sharded);
      writeJson(folder, "model.safetensors.index.json", value);
      await expectRefused(folder, folder, missing);
    });
  }
  it("a tensor in two shards", async () => {
    const folder = copyOf(sharded);
    const copy = path.join(folder, "model-2-of-2.safetensors");
    cpSync(path.join(folder, "model-1-of-2.safetensors"), copy);
    await expectRefused(folder, copy);
  });
  it("a folder for a shard", async () => {
    const folder = copyOf(sharded);
    mkdirSync(path.join(folder, "model-9-of-2.safetensors"));
    writeJson(folder, "model.safetensors.index.json", { weight_map: { a: "model-9-of-2.safetensors" } });
    await expectRefused(folder, folder);
  });
});

describe("files that are missing", () => {
  it.each(["config.json", "tokenizer.json", "model.safetensors"])("%s", async (name) => {
    const folder = path.join(root, `without-${name}`);
    cpSync(pristine, folder, { recursive: true, filter: (source) => path.basename(source) !== name });
    await expectRefused(folder, folder, ["E_MODEL_NOT_FOUND"]);
  });
  it.each(["/nowhere/at/all", "no/such-model", "./mini", "plain", "a/b/c"])("model %s", async (source) => {
    await expectRefused(source, source.replace("./", ""), ["E_MODEL_NOT_FOUND"]);
  });
  it.each(["", "a\u0000b"])("model %j", async (source) => {
    await expect(loadHeaders(source)).rejects.toMatchObject({ code: "E_BAD_ARGUMENT" });
  });
  it("a file of another kind", async () => {
    const file = path.join(root, "model.bin");
    writeFileSync(file, "");
    await expectRefused(file, file);
  });
});

describe("tokenizer.json", () => {
  const good = JSON.parse(readFileSync(path.join(pristine, "tokenizer.json"), "utf8"));
  const cases: Record<string, unknown> = {
    "no JSON": "{",
    "no model": { ...good, model: undefined },
    "a vocabulary of text": { ...good, model: { ...good.model, vocab: { a: "b" } } },
    "ids outside of the model": { ...good, model: { ...good.model, vocab: { a: 100_000 } } },
    "negative ids": { ...good, model: { ...good.model, vocab: { a: -1 } } },
    "an added token without text": { ...good, added_tokens: [{ id: 1 }] },
    "an added token outside of the model": { ...good, added_tokens: [{ id: 1e9, content: "x", special: true }] },
    "no merges": { ...good, model: { ...good.model, merges: undefined } },
    "another decoder": { ...good, decoder: { type: "CTC" } },
    "an unknown pre-tokenizer": { ...good, pre_tokenizer: { type: "Nope" } },
    "a pattern that is none": {
      ...good,
      pre_tokenizer: { type: "Split", pattern: { Regex: "(" }, behavior: "Isolated" },
    },
  };
  for (const [name, value] of Object.entries(cases)) {
    it(`with ${name}`, async () => {
      const folder = copyOf(pristine);
      writeJson(folder, "tokenizer.json", value);
      await expectRefused(folder, path.join(folder, "tokenizer.json"));
    });
  }
});
