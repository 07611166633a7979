/** A small GGUF model whose tensors are zeros: for reading tests. */
import { expectedTensors } from "../src/tensor-table.js";
import { bool, f32, type GgufToWrite, i32s, text, texts, u32 } from "./gguf-writer.js";
import { tinyConfig } from "./tiny-model.js";
import { tinyChatTemplate, tinyTokenizer } from "./tiny-tokenizer.js";

const ggufNames: [hf: RegExp, gguf: string][] = [
  [/^model\.embed_tokens\./, "token_embd."],
  [/^model\.norm\./, "output_norm."],
  [/^lm_head\./, "output."],
  [/^model\.layers\.(\d+)\.input_layernorm\./, "blk.$1.attn_norm."],
  [/^model\.layers\.(\d+)\.self_attn\.([qkv])_proj\./, "blk.$1.attn_$2."],
  [/^model\.layers\.(\d+)\.self_attn\.o_proj\./, "blk.$1.attn_output."],
  [/^model\.layers\.(\d+)\.post_attention_layernorm\./, "blk.$1.ffn_norm."],
  [/^model\.layers\.(\d+)\.mlp\.(gate|up|down)_proj\./, "blk.$1.ffn_$2."],
];

/** The parts of a valid file, F32; a test may change them before it writes. */
export function tinyGguf(): GgufToWrite {
  const tokenizer = tinyTokenizer() as { model: { vocab: Record<string, number>; merges: string[] } };
  const byId = Object.entries(tokenizer.model.vocab).sort(([, a], [, b]) => a - b);
  const tokens = byId.map(([token]) => token);
  while (tokens.length < tinyConfig.vocabSize) tokens.push(`[unused${tokens.length}]`);
  let offset = 0;
  const tensors = [...expectedTensors(tinyConfig)].map(([name, shape]) => {
    const [pattern, replacement] = ggufNames.find(([pattern]) => pattern.test(name))!;
    const tensor = { name: name.replace(pattern, replacement), dims: [...shape].reverse(), type: 0, offset };
    offset += 4 * shape.reduce((product, size) => product * size, 1);
    return tensor;
  });
  return {
    metadata: [
      ["general.architecture", text("llama")],
      ["llama.block_count", u32(tinyConfig.numLayers)],
      ["llama.context_length", u32(tinyConfig.contextLen)],
      ["llama.embedding_length", u32(tinyConfig.hiddenSize)],
      ["llama.feed_forward_length", u32(tinyConfig.intermediateSize)],
      ["llama.attention.head_count", u32(tinyConfig.numQoHeads)],
      ["llama.attention.head_count_kv", u32(tinyConfig.numKvHeads)],
      ["llama.attention.key_length", u32(tinyConfig.headDim)],
      ["llama.attention.value_length", u32(tinyConfig.headDim)],
      ["llama.rope.freq_base", f32(tinyConfig.ropeTheta)],
      ["llama.attention.layer_norm_rms_epsilon", f32(tinyConfig.rmsNormEps)],
      ["tokenizer.ggml.model", text("gpt2")],
      ["tokenizer.ggml.pre", text("gpt-2")],
      ["tokenizer.ggml.tokens", texts(tokens)],
      ["tokenizer.ggml.token_type", i32s(tokens.map((_, id) => (id < 3 ? 3 : 1)))],
      ["tokenizer.ggml.merges", texts(tokenizer.model.merges)],
      ["tokenizer.ggml.eos_token_id", u32(2)],
      ["tokenizer.ggml.add_bos_token", bool(false)],
      ["tokenizer.chat_template", text(tinyChatTemplate)],
    ],
    tensors,
    data: new Uint8Array(offset),
  };
}

/** Replaces or adds a metadata entry. */
export function setMetadata(gguf: GgufToWrite, key: string, value: GgufToWrite["metadata"][number][1]): void {
  const entry = gguf.metadata.find(([name]) => name === key);
  if (entry) entry[1] = value;
  else gguf.metadata.push([key, value]);
}
