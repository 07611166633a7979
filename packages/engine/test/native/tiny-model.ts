/** A random Llama of two layers in one raw file of floats: real steps in milliseconds, for tests of the addon's life. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { NativeLlamaConfig, NativeLoadSpec, NativeTensor } from "../../src/native-addon.js";

const tinyConfig: NativeLlamaConfig = {
  numLayers: 2,
  hiddenSize: 64,
  intermediateSize: 128,
  numQoHeads: 2,
  numKvHeads: 1,
  headDim: 64,
  vocabSize: 300,
  contextLen: 4096,
  ropeTheta: 10000,
  rmsNormEps: 1e-5,
  tieWordEmbeddings: true,
  qkPermuted: false,
};

export interface TinyModel {
  spec: NativeLoadSpec;
  /** Deletes the file. */
  remove(): void;
}

/** @param overrides fields of the load spec; `layers` makes steps longer. */
export function tinyModel(overrides: Partial<NativeLoadSpec> = {}, layers = tinyConfig.numLayers): TinyModel {
  const config = { ...tinyConfig, numLayers: layers };
  const { hiddenSize, intermediateSize, numQoHeads, numKvHeads, headDim, vocabSize } = config;
  const tensors: NativeTensor[] = [];
  let offset = 0;
  const add = (name: string, ...shape: number[]) => {
    const bytes = 4 * shape.reduce((product, size) => product * size, 1);
    tensors.push({ name, file: 0, offset, bytes, dtype: "F32", shape });
    offset += bytes;
  };
  add("model.embed_tokens.weight", vocabSize, hiddenSize);
  for (let layer = 0; layer < layers; layer++) {
    const prefix = `model.layers.${layer}`;
    add(`${prefix}.input_layernorm.weight`, hiddenSize);
    add(`${prefix}.self_attn.q_proj.weight`, numQoHeads * headDim, hiddenSize);
    add(`${prefix}.self_attn.k_proj.weight`, numKvHeads * headDim, hiddenSize);
    add(`${prefix}.self_attn.v_proj.weight`, numKvHeads * headDim, hiddenSize);
    add(`${prefix}.self_attn.o_proj.weight`, hiddenSize, numQoHeads * headDim);
    add(`${prefix}.post_attention_layernorm.weight`, hiddenSize);
    add(`${prefix}.mlp.gate_proj.weight`, intermediateSize, hiddenSize);
    add(`${prefix}.mlp.up_proj.weight`, intermediateSize, hiddenSize);
    add(`${prefix}.mlp.down_proj.weight`, hiddenSize, intermediateSize);
  }
  add("model.norm.weight", hiddenSize);

  const directory = mkdtempSync(join(tmpdir(), "deftree-tiny-"));
  const file = join(directory, "weights.bin");
  const random = lcg(7);
  writeFileSync(
    file,
    Float32Array.from({ length: offset / 4 }, () => 0.4 * (random() - 0.5)),
  );

  // Token i is the byte i modulo 256.
  const tokenBytes = Uint8Array.from({ length: vocabSize }, (_, token) => token % 256);
  const spec: NativeLoadSpec = {
    config,
    files: [file],
    tensors,
    device: "cpu",
    deviceIndex: 0,
    weights: "f32",
    kvType: "f32",
    numPages: 512,
    pageSize: 16,
    numThreads: 1,
    attention: "deft-flatten",
    speculation: { mode: "off", maxDraftTokens: 32, sources: ["suffix", "recycling"] },
    maxStepTokens: 64,
    profile: false,
    tokenBytes,
    tokenByteOffsets: Uint32Array.from({ length: vocabSize + 1 }, (_, token) => token),
    ...overrides,
  };
  return { spec, remove: () => rmSync(directory, { recursive: true, force: true }) };
}

/** Uniform in [0, 1), the same on every machine. */
function lcg(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}
