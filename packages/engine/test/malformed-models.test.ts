/** Model files that are broken or lie. Each must give a typed error that names the file, at once, with nothing allocated for it. */
import { cpSync, mkdirSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import path from "node:path";
import { describe, expect, it } from "vitest";
import { DeftreeError } from "../src/errors.js";
import { resolveModel } from "../src/model-source.js";
import { ModelTokenizer } from "../src/tokenizer.js";
import { bool, f32, type GgufToWrite, ggufFile, i32s, text, texts, u32 } from "./gguf-writer.js";
import { temporaryFolder } from "./temporary-folder.js";
import { setMetadata, tinyGguf } from "./tiny-gguf.js";
import { hfConfig, safetensorsWithHeader, tinyConfig, writeTinyModel } from "./tiny-model.js";

const root = temporaryFolder();
const pristine = writeTinyModel(path.join(root, "pristine"));
const sharded = writeTinyModel(path.join(root, "sharded"), { numShards: 2 });
let numFolders = 0;

/** Loads as far as TypeScript goes: headers, config, tokenizer. */
async function load(source: string): Promise<void> {
  const files = await resolveModel(source);
  new ModelTokenizer(files.tokenizer, files.config.vocabSize);
}

async function expectRefused(source: string, file: string, codes = ["E_BAD_MODEL"]): Promise<void> {
  const before = process.memoryUsage().rss;
  const error = await load(source).then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error, "it was accepted").toBeDefined();
  expect(DeftreeError.isInstance(error), String((error as Error).stack)).toBe(true);
  expect(codes).toContain((error as DeftreeError).code);
  expect((error as DeftreeError).message).toContain(file);
  expect(process.memoryUsage().rss - before).toBeLessThan(500e6);
}

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
    await load(pristine);
    await load(sharded);
    const gguf = path.join(root, "good.gguf");
    writeFileSync(gguf, ggufFile(tinyGguf()));
    await load(gguf);
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
    await expect(load(source)).rejects.toMatchObject({ code: "E_BAD_ARGUMENT" });
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

