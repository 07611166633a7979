// How much device memory a model takes. Needs no GPU, so that a load can be planned before one is touched.
#include "engine/backend.h"
#include "model/weights.h"

namespace deftree {
namespace {

// CUDA graphs, kernels that load at first use, cuBLASLt's workspace and the parts of split matrix products.
constexpr uint64_t kMarginBytes = uint64_t{640} << 20;
constexpr uint64_t kMaxLogitRows = 128;

}  // namespace

uint64_t cuda_kv_bytes_per_token(const LlamaConfig& config) {
  return uint64_t{2} * config.num_layers * config.num_kv_heads * config.head_dim * 2;
}

uint64_t cuda_bytes_without_kv(const ModelSpec& spec, const BackendOptions& options) {
  const LlamaConfig& config = spec.config;
  const uint64_t hidden = config.hidden_size, intermediate = config.intermediate_size, vocab = config.vocab_size;
  const uint64_t q = uint64_t(config.num_qo_heads) * config.head_dim;
  const uint64_t qkv = q + 2 * uint64_t(config.num_kv_heads) * config.head_dim;
  const uint64_t layer = hidden * (qkv + q + 3 * intermediate);
  const uint64_t weight_bytes = 2 * (config.num_layers * layer + (config.tie_word_embeddings ? 1 : 2) * vocab * hidden);
  // x twice (before and after rows are dropped), h, angles, q, attention, a product's output, the MLP's input.
  const uint64_t row_bytes =
      2 * 4 * hidden + 2 * hidden + 4 * config.head_dim + 2 * 2 * q + 2 * 2 * intermediate + 2 * intermediate;
  return weight_bytes + row_bytes * options.max_step_tokens + 4 * kMaxLogitRows * vocab + kMarginBytes;
}

}  // namespace deftree
