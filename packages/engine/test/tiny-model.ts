/** Writes a small random Llama model in Hugging Face's format, so that tests need no download. */
import { mkdirSync, writeFileSync } from "node:fs";
import path from "node:path";
import type { NativeLlamaConfig } from "../src/native-addon.js";
import { expectedTensors } from "../src/tensor-table.js";
import { tinyTokenizer, tinyTokenizerConfig, tinyVocabSize } from "./tiny-tokenizer.js";

export interface TinyModelOptions {
  dtype?: "F32" | "BF16" | "F16";
  tied?: boolean;
  seed?: number;
  numShards?: number;
  /** Into config.json, over the defaults. */
  config?: Record<string, unknown>;
}

export const tinyConfig: NativeLlamaConfig = {
  numLayers: 2,
  hiddenSize: 128,
  intermediateSize: 256,
  numQoHeads: 4,
  numKvHeads: 2,
  headDim: 64,
  vocabSize: tinyVocabSize,
  contextLen: 512,
  ropeTheta: 10_000,
  rmsNormEps: 1e-5,
  tieWordEmbeddings: true,
  qkPermuted: false,
};

/** @returns the folder, which it creates. */
export function writeTinyModel(folder: string, options: TinyModelOptions = {}): string {
  const { dtype = "F32", tied = true, seed = 1, numShards = 1 } = options;
  const config = { ...tinyConfig, tieWordEmbeddings: tied };
  mkdirSync(folder, { recursive: true });
  const json = (name: string, value: unknown) => writeFileSync(path.join(folder, name), JSON.stringify(value));
  json("config.json", { ...hfConfig(config), ...options.config });
  json("generation_config.json", { eos_token_id: [2] });
  json("tokenizer.json", tinyTokenizer());
  json("tokenizer_config.json", tinyTokenizerConfig());

  const random = randomNormal(seed);
  const tensors = [...expectedTensors(config)].map(([name, shape]) => ({
    name,
    dtype,
    shape,
    data: randomTensor(name, shape, dtype, random),
  }));
  if (numShards === 1) {
    writeFileSync(path.join(folder, "model.safetensors"), safetensorsFile(tensors));
    return folder;
  }
  const weightMap: Record<string, string> = {};
  for (let shard = 0; shard < numShards; shard++) {
    const name = `model-${shard + 1}-of-${numShards}.safetensors`;
    const own = tensors.filter((_, index) => index % numShards === shard);
    for (const tensor of own) weightMap[tensor.name] = name;
    writeFileSync(path.join(folder, name), safetensorsFile(own));
  }
  json("model.safetensors.index.json", { metadata: {}, weight_map: weightMap });
  return folder;
}

export function hfConfig(config: NativeLlamaConfig): Record<string, unknown> {
  return {
    architectures: ["LlamaForCausalLM"],
    model_type: "llama",
    hidden_act: "silu",
    num_hidden_layers: config.numLayers,
    hidden_size: config.hiddenSize,
    intermediate_size: config.intermediateSize,
    num_attention_heads: config.numQoHeads,
    num_key_value_heads: config.numKvHeads,
    head_dim: config.headDim,
    vocab_size: config.vocabSize,
    max_position_embeddings: config.contextLen,
    rope_theta: config.ropeTheta,
    rms_norm_eps: config.rmsNormEps,
    tie_word_embeddings: config.tieWordEmbeddings,
    eos_token_id: 2,
  };
}

interface TensorToWrite {
  name: string;
  dtype: string;
  shape: number[];
  data: Uint8Array;
}

export function safetensorsFile(tensors: readonly TensorToWrite[]): Buffer {
  let end = 0;
  const header = Object.fromEntries(
    tensors.map(({ name, dtype, shape, data }) => {
      const begin = end;
      end += data.length;
      return [name, { dtype, shape, data_offsets: [begin, end] }];
    }),
  );
  return safetensorsWithHeader(JSON.stringify(header), Buffer.concat(tensors.map(({ data }) => data)));
}

export function safetensorsWithHeader(header: string, data: Uint8Array): Buffer {
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(Buffer.byteLength(header)));
  return Buffer.concat([length, Buffer.from(header), data]);
}

function randomTensor(name: string, shape: readonly number[], dtype: string, random: () => number): Uint8Array {
  const count = shape.reduce((product, size) => product * size, 1);
  const isNorm = shape.length === 1;
  // Small embeddings: with large ones a tied model would repeat its last token.
  const scale = /embed_tokens|lm_head/.test(name) ? 0.2 : 1 / Math.sqrt(shape.at(-1)!);
  const values = Float32Array.from({ length: count }, () => (isNorm ? 1 + 0.1 * random() : scale * random()));
  if (dtype === "F32") return new Uint8Array(values.buffer);
  const halves = new Uint16Array(count);
  const bits = new Uint32Array(values.buffer);
  for (let index = 0; index < count; index++)
    halves[index] = dtype === "BF16" ? bits[index]! >>> 16 : toHalf(bits[index]!);
  return new Uint8Array(halves.buffer);
}

/** Bits of a float32 -> bits of a float16, cut off, subnormals to zero. */
function toHalf(bits: number): number {
  const exponent = ((bits >>> 23) & 0xff) - 112;
  if (exponent <= 0) return 0;
  return ((bits >>> 16) & 0x8000) | (exponent << 10) | ((bits >>> 13) & 0x3ff);
}

/** Normal numbers (Box and Muller) from a small linear generator: the same on every machine. */
function randomNormal(seed: number): () => number {
  let state = (seed * 2654435761 + 1) >>> 0;
  const uniform = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state + 0.5) / 2 ** 32;
  };
  return () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
}
