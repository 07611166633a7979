#include "model/ops.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>
#include <memory>
#include <new>
#include <string>

#include "common/cpu_features.h"
#include "common/error.h"
#include "model/ops_kernels.h"
#include "model/rope.h"

namespace deftree {
int row_tasks(int num_rows, int row_cost, int num_threads) {
  constexpr int64_t kValuesPerTask = 16384;
  const int64_t worth = int64_t{num_rows} * row_cost / kValuesPerTask;
  return static_cast<int>(std::clamp<int64_t>(worth, 1, std::min(num_rows, num_threads * 4)));
}

const RowKernels& row_kernels_scalar() { return kRowKernels; }

const RowKernels& row_kernels() {
#if defined(__x86_64__)
  switch (cpu_level()) {
    case CpuLevel::kAmx:
    case CpuLevel::kAvx512:
      return row_kernels_avx512();
    case CpuLevel::kAvx2:
      return row_kernels_avx2();
    case CpuLevel::kScalar:
      break;
  }
#endif
  return row_kernels_scalar();
}

CpuOps::CpuOps(const LlamaWeights& weights, std::span<const attention::CpuKvLayer> kv, int page_size, ThreadPool& pool)
    : weights_(weights),
      kv_(kv),
      shape_{weights.config.num_qo_heads, weights.config.num_kv_heads, weights.config.head_dim, page_size},
      pool_(pool) {}

template <class Body>
void CpuOps::for_rows(int num_rows, int row_cost, Body body) {
  const int num_tasks = row_tasks(num_rows, row_cost, pool_.num_threads());
  pool_.run(num_tasks, [&](int task, int) {
    const int end = static_cast<int>(int64_t{num_rows} * (task + 1) / num_tasks);
    for (int row = static_cast<int>(int64_t{num_rows} * task / num_tasks); row < end; ++row) body(row);
  });
}

LlamaActivations CpuOps::activations(int num_rows) {
  const LlamaConfig& config = weights_.config;
  const size_t hidden = config.hidden_size, q = size_t(shape_.num_qo_heads) * shape_.head_dim;
  const size_t kv = size_t(shape_.num_kv_heads) * shape_.head_dim, half_head = shape_.head_dim / 2;
  const size_t widths[] = {hidden, hidden, half_head, half_head, q + 2 * kv,
                           q,      kv,     kv,        q,         2 * size_t(config.intermediate_size)};
  float* begins[std::size(widths)];

  constexpr size_t kAlign = 16;  // floats in a cache line
  size_t wanted = kAlign;
  for (const size_t width : widths) wanted += (width * num_rows + kAlign - 1) / kAlign * kAlign;
  if (buffer_.size() < wanted) {
    try {
      std::vector<float>().swap(buffer_);
      buffer_.resize(wanted);
    } catch (const std::bad_alloc&) {
      throw Error(ErrorCode::kOutOfMemory, "no memory for the activations of " + std::to_string(num_rows) + " tokens",
                  {{"wanted_bytes", static_cast<double>(wanted * sizeof(float))}});
    }
  }
  void* aligned = buffer_.data();
  size_t space = buffer_.size() * sizeof(float);
  float* next = static_cast<float*>(std::align(kAlign * sizeof(float), sizeof(float), aligned, space));
  for (size_t i = 0; i < std::size(widths); ++i) {
    begins[i] = next;
    next += (widths[i] * num_rows + kAlign - 1) / kAlign * kAlign;
  }
  return {.x = begins[0],
          .h = begins[1],
          .out = begins[1],
          .cos = begins[2],
          .sin = begins[3],
          .qkv = begins[4],
          .q = begins[5],
          .k = begins[6],
          .v = begins[7],
          .attention = begins[8],
          .gate_up = begins[9],
          .mlp = begins[9],
          .mlp_stride = 2 * config.intermediate_size};
}

void CpuOps::embed(const LinearWeight& table, std::span<const int32_t> tokens, float* out) {
  const int width = table.in_features();
  for_rows(static_cast<int>(tokens.size()), 2 * width,
           [&](int row) { table.dequantize_row(tokens[row], out + size_t(row) * width); });
}

void CpuOps::rope_angles(std::span<const int32_t> positions, const LlamaActivations& a) {
  const int half = shape_.head_dim / 2;
  for_rows(static_cast<int>(positions.size()), 64 * half, [&](int row) {
    deftree::rope_angles(weights_.rope_inverse_frequencies, positions.subspan(row, 1), a.cos + size_t(row) * half,
                         a.sin + size_t(row) * half);
  });
}

void CpuOps::rms_norm(const float* x, std::span<const float> weight, int num_rows, float* out) {
  const int n = static_cast<int>(weight.size());
  const auto eps = static_cast<float>(weights_.config.rms_norm_eps);
  const RowKernels& kernels = row_kernels();
  for_rows(num_rows, n,
           [&](int row) { kernels.rms_norm(x + size_t(row) * n, weight.data(), eps, n, out + size_t(row) * n); });
}

void CpuOps::add_rms_norm(const LlamaActivations& a, std::span<const float> weight, int num_rows) {
  const int n = static_cast<int>(weight.size());
  const auto eps = static_cast<float>(weights_.config.rms_norm_eps);
  const RowKernels& kernels = row_kernels();
  for_rows(num_rows, n,
           [&](int row) { kernels.add_rms_norm(a.x + size_t(row) * n, a.h + size_t(row) * n, weight.data(), eps, n); });
}

void CpuOps::linear(const LinearWeight& weight, const float* x, int ldx, int num_rows, float* y) {
  const ScopeTimer timer(times_.linear_ns);
  deftree::linear(weight, x, ldx, y, weight.out_features(), num_rows, linear_workspace_, pool_);
}

void CpuOps::rope_append_kv(int layer, const LlamaActivations& a, std::span<const int32_t> slots) {
  const int num_rows = static_cast<int>(slots.size()), half = shape_.head_dim / 2;
  const size_t q = size_t(shape_.num_qo_heads) * shape_.head_dim, kv = size_t(shape_.num_kv_heads) * shape_.head_dim;
  const RowKernels& kernels = row_kernels();
  for_rows(num_rows, static_cast<int>(q + 2 * kv), [&](int row) {
    const float* qkv = a.qkv + row * (q + 2 * kv);
    const float* cos = a.cos + size_t(row) * half;
    const float* sin = a.sin + size_t(row) * half;
    kernels.rope(qkv, cos, sin, shape_.num_qo_heads, shape_.head_dim, a.q + row * q);
    kernels.rope(qkv + q, cos, sin, shape_.num_kv_heads, shape_.head_dim, a.k + row * kv);
    std::memcpy(a.v + row * kv, qkv + q + kv, kv * sizeof(float));
  });
  attention::append_kv(shape_, kv_[layer], a.k, a.v, slots.data(), num_rows, pool_);
}

void CpuOps::attention(int layer, const attention::Plan& plan, const LlamaActivations& a) {
  const ScopeTimer timer(times_.attention_ns);
  const attention::CpuAttentionParams params = {.shape = shape_,
                                                .sm_scale = 1.0f / std::sqrt(static_cast<float>(shape_.head_dim)),
                                                .q = a.q,
                                                .out = a.attention,
                                                .kv = kv_[layer]};
  attention::run(params, plan, attention_workspace_, pool_);
}

int CpuOps::keep_rows(std::span<const int32_t> rows, const LlamaActivations& a) {
  const size_t hidden = weights_.config.hidden_size, q = size_t(shape_.num_qo_heads) * shape_.head_dim;
  for (size_t i = 0; i < rows.size(); ++i) {
    const size_t from = rows[i];
    if (from == i) continue;
    std::memcpy(a.x + i * hidden, a.x + from * hidden, hidden * sizeof(float));
    std::memcpy(a.attention + i * q, a.attention + from * q, q * sizeof(float));
  }
  return static_cast<int>(rows.size());
}

void CpuOps::silu_mul(const LlamaActivations& a, int num_rows) {
  const int n = weights_.config.intermediate_size;
  const RowKernels& kernels = row_kernels();
  for_rows(num_rows, 4 * n, [&](int row) {
    float* gate = a.mlp + size_t(row) * a.mlp_stride;
    kernels.silu_mul(gate, gate + n, n);
  });
}

}  // namespace deftree
