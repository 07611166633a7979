/** The tensors a Llama model consists of, and the check of a file's tensors against them. */
import { badModel } from "./bad-model.js";
import type { NativeLlamaConfig, NativeTensor } from "./native-addon.js";

/** Name -> row-major shape, in the order of the forward pass. Matrices are `[out_features, in_features]`. */
export function expectedTensors(config: NativeLlamaConfig): Map<string, number[]> {
  const { hiddenSize: hidden, intermediateSize: inner, headDim, vocabSize } = config;
  const queryRows = config.numQoHeads * headDim;
  const kvRows = config.numKvHeads * headDim;
  const shapes = new Map<string, number[]>([["model.embed_tokens.weight", [vocabSize, hidden]]]);
  for (let layer = 0; layer < config.numLayers; layer++) {
    const prefix = `model.layers.${layer}.`;
    shapes.set(`${prefix}input_layernorm.weight`, [hidden]);
    shapes.set(`${prefix}self_attn.q_proj.weight`, [queryRows, hidden]);
    shapes.set(`${prefix}self_attn.k_proj.weight`, [kvRows, hidden]);
    shapes.set(`${prefix}self_attn.v_proj.weight`, [kvRows, hidden]);
    shapes.set(`${prefix}self_attn.o_proj.weight`, [hidden, queryRows]);
    shapes.set(`${prefix}post_attention_layernorm.weight`, [hidden]);
    shapes.set(`${prefix}mlp.gate_proj.weight`, [inner, hidden]);
    shapes.set(`${prefix}mlp.up_proj.weight`, [inner, hidden]);
    shapes.set(`${prefix}mlp.down_proj.weight`, [hidden, inner]);
  }
  shapes.set("model.norm.weight", [hidden]);
  if (!config.tieWordEmbeddings) shapes.set("lm_head.weight", [vocabSize, hidden]);
  return shapes;
}

/** Of all elements of the weights, those that every step reads: of an embedding table of its own it reads some rows only. */
export function shareReadEachStep(config: NativeLlamaConfig): number {
  if (config.tieWordEmbeddings) return 1;
  const numElements = (shape: readonly number[]) => shape.reduce((product, size) => product * size, 1);
  const shapes = expectedTensors(config);
  const all = [...shapes.values()].reduce((sum, shape) => sum + numElements(shape), 0);
  return 1 - numElements(shapes.get("model.embed_tokens.weight")!) / all;
}

/**
 * Picks the model's tensors out of a file's. Others are left out, but a bias is refused: ignoring it would change results.
 * @throws E_BAD_MODEL that names the tensor, what the config implies and what the file has.
 */
export function selectTensors(
  config: NativeLlamaConfig,
  available: readonly NativeTensor[],
  file: string,
): NativeTensor[] {
  const byName = new Map(available.map((tensor) => [tensor.name, tensor]));
  const bias = available.find((tensor) => tensor.name.startsWith("model.layers.") && tensor.name.endsWith(".bias"));
  if (bias) throw badModel(file, `has the bias ${bias.name}; Llama models without biases are supported`);
  return [...expectedTensors(config)].map(([name, shape]) => {
    const tensor = byName.get(name);
    if (!tensor) throw badModel(file, `lacks the tensor ${name} [${shape.join(", ")}]`);
    if (tensor.shape.length !== shape.length || tensor.shape.some((size, dim) => size !== shape[dim])) {
      throw badModel(file, `has ${name} [${tensor.shape.join(", ")}] where its config implies [${shape.join(", ")}]`);
    }
    return tensor;
  });
}
