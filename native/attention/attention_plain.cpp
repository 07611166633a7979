// The kernel for every shape and every machine: what the tiled kernel (attention_kernel.h) does, in loops a compiler
// can vectorise by itself. Online softmax in base 2, one page span at a time.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <utility>

#include "attention/kernels.h"
#include "attention/kv_layout.h"
#include "attention/state.h"

namespace deftree::attention {
namespace {

constexpr float kNegInf = -std::numeric_limits<float>::infinity();

struct Scratch {
  float* q;       // [num_rows, head_dim], times sm_scale * log2(e)
  float* acc;     // [num_rows, head_dim], sum of weight * v
  float* max;     // [num_rows], of the scores so far
  float* sum;     // [num_rows], of the weights so far
  float* scores;  // [page_size]
  float* k;       // [head_dim, page_size]
  float* v;       // [page_size, head_dim]
};

Scratch carve(std::byte* bytes, const AttentionShape& shape, int num_rows) {
  float* next = reinterpret_cast<float*>(bytes);
  auto take = [&next](int rows, int cols) { return std::exchange(next, next + static_cast<size_t>(rows) * cols); };
  Scratch s{};
  s.q = take(num_rows, shape.head_dim);
  s.acc = take(num_rows, shape.head_dim);
  s.max = take(num_rows, 1);
  s.sum = take(num_rows, 1);
  s.scores = take(shape.page_size, 1);
  s.k = take(shape.head_dim, shape.page_size);
  s.v = take(shape.page_size, shape.head_dim);
  return s;
}

size_t scratch_bytes(const AttentionShape& shape, int max_group_len) {
  const size_t num_rows = static_cast<size_t>(max_group_len) * shape.group_size();
  const size_t page = static_cast<size_t>(shape.head_dim) * shape.page_size;
  return sizeof(float) * (num_rows * (2 * shape.head_dim + 2) + shape.page_size + 2 * page);
}

struct SpanKv {
  const float* k;  // [head_dim, page_size], from the span's first slot on
  const float* v;  // [len, head_dim]
};

SpanKv load_span(const ItemTask& task, const PageSpan& span, const Scratch& s) {
  const AttentionShape& shape = task.params->shape;
  const CpuKvLayer& kv = task.params->kv;
  const size_t k_begin = k_offset(shape, span.page, task.kv_head, span.begin, 0);
  const size_t v_begin = v_offset(shape, span.page, task.kv_head, span.begin, 0);
  if (kv.type == KvType::kF32)
    return {static_cast<const float*>(kv.k) + k_begin, static_cast<const float*>(kv.v) + v_begin};

  const uint16_t* k = static_cast<const uint16_t*>(kv.k) + k_begin;
  const uint16_t* v = static_cast<const uint16_t*>(kv.v) + v_begin;
  for (int d = 0; d < shape.head_dim; ++d) {
    for (int t = 0; t < span.len(); ++t) s.k[d * shape.page_size + t] = half_to_float(k[d * shape.page_size + t]);
  }
  for (int i = 0; i < span.len() * shape.head_dim; ++i) s.v[i] = half_to_float(v[i]);
  return {s.k, s.v};
}

// Adds the span's keys, whose scores are s.scores[0, len), to one row.
void add_keys(const float* v, int len, int head_dim, int row, const Scratch& s) {
  const float span_max = *std::max_element(s.scores, s.scores + len);
  if (span_max == kNegInf) return;
  const float new_max = std::max(s.max[row], span_max);
  const float old_weight = std::exp2(s.max[row] - new_max);
  float* acc = s.acc + static_cast<size_t>(row) * head_dim;
  for (int d = 0; d < head_dim; ++d) acc[d] *= old_weight;
  float sum = s.sum[row] * old_weight;
  for (int t = 0; t < len; ++t) {
    if (s.scores[t] == kNegInf) continue;
    const float weight = std::exp2(s.scores[t] - new_max);
    sum += weight;
    for (int d = 0; d < head_dim; ++d) acc[d] += weight * v[t * head_dim + d];
  }
  s.sum[row] = sum;
  s.max[row] = new_max;
}

void attend_item(const ItemTask& task) {
  const AttentionShape& shape = task.params->shape;
  const int num_rows = task.num_rows(), head_dim = shape.head_dim;
  const Scratch s = carve(task.scratch, shape, num_rows);
  const float scale = task.params->sm_scale * std::numbers::log2e_v<float>;
  const int query_size = shape.group_size() * head_dim;
  for (int i = 0; i < task.group_len(); ++i) {
    const float* q = task.params->q + task.query_row(i) * head_dim;
    for (int d = 0; d < query_size; ++d) s.q[i * query_size + d] = q[d] * scale;
  }
  std::fill_n(s.acc, num_rows * head_dim, 0.0f);
  std::fill_n(s.max, num_rows, kNegInf);
  std::fill_n(s.sum, num_rows, 0.0f);

  int token = 0;
  for (int i = 0; i < task.num_spans(); ++i) {
    const PageSpan span = task.spans()[i];
    const SpanKv kv = load_span(task, span, s);
    for (int row = 0; row < num_rows; ++row) {
      const float* q = s.q + static_cast<size_t>(row) * head_dim;
      std::fill_n(s.scores, span.len(), 0.0f);
      for (int d = 0; d < head_dim; ++d) {
        const float* k = kv.k + static_cast<size_t>(d) * shape.page_size;
        for (int t = 0; t < span.len(); ++t) s.scores[t] += q[d] * k[t];
      }
      const int query = row / shape.group_size();
      for (int t = 0; t < span.len(); ++t) {
        if (!task.sees(query, token + t)) s.scores[t] = kNegInf;
      }
      add_keys(kv.v, span.len(), head_dim, row, s);
    }
    token += span.len();
  }

  for (int row = 0; row < num_rows; ++row) {
    const int i = row / shape.group_size(), g = row % shape.group_size();
    float* o = task.out_rows(i) + g * head_dim;
    const float inverse = s.sum[row] > 0 ? 1 / s.sum[row] : 0.0f;
    for (int d = 0; d < head_dim; ++d) o[d] = s.acc[row * head_dim + d] * inverse;
    if (!task.direct())
      task.partial_lse[task.partial_row(i) + g] = (s.max[row] + std::log2(s.sum[row])) * std::numbers::ln2_v<float>;
  }
}

void merge(const MergeTask& task) {
  AttentionState<float> state(task.out, task.head_dim);
  for (int i = 0; i < task.num_slots; ++i)
    state.merge(task.partial_o + task.row(i) * task.head_dim, task.partial_lse[task.row(i)]);
  state.normalise();
}

void to_half(const float* src, uint16_t* dst, int n) {
  for (int i = 0; i < n; ++i) dst[i] = float_to_half(src[i]);
}

}  // namespace

const KernelSet kPlainKernels = {attend_item, merge, scratch_bytes, to_half};

}  // namespace deftree::attention
