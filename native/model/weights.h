// From a table of tensors in files to the packed weights of a Llama model.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <vector>

#include "common/thread_pool.h"
#include "model/linear.h"
#include "model/model_spec.h"

namespace deftree {

struct LlamaLayerWeights {
  std::vector<float> attention_norm;  // [hidden_size]
  LinearWeight qkv;                   // [(num_qo_heads + 2 * num_kv_heads) * head_dim, hidden_size]: q, k, v rows
  LinearWeight attention_out;         // [hidden_size, num_qo_heads * head_dim]
  std::vector<float> mlp_norm;        // [hidden_size]
  LinearWeight gate_up;               // [2 * intermediate_size, hidden_size]: gate rows, then up rows
  LinearWeight down;                  // [hidden_size, intermediate_size]
};

struct LlamaWeights {
  LlamaConfig config;
  std::vector<double> rope_inverse_frequencies;  // [head_dim / 2]
  LinearWeight embedding;                        // [vocab_size, hidden_size], read by row
  std::vector<LlamaLayerWeights> layers;         // [num_layers]
  std::vector<float> final_norm;                 // [hidden_size]
  std::optional<LinearWeight> untied_lm_head;    // [vocab_size, hidden_size]

  const LinearWeight& lm_head() const { return untied_lm_head ? *untied_lm_head : embedding; }
  uint64_t bytes() const;
};

// Throws kBadModel when a number is out of the range that this engine supports, or two contradict each other.
void check_config(const LlamaConfig& config);

// Checks the config, then that each tensor it implies is in the table once, of the implied shape, with the bytes that
// shape and dtype make, inside its file; only then packs. Throws kBadModel (naming the tensor, what was expected and
// what is there), kOutOfMemory, or kAborted when `cancel` turns true.
//
// Ignored: "*.rotary_emb.inv_freq" (it follows from the config) and an lm_head beside tied embeddings. Any other
// tensor that a Llama model does not have, a bias for example, is an error: the output would be wrong without it.
// GGUF's "rope_freqs.weight" ([head_dim / 2], divides the frequencies) stands for rope_scaling and may not meet it.
LlamaWeights load_weights(const ModelSpec& spec, ThreadPool& pool, const std::atomic<bool>& cancel);

}  // namespace deftree
