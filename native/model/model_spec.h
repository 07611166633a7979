// What the JavaScript side hands over: a config that it parsed and checked, and a table of tensors with their places in
// files. The native side checks every range and shape again before it allocates anything.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "model/dtype.h"

namespace deftree {

struct TensorEntry {
  std::string name;  // Hugging Face's name: "model.layers.0.self_attn.q_proj.weight" (GGUF names are mapped to it)
  int32_t file;      // index into ModelSpec::files
  uint64_t offset, bytes;
  DType dtype;
  std::vector<int64_t> shape;  // row-major, [out_features, in_features]
};

// RoPE scaling of Llama 3.1 and later ("rope_type": "llama3").
struct Llama3RopeScaling {
  double factor, low_freq_factor, high_freq_factor;
  int32_t original_context_len;
};

struct LlamaConfig {
  int32_t num_layers, hidden_size, intermediate_size, num_qo_heads, num_kv_heads, head_dim, vocab_size, context_len;
  double rope_theta, rms_norm_eps;
  bool tie_word_embeddings;
  // GGUF stores the rows of q and k permuted for its interleaved rotation; such rows are put back at load.
  bool qk_permuted = false;
  std::optional<Llama3RopeScaling> rope_scaling;
};

struct ModelSpec {
  LlamaConfig config;
  std::vector<std::string> files;
  std::vector<TensorEntry> tensors;
  std::string weights = "auto";  // "auto" | "f32" | "bf16" | "int8"
  // Instead of files and tensors, which must then be empty: bf16 weights made from this seed, the same on every device
  // (model/random_weights.h). For measurements, whose times do not depend on the weights' values.
  std::optional<uint64_t> random_seed = std::nullopt;
};

}  // namespace deftree
