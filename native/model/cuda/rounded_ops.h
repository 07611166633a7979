// For tests: a Llama step on the CPU in float32, and the same with every value rounded to bf16 that the GPU keeps in
// bf16. The second tells how far bf16 may be from the first.
#pragma once

#include <atomic>
#include <bit>
#include <span>
#include <vector>

#include "attention/attention.h"
#include "attention/plan.h"
#include "cache/tree_snapshot.h"
#include "common/thread_pool.h"
#include "model/dtype.h"
#include "model/llama.h"
#include "model/ops.h"
#include "model/weights.h"

namespace deftree::test {

inline void round_to_bf16(std::span<float> values) {
  for (float& value : values) value = bf16_to_f32(f32_to_bf16(value));
}

// CpuOps that rounds the inputs of matrix products, queries and KV.
class RoundedOps {
 public:
  RoundedOps(CpuOps& ops, std::vector<std::vector<float>>& kv_memory) : ops_(ops), kv_memory_(kv_memory) {}

  const LlamaWeights& weights() const { return ops_.weights(); }
  LlamaActivations activations(int num_rows) { return ops_.activations(num_rows); }
  void embed(const LinearWeight& table, std::span<const int32_t> tokens, float* out) { ops_.embed(table, tokens, out); }
  void rope_angles(std::span<const int32_t> positions, const LlamaActivations& a) { ops_.rope_angles(positions, a); }
  void rms_norm(const float* x, std::span<const float> weight, int num_rows, float* out) {
    ops_.rms_norm(x, weight, num_rows, out);
    round_to_bf16({out, num_rows * weight.size()});
  }
  void add_rms_norm(const LlamaActivations& a, std::span<const float> weight, int num_rows) {
    ops_.add_rms_norm(a, weight, num_rows);
    round_to_bf16({a.h, num_rows * weight.size()});
  }
  void linear(const LinearWeight& weight, const float* x, int ldx, int num_rows, float* y) {
    ops_.linear(weight, x, ldx, num_rows, y);
  }
  void rope_append_kv(int layer, const LlamaActivations& a, std::span<const int32_t> slots) {
    ops_.rope_append_kv(layer, a, slots);
    round_to_bf16({a.q, slots.size() * attention_width()});
    round_to_bf16(kv_memory_[2 * layer]);
    round_to_bf16(kv_memory_[2 * layer + 1]);
  }
  void attention(int layer, const attention::Plan& plan, const LlamaActivations& a) {
    ops_.attention(layer, plan, a);
    round_to_bf16({a.attention, size_t(plan.counters.num_queries) * attention_width()});
  }
  int keep_rows(std::span<const int32_t> rows, const LlamaActivations& a) { return ops_.keep_rows(rows, a); }
  void silu_mul(const LlamaActivations& a, int num_rows) {
    ops_.silu_mul(a, num_rows);
    for (int row = 0; row < num_rows; ++row)
      round_to_bf16({a.mlp + size_t(row) * a.mlp_stride, size_t(weights().config.intermediate_size)});
  }

 private:
  size_t attention_width() const { return size_t(weights().config.num_qo_heads) * weights().config.head_dim; }

  CpuOps& ops_;
  std::vector<std::vector<float>>& kv_memory_;
};

// A model on the CPU with KV pages of its own, which begin as NaN.
class ReferenceModel {
 public:
  ReferenceModel(const ModelSpec& spec, int num_pages, bool is_rounded)
      : is_rounded_(is_rounded), pool_(2), weights_(load_weights(spec, pool_, never_)), ops_(make_ops(num_pages)) {}

  // Logits of the batch's logit rows: [num_logits, vocab_size].
  std::vector<float> forward(const StepBatch& batch, const TreeSnapshot& tree) {
    make_plan(tree, attention::Policy::kDeftFlatten, ops_.attention_shape(), attention::cpu_plan_device(2), plan_);
    RoundedOps rounded(ops_, memory_);
    const float* hidden =
        is_rounded_ ? deftree::forward(rounded, batch, plan_, never_) : deftree::forward(ops_, batch, plan_, never_);
    const LlamaConfig& config = weights_.config;
    std::vector<float> logits(size_t(batch.num_logits()) * config.vocab_size);
    ops_.linear(weights_.lm_head(), hidden, config.hidden_size, batch.num_logits(), logits.data());
    return logits;
  }

 private:
  static constexpr int kPageSize = 16;

  CpuOps make_ops(int num_pages) {
    const LlamaConfig& config = weights_.config;
    const size_t values = size_t(num_pages) * kPageSize * config.num_kv_heads * config.head_dim;
    for (int i = 0; i < 2 * config.num_layers; ++i) memory_.emplace_back(values, std::bit_cast<float>(0xffffffffu));
    for (int i = 0; i < config.num_layers; ++i)
      kv_.push_back({memory_[2 * i].data(), memory_[2 * i + 1].data(), attention::KvType::kF32});
    return CpuOps(weights_, kv_, kPageSize, pool_);
  }

  const std::atomic<bool> never_{false};
  bool is_rounded_;
  ThreadPool pool_;
  LlamaWeights weights_;
  std::vector<std::vector<float>> memory_;
  std::vector<attention::CpuKvLayer> kv_;
  CpuOps ops_;
  attention::Plan plan_;
};

}  // namespace deftree::test
