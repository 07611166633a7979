/** config.json of a Hugging Face folder -> the engine's config. */
import { badModel } from "./bad-model.js";
import { checkLlamaConfig } from "./llama-config.js";
import type { NativeLlamaConfig } from "./native-addon.js";
import { isJsonObject, type JsonObject, type JsonValue } from "./strict-json.js";

/** @throws E_BAD_MODEL for another architecture, an unsupported variant, or numbers out of range. */
export function parseHfConfig(config: JsonObject, file: string): NativeLlamaConfig {
  requireLlama(config, file);
  const number = (key: string, fallback?: number): number => {
    const value = config[key] ?? fallback;
    if (typeof value !== "number") throw badModel(file, `has no number "${key}"`);
    return value;
  };
  const numQoHeads = number("num_attention_heads");
  const hiddenSize = number("hidden_size");
  const rope = ropeParameters(config);
  return checkLlamaConfig(
    {
      numLayers: number("num_hidden_layers"),
      hiddenSize,
      intermediateSize: number("intermediate_size"),
      numQoHeads,
      numKvHeads: number("num_key_value_heads", numQoHeads),
      headDim: number("head_dim", hiddenSize / numQoHeads),
      vocabSize: number("vocab_size"),
      contextLen: number("max_position_embeddings", 2048),
      ropeTheta: typeof rope.rope_theta === "number" ? rope.rope_theta : number("rope_theta", 10_000),
      rmsNormEps: number("rms_norm_eps", 1e-6),
      tieWordEmbeddings: config.tie_word_embeddings === true,
      qkPermuted: false,
      ropeScaling: parseRopeScaling(rope, file),
    },
    file,
  );
}

function requireLlama(config: JsonObject, file: string): void {
  const architectures = Array.isArray(config.architectures) ? config.architectures : [];
  const architecture = architectures[0] ?? config.model_type;
  const plainMistral = architecture === "MistralForCausalLM" && config.sliding_window == null;
  if (architecture !== "LlamaForCausalLM" && architecture !== "llama" && !plainMistral) {
    throw badModel(
      file,
      `is for the architecture ${describe(architecture)}; supported are LlamaForCausalLM (Llama 2, 3, 3.1, 3.2, SmolLM2, TinyLlama) ` +
        "and MistralForCausalLM without sliding window",
    );
  }
  const required: [key: string, supported: JsonValue][] = [
    ["hidden_act", "silu"],
    ["attention_bias", false],
    ["mlp_bias", false],
  ];
  for (const [key, supported] of required) {
    const value = config[key];
    if (value != null && value !== supported) {
      throw badModel(file, `has ${key} = ${describe(value)}; supported is ${describe(supported)}`);
    }
  }
  if (config.quantization_config != null) {
    throw badModel(file, "describes quantised weights; supported are F32, F16 and BF16 safetensors, or a GGUF file");
  }
}

/** transformers 5 writes `rope_parameters` with the base inside; before, `rope_scaling` stood beside `rope_theta`. */
function ropeParameters(config: JsonObject): JsonObject {
  if (isJsonObject(config.rope_parameters)) return config.rope_parameters;
  return isJsonObject(config.rope_scaling) ? config.rope_scaling : {};
}

function parseRopeScaling(rope: JsonObject, file: string): NativeLlamaConfig["ropeScaling"] {
  const type = rope.rope_type ?? rope.type ?? "default";
  if (rope.partial_rotary_factor != null && rope.partial_rotary_factor !== 1) {
    throw badModel(file, `rotates ${describe(rope.partial_rotary_factor)} of each head; supported is 1`);
  }
  if (type === "default") return undefined;
  if (type !== "llama3")
    throw badModel(file, `has RoPE scaling ${describe(type)}; supported are "default" and "llama3"`);
  const number = (key: string): number => {
    const value = rope[key];
    if (typeof value !== "number") throw badModel(file, `has llama3 RoPE scaling without a number "${key}"`);
    return value;
  };
  return {
    factor: number("factor"),
    lowFreqFactor: number("low_freq_factor"),
    highFreqFactor: number("high_freq_factor"),
    originalContextLen: number("original_max_position_embeddings"),
  };
}

function describe(value: JsonValue | undefined): string {
  return (JSON.stringify(value) ?? "missing").slice(0, 60);
}
