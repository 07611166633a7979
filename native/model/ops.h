// The operations of a Llama step on the CPU. Activations are float; each operation cuts its rows over the pool
// where that pays and adds its time to times().
#pragma once

#include <chrono>
#include <cstdint>
#include <span>
#include <vector>

#include "attention/attention.h"
#include "common/thread_pool.h"
#include "model/linear.h"
#include "model/step_batch.h"
#include "model/weights.h"

namespace deftree {

// The activations of one step: rows of the batch, row-major. Valid until the next call of CpuOps::activations().
struct LlamaActivations {
  float* x;          // [num_rows, hidden_size] the residual stream
  float* h;          // [num_rows, hidden_size] normalised input of a sublayer
  float* out;        // [num_rows, hidden_size] output of a sublayer; is h
  float* cos;        // [num_rows, head_dim / 2] of the RoPE angles
  float* sin;        // [num_rows, head_dim / 2]
  float* qkv;        // [num_rows, (num_qo_heads + 2 * num_kv_heads) * head_dim]
  float* q;          // [num_rows, num_qo_heads, head_dim] after RoPE
  float* k;          // [num_rows, num_kv_heads, head_dim] after RoPE
  float* v;          // [num_rows, num_kv_heads, head_dim]
  float* attention;  // [num_rows, num_qo_heads, head_dim]
  float* gate_up;    // [num_rows, 2 * intermediate_size]
  float* mlp;        // [num_rows, intermediate_size] in rows of mlp_stride; is the gate half of gate_up
  int mlp_stride;    // 2 * intermediate_size
};

// Adds the wall time of a scope to a sum of nanoseconds.
class ScopeTimer {
 public:
  explicit ScopeTimer(int64_t& sum_ns) : sum_ns_(sum_ns), start_(Clock::now()) {}
  ~ScopeTimer() { sum_ns_ += std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start_).count(); }
  ScopeTimer(const ScopeTimer&) = delete;
  ScopeTimer& operator=(const ScopeTimer&) = delete;

 private:
  using Clock = std::chrono::steady_clock;
  int64_t& sum_ns_;
  Clock::time_point start_;
};

class CpuOps {
 public:
  // `kv`: the pages of each layer. All arguments must outlive the object.
  CpuOps(const LlamaWeights& weights, std::span<const attention::CpuKvLayer> kv, int page_size, ThreadPool& pool);

  const LlamaWeights& weights() const { return weights_; }
  const attention::AttentionShape& attention_shape() const { return shape_; }
  // linear_ns and attention_ns are filled here, the others are the caller's.
  const BackendTimes& times() const { return times_; }
  BackendTimes& times() { return times_; }

  // Buffers for `num_rows` rows; they grow to the largest step seen. Throws kOutOfMemory.
  LlamaActivations activations(int num_rows);

  // out[i] = row tokens[i] of `table`; out: [num tokens, table.in_features()].
  void embed(const LinearWeight& table, std::span<const int32_t> tokens, float* out);
  // Fills a.cos and a.sin.
  void rope_angles(std::span<const int32_t> positions, const LlamaActivations& a);
  // out = x / rms(x) * weight, by row of `weight.size()` values.
  void rms_norm(const float* x, std::span<const float> weight, int num_rows, float* out);
  // a.x += a.out, then a.h = a.x / rms(a.x) * weight.
  void add_rms_norm(const LlamaActivations& a, std::span<const float> weight, int num_rows);
  // y = x Wt. ldx: floats between the rows of x; those of y are packed.
  void linear(const LinearWeight& weight, const float* x, int ldx, int num_rows, float* y);
  // Splits a.qkv into a.q, a.k (both rotated) and a.v, and writes k and v into their slots of the layer's pages.
  void rope_append_kv(int layer, const LlamaActivations& a, std::span<const int32_t> slots);
  // a.attention = attention of a.q over the layer's pages.
  void attention(int layer, const attention::Plan& plan, const LlamaActivations& a);
  // Moves rows `rows` (ascending) of a.x and a.attention to the front; returns how many there are.
  int keep_rows(std::span<const int32_t> rows, const LlamaActivations& a);
  // a.mlp = gate * sigmoid(gate) * up, the halves of a.gate_up.
  void silu_mul(const LlamaActivations& a, int num_rows);

 private:
  // Calls body(row) for each row, on the pool when num_rows * row_cost (in values touched) is worth waking a thread.
  template <class Body>
  void for_rows(int num_rows, int row_cost, Body body);

  const LlamaWeights& weights_;
  std::span<const attention::CpuKvLayer> kv_;
  attention::AttentionShape shape_;
  ThreadPool& pool_;
  BackendTimes times_;
  std::vector<float> buffer_;  // all activations
  LinearWorkspace linear_workspace_;
  attention::CpuWorkspace attention_workspace_;
};

// Tasks into which `num_rows` rows are cut: 1 while the work is less than waking a thread costs (about 5 microseconds),
// else a few per thread, since the threads may not run at one speed.
int row_tasks(int num_rows, int row_cost, int num_threads);

// What one thread does to one row; ops_kernels.h holds them, compiled once for each instruction set.
struct RowKernels {
  void (*rms_norm)(const float* x, const float* weight, float eps, int n, float* out);
  void (*add_rms_norm)(float* x, float* h, const float* weight, float eps, int n);
  void (*silu_mul)(float* gate, const float* up, int n);
  // heads, out: [num_heads, head_dim]; cos, sin: [head_dim / 2].
  void (*rope)(const float* heads, const float* cos, const float* sin, int num_heads, int head_dim, float* out);
};
// The set for cpu_level().
const RowKernels& row_kernels();
const RowKernels& row_kernels_scalar();
#if defined(__x86_64__)
const RowKernels& row_kernels_avx2();
const RowKernels& row_kernels_avx512();
#endif

}  // namespace deftree