describe("GGUF", () => {
  const whole = ggufFile(tinyGguf());

  async function expectGgufRefused(bytes: Uint8Array): Promise<void> {
    const file = path.join(root, `bad-${numFolders++}.gguf`);
    writeFileSync(file, bytes);
    await expectRefused(file, file);
  }

  const cuts = [
    0,
    3,
    4,
    8,
    16,
    23,
    24,
    25,
    40,
    100,
    500,
    1000,
    2000,
    4000,
    6000,
    whole.length - 1,
    whole.length - 5000,
  ];
  it.each(cuts)("cut after %i bytes", async (length) => expectGgufRefused(whole.subarray(0, length)));

  it("cut anywhere in its header", async () => {
    const file = path.join(root, "cut.gguf");
    const headerBytes = whole.length - tinyGguf().data.length;
    writeFileSync(file, whole.subarray(0, headerBytes));
    for (let length = headerBytes - 1; length >= 0; length -= 37) {
      truncateSync(file, length);
      await expectRefused(file, file);
    }
  });

  it("a header of 24 bytes that claims 2^60 tensors", async () => {
    await expectGgufRefused(
      ggufFile({ metadata: [], tensors: [], data: new Uint8Array(0), numTensors: 2n ** 60n }).subarray(0, 24),
    );
  });

  const lies: Record<string, (gguf: GgufToWrite) => void> = {
    "2^60 tensors": (gguf) => Object.assign(gguf, { numTensors: 2n ** 60n }),
    "2^64-1 metadata entries": (gguf) => Object.assign(gguf, { numMetadata: 2n ** 64n - 1n }),
    "more tensors than it has": (gguf) => Object.assign(gguf, { numTensors: BigInt(gguf.tensors.length + 1) }),
    "version 1": (gguf) => Object.assign(gguf, { version: 1 }),
    "version 99": (gguf) => Object.assign(gguf, { version: 99 }),
    "big-endian numbers": (gguf) => Object.assign(gguf, { version: 0x03000000 }),
    "a repeated metadata key": (gguf) => gguf.metadata.push(gguf.metadata[0]!),
    "a repeated tensor": (gguf) => gguf.tensors.push(gguf.tensors[0]!),
    "another architecture": (gguf) => setMetadata(gguf, "general.architecture", text("mamba")),
    "a number for the architecture": (gguf) => setMetadata(gguf, "general.architecture", u32(1)),
    "an alignment of zero": (gguf) => setMetadata(gguf, "general.alignment", u32(0)),
    "an alignment that is no power of two": (gguf) => setMetadata(gguf, "general.alignment", u32(33)),
    "a text for the alignment": (gguf) => setMetadata(gguf, "general.alignment", text("32")),
    "zero heads": (gguf) => setMetadata(gguf, "llama.attention.head_count", u32(0)),
    "a text for a number": (gguf) => setMetadata(gguf, "llama.block_count", text("2")),
    "four billion layers": (gguf) => setMetadata(gguf, "llama.block_count", u32(2 ** 32 - 1)),
    experts: (gguf) => setMetadata(gguf, "llama.expert_count", u32(8)),
    "a NaN base": (gguf) => setMetadata(gguf, "llama.rope.freq_base", f32(Number.NaN)),
    "linear RoPE scaling": (gguf) => {
      setMetadata(gguf, "llama.rope.scaling.type", text("linear"));
      setMetadata(gguf, "llama.rope.scaling.factor", f32(2));
    },
    "a RoPE width that is not the head's": (gguf) => setMetadata(gguf, "llama.rope.dimension_count", u32(32)),
    "an unknown pre-tokenizer": (gguf) => setMetadata(gguf, "tokenizer.ggml.pre", text("constructor")),
    "an unknown tokenizer": (gguf) => setMetadata(gguf, "tokenizer.ggml.model", text("bert")),
    "no tokens": (gguf) => setMetadata(gguf, "tokenizer.ggml.tokens", texts([])),
    "fewer token types than tokens": (gguf) => setMetadata(gguf, "tokenizer.ggml.token_type", i32s([1, 2])),
    "more tokens than the embedding has": (gguf) => {
      setMetadata(gguf, "tokenizer.ggml.tokens", texts(Array.from({ length: 500 }, (_, id) => `t${id}`)));
      setMetadata(gguf, "tokenizer.ggml.token_type", i32s(Array(500).fill(1)));
    },
    "a merge of one": (gguf) => setMetadata(gguf, "tokenizer.ggml.merges", texts(["ab"])),
    "booleans for merges": (gguf) => setMetadata(gguf, "tokenizer.ggml.merges", bool(true)),
    "a missing tensor": (gguf) => gguf.tensors.pop(),
    "an unknown type": (gguf) => Object.assign(gguf.tensors[0]!, { type: 4 }),
    "a type from the prototype": (gguf) => Object.assign(gguf.tensors[0]!, { type: 2 ** 31 }),
    "rows that are no whole number of blocks": (gguf) => Object.assign(gguf.tensors[1]!, { dims: [33, 1], type: 8 }),
    "a zero dimension": (gguf) => Object.assign(gguf.tensors[0]!, { dims: [128, 0] }),
    "dimensions that overflow": (gguf) => Object.assign(gguf.tensors[0]!, { dims: [2 ** 32, 2 ** 32] }),
    "dimensions whose bytes wrap to little": (gguf) => Object.assign(gguf.tensors[0]!, { dims: [2n ** 62n, 1n] }),
    "five dimensions": (gguf) => Object.assign(gguf.tensors[0]!, { dims: [128, 268, 1, 1, 1] }),
    "an offset beyond the file": (gguf) => Object.assign(gguf.tensors[0]!, { offset: 2n ** 40n }),
    "an offset that wraps": (gguf) => Object.assign(gguf.tensors[0]!, { offset: 2n ** 64n - 32n }),
    "an offset off the alignment": (gguf) => Object.assign(gguf.tensors[0]!, { offset: 16 }),
    "tensors that overlap": (gguf) => Object.assign(gguf.tensors[1]!, { offset: 0 }),
    "a transposed tensor": (gguf) => gguf.tensors[0]!.dims.reverse(),
    "a bias": (gguf) =>
      gguf.tensors.push({ name: "blk.0.attn_q.bias", dims: [1], type: 0, offset: gguf.data.length }) &&
      Object.assign(gguf, { data: Buffer.concat([gguf.data, Buffer.alloc(32)]) }),
  };
  for (const [name, lie] of Object.entries(lies)) {
    it(`with ${name}`, async () => {
      const gguf = tinyGguf();
      lie(gguf);
      await expectGgufRefused(ggufFile(gguf));
    });
  }

  /** Header with one metadata entry, written by hand. */
  const oneEntry = (...parts: Buffer[]) => {
    const count = Buffer.alloc(16);
    count.writeBigUInt64LE(1n, 8);
    return Buffer.concat([Buffer.from("GGUF"), Buffer.from([3, 0, 0, 0]), count, ...parts]);
  };
  const length = (value: bigint) => {
    const buffer = Buffer.alloc(8);
    buffer.writeBigUInt64LE(value);
    return buffer;
  };
  const type = (value: number) => Buffer.from(Uint32Array.of(value).buffer);
  const key = Buffer.concat([length(1n), Buffer.from("k")]);
  const padding = Buffer.alloc(64);
  const raw: Record<string, Buffer> = {
    "a key of 2^62 bytes": oneEntry(length(2n ** 62n), padding),
    "a text of 2^62 bytes": oneEntry(key, type(8), length(2n ** 62n), padding),
    "an array of 2^62 elements": oneEntry(key, type(9), type(8), length(2n ** 62n), padding),
    "an array of unknown type": oneEntry(key, type(9), type(77), length(2n), padding),
    "a value of unknown type": oneEntry(key, type(13), padding),
    "arrays in arrays in arrays": oneEntry(
      key,
      ...Array.from({ length: 30 }, () => Buffer.concat([type(9), type(9), length(1n)])),
      padding,
    ),
  };
  for (const [name, bytes] of Object.entries(raw)) it(`with ${name}`, async () => expectGgufRefused(bytes));
});
