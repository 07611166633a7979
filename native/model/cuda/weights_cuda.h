// From a table of tensors in files to the weights of a Llama model in GPU memory, in bf16.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <vector>

#include "cuda/buffer.h"
#include "model/cuda/linear_cuda.h"
#include "model/model_spec.h"

namespace deftree {

struct CudaLlamaLayerWeights {
  const float* attention_norm;  // [hidden_size]
  CudaWeight qkv;               // [(num_qo_heads + 2 * num_kv_heads) * head_dim, hidden_size]: q, k, v rows
  CudaWeight attention_out;     // [hidden_size, num_qo_heads * head_dim]
  const float* mlp_norm;        // [hidden_size]
  CudaWeight gate_up;           // [2 * intermediate_size, hidden_size]: gate rows, then up rows
  CudaWeight down;              // [hidden_size, intermediate_size]
};

// As LlamaWeights (model/weights.h), in device memory.
struct CudaLlamaWeights {
  LlamaConfig config;
  const double* rope_inverse_frequencies;     // [head_dim / 2]
  CudaWeight embedding;                       // [vocab_size, hidden_size]
  std::vector<CudaLlamaLayerWeights> layers;  // [num_layers]
  const float* final_norm;                    // [hidden_size]
  std::optional<CudaWeight> untied_lm_head;   // [vocab_size, hidden_size]
  cuda::DeviceBuffer<std::byte> memory;       // what all of them point into

  const CudaWeight& lm_head() const { return untied_lm_head ? *untied_lm_head : embedding; }
};

// Checks config and tensors as load_weights does, and further that rows are whole pieces of 16 bytes; then uploads to
// `device_index`. Every source type becomes bf16. Throws kBadModel, kOutOfMemory, kDevice, or kAborted when `cancel`
// turns true (looked at every few megabytes).
CudaLlamaWeights load_cuda_weights(const ModelSpec& spec, int device_index, const std::atomic<bool>& cancel);

// The checks of load_cuda_weights that need no GPU and no file. Throws kBadModel.
void check_cuda_config(const LlamaConfig& config);

}  // namespace deftree
