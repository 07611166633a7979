/** A GGUF file of the `llama` architecture -> ModelFiles. */
import path from "node:path";
import { badModel } from "./bad-model.js";
import { readRange } from "./file-reader.js";
import { type GgufHeader, type GgufTensor, type GgufValue, readGgufHeader } from "./gguf.js";
import { ggufTokenizerSource } from "./gguf-tokenizer.js";
import { checkLlamaConfig } from "./llama-config.js";
import type { ModelFiles } from "./model-files.js";
import type { NativeLlamaConfig, NativeTensor } from "./native-addon.js";
import { selectTensors } from "./tensor-table.js";

const globalNames: ReadonlyMap<string, string> = new Map([
  ["token_embd", "model.embed_tokens"],
  ["output_norm", "model.norm"],
  ["output", "lm_head"],
]);

const layerNames: ReadonlyMap<string, string> = new Map([
  ["attn_norm", "input_layernorm"],
  ["attn_q", "self_attn.q_proj"],
  ["attn_k", "self_attn.k_proj"],
  ["attn_v", "self_attn.v_proj"],
  ["attn_output", "self_attn.o_proj"],
  ["ffn_norm", "post_attention_layernorm"],
  ["ffn_gate", "mlp.gate_proj"],
  ["ffn_up", "mlp.up_proj"],
  ["ffn_down", "mlp.down_proj"],
]);

/** @throws E_MODEL_NOT_FOUND, E_BAD_MODEL */
export async function readGgufModel(file: string): Promise<ModelFiles> {
  const header = await readGgufHeader(file);
  const config = await parseConfig(header);
  const available = header.tensors.map(
    (tensor): NativeTensor => ({ ...tensor, name: hfTensorName(tensor.name), file: 0 }),
  );
  const template = header.metadata.get("tokenizer.chat_template");
  return {
    path: path.resolve(file),
    name: path.basename(file, ".gguf"),
    config,
    files: [file],
    tensors: selectTensors(config, available, file),
    tokenizer: ggufTokenizerSource(header),
    chatTemplate: typeof template === "string" ? template : undefined,
  };
}

/** `blk.3.attn_q.weight` -> `model.layers.3.self_attn.q_proj.weight`; unknown names stay. */
export function hfTensorName(name: string): string {
  const [, layer, part = "", kind] = /^(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)$/.exec(name) ?? [];
  if (layer !== undefined)
    return layerNames.has(part) ? `model.layers.${Number(layer)}.${layerNames.get(part)}.${kind}` : name;
  return globalNames.has(part) ? `${globalNames.get(part)}.${kind}` : name;
}

async function parseConfig(header: GgufHeader): Promise<NativeLlamaConfig> {
  const { file, metadata } = header;
  const architecture = metadata.get("general.architecture");
  if (architecture !== "llama") {
    throw badModel(file, `is for the architecture ${JSON.stringify(architecture)?.slice(0, 60)}; supported is "llama"`);
  }
  const number = (key: string, fallback?: number): number => {
    const value = metadata.get(`llama.${key}`) ?? fallback;
    if (typeof value === "bigint") return Number(value);
    if (typeof value !== "number") throw badModel(file, `has no number llama.${key} in its metadata`);
    return value;
  };
  if (number("expert_count", 0) > 0) throw badModel(file, "is a mixture of experts; dense Llama models are supported");
  const hiddenSize = number("embedding_length");
  const numQoHeads = number("attention.head_count");
  const headDim = number("attention.key_length", hiddenSize / numQoHeads);
  for (const key of ["attention.value_length", "rope.dimension_count"]) {
    if (number(key, headDim) !== headDim)
      throw badModel(file, `has llama.${key} ${number(key)}; supported is head_dim, ${headDim}`);
  }
  const embedding = header.tensors.find(({ name }) => name === "token_embd.weight");
  if (!embedding) throw badModel(file, "lacks the tensor token_embd.weight");
  return checkLlamaConfig(
    {
      numLayers: number("block_count"),
      hiddenSize,
      intermediateSize: number("feed_forward_length"),
      numQoHeads,
      numKvHeads: number("attention.head_count_kv", numQoHeads),
      headDim,
      vocabSize: embedding.shape[0] ?? 0,
      contextLen: number("context_length"),
      ropeTheta: number("rope.freq_base", 10_000),
      rmsNormEps: number("attention.layer_norm_rms_epsilon", 1e-5),
      tieWordEmbeddings: !header.tensors.some(({ name }) => name === "output.weight"),
      qkPermuted: true,
      ropeScaling: await parseRopeScaling(header, headDim, number("rope.freq_base", 10_000)),
    },
    file,
  );
}

type RopeScaling = NonNullable<NativeLlamaConfig["ropeScaling"]>;

/**
 * GGUF keeps Llama 3.1's scaling not as its parameters but as a tensor of divisors, `rope_freqs.weight`: [head_dim / 2].
 * All published models use the same low and high frequency factors and original length, so the one unknown is the factor,
 * the largest divisor; the rest of the tensor then has to agree.
 */
async function parseRopeScaling(
  header: GgufHeader,
  headDim: number,
  ropeTheta: number,
): Promise<RopeScaling | undefined> {
  const { file, metadata } = header;
  const type: GgufValue = metadata.get("llama.rope.scaling.type") ?? "none";
  const linearFactor = metadata.get("llama.rope.scaling.factor") ?? metadata.get("llama.rope.scale_linear") ?? 1;
  if (type !== "none" && linearFactor !== 1) {
    throw badModel(
      file,
      `has RoPE scaling ${JSON.stringify(String(type)).slice(0, 40)}; supported are none and llama3`,
    );
  }
  const tensor = header.tensors.find(({ name }) => name === "rope_freqs.weight");
  if (!tensor) return undefined;
  const divisors = await readFloats(file, tensor, headDim / 2);
  const scaling: RopeScaling = {
    factor: Math.max(...divisors),
    lowFreqFactor: 1,
    highFreqFactor: 4,
    originalContextLen: 8192,
  };
  if (divisors.every((divisor) => divisor === 1)) return undefined;
  const agrees = divisors.every((divisor, index) => {
    const expected = ropeDivisor(scaling, ropeTheta ** ((-2 * index) / headDim));
    return Math.abs(divisor - expected) <= 1e-3 * expected;
  });
  if (!agrees)
    throw badModel(file, "has rope_freqs.weight of an unknown RoPE scaling; supported is that of Llama 3.1 to 3.3");
  return scaling;
}

/** What Llama 3.1's scaling divides a rotary frequency (radians per token) by. */
export function ropeDivisor(scaling: RopeScaling, frequency: number): number {
  const turns = (scaling.originalContextLen * frequency) / (2 * Math.PI);
  if (turns < scaling.lowFreqFactor) return scaling.factor;
  if (turns > scaling.highFreqFactor) return 1;
  const smooth = (turns - scaling.lowFreqFactor) / (scaling.highFreqFactor - scaling.lowFreqFactor);
  return 1 / ((1 - smooth) / scaling.factor + smooth);
}

async function readFloats(file: string, tensor: GgufTensor, length: number): Promise<number[]> {
  if (tensor.dtype !== "F32" || tensor.shape.length !== 1 || tensor.shape[0] !== length) {
    throw badModel(
      file,
      `has rope_freqs.weight as ${tensor.dtype} [${tensor.shape.join(", ")}]; expected F32 [${length}]`,
    );
  }
  const bytes = await readRange(file, tensor.offset, tensor.bytes);
  return Array.from({ length }, (_, index) => bytes.readFloatLE(index * 4));
}
