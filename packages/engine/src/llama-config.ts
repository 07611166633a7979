/** Checks that hold for a Llama config of any format, before anything is allocated from it. */
import { badModel } from "./bad-model.js";
import type { NativeLlamaConfig } from "./native-addon.js";

const limits = {
  numLayers: 1024,
  hiddenSize: 1 << 17,
  intermediateSize: 1 << 19,
  numQoHeads: 1024,
  numKvHeads: 1024,
  headDim: 512,
  vocabSize: 1 << 21,
  contextLen: 1 << 24,
} as const;

/** @throws E_BAD_MODEL that names the field and its value. */
export function checkLlamaConfig(config: NativeLlamaConfig, file: string): NativeLlamaConfig {
  for (const [field, limit] of Object.entries(limits) as [keyof typeof limits, number][]) {
    const value = config[field];
    if (!Number.isInteger(value) || value < 1 || value > limit) {
      throw badModel(file, `gives ${field} = ${value}; expected an integer from 1 to ${limit}`);
    }
  }
  if (config.numQoHeads % config.numKvHeads !== 0) {
    throw badModel(file, `has ${config.numQoHeads} query heads, no multiple of its ${config.numKvHeads} KV heads`);
  }
  if (config.headDim % 2 !== 0)
    throw badModel(file, `has head_dim ${config.headDim}; rotary embedding needs an even one`);
  requirePositive(config.ropeTheta, "rope_theta", file);
  requirePositive(config.rmsNormEps, "rms_norm_eps", file);
  const scaling = config.ropeScaling;
  if (scaling) {
    requirePositive(scaling.factor, "rope scaling factor", file);
    requirePositive(scaling.lowFreqFactor, "low_freq_factor", file);
    requirePositive(scaling.highFreqFactor, "high_freq_factor", file);
    requirePositive(scaling.originalContextLen, "original_max_position_embeddings", file);
    if (scaling.highFreqFactor <= scaling.lowFreqFactor) {
      throw badModel(
        file,
        `has high_freq_factor ${scaling.highFreqFactor}, not above low_freq_factor ${scaling.lowFreqFactor}`,
      );
    }
  }
  return config;
}

function requirePositive(value: number, what: string, file: string): void {
  if (!Number.isFinite(value) || value <= 0)
    throw badModel(file, `gives ${what} = ${value}; expected a positive number`);
}
