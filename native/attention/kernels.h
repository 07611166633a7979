// Between attention.cpp and the kernels: one task, one set of functions per instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

#include "attention/attention.h"
#include "common/cpu_features.h"

namespace deftree::attention {

// One work item for one KV head.
//
// The files compiled for AVX2 and AVX-512 include this header: its inline functions stay free of floating-point code,
// which the linker might otherwise take from those files for a machine that lacks the instructions.
struct ItemTask {
  const CpuAttentionParams* params;
  const Plan* plan;
  const WorkItem* item;
  int kv_head;
  float* partial_o;    // [num_partials, num_qo_heads, head_dim]
  float* partial_lse;  // [num_partials, num_qo_heads]
  std::byte* scratch;  // the thread's own, KernelSet::scratch_bytes, 64-byte aligned

  int head_dim() const { return params->shape.head_dim; }
  int group_len() const { return item->query_end - item->query_begin; }
  // Rows are query-major: row i * group_size + g is query head kv_head * group_size + g of the group's query i.
  int num_rows() const { return group_len() * params->shape.group_size(); }
  const PageSpan* spans() const { return plan->spans.data() + item->span_begin; }
  int num_spans() const { return item->span_end - item->span_begin; }
  const int32_t* queries() const { return plan->group_queries.data() + item->query_begin; }
  const uint64_t* mask_of(int query) const {
    return plan->mask_words.data() + item->mask_begin + static_cast<int64_t>(query) * item->mask_stride;
  }
  bool sees(int query, int token) const {
    const int bit = token - item->dense_len;
    return bit < 0 || ((mask_of(query)[bit >> 6] >> (bit & 63)) & 1);
  }

  // Rows of the group's query `i` in q and out: [num_queries, num_qo_heads], group_size of them from here.
  int64_t query_row(int i) const {
    return static_cast<int64_t>(queries()[i]) * params->shape.num_qo_heads + kv_head * params->shape.group_size();
  }
  // The same in partial_o and partial_lse: [num_partials, num_qo_heads].
  int64_t partial_row(int i) const {
    return static_cast<int64_t>(item->partial_begin + i) * params->shape.num_qo_heads +
           kv_head * params->shape.group_size();
  }
  bool direct() const { return item->partial_begin < 0; }
  // Where O of these rows goes: [group_size, head_dim].
  float* out_rows(int i) const {
    return direct() ? params->out + query_row(i) * head_dim() : partial_o + partial_row(i) * head_dim();
  }
};

// Merges the partial states of one query head into its output.
struct MergeTask {
  const float* partial_o;    // [num_partials, num_qo_heads, head_dim]
  const float* partial_lse;  // [num_partials, num_qo_heads]
  const int32_t* slots;      // [num_slots]
  int num_slots, num_qo_heads, head, head_dim;
  float* out;  // [head_dim]

  int64_t row(int i) const { return static_cast<int64_t>(slots[i]) * num_qo_heads + head; }
};

struct KernelSet {
  // Computes the task and writes its rows to params->out, or to its partial slots.
  void (*attend_item)(const ItemTask& task);
  void (*merge)(const MergeTask& task);
  size_t (*scratch_bytes)(const AttentionShape& shape, int max_group_len);
  void (*to_half)(const float* src, uint16_t* dst, int n);
};

// Any page_size and head_dim.
extern const KernelSet kPlainKernels;
// page_size 16 and a head_dim that is a multiple of 64: attention_kernel.h.
extern const KernelSet kVec128Kernels;
#if defined(__x86_64__)
extern const KernelSet kAvx2Kernels;
extern const KernelSet kAvx512Kernels;
#endif

const KernelSet& choose_kernels(CpuLevel level, const AttentionShape& shape);

// run() and append_kv() with the kernels of a given level (which the CPU must have): for tests and benchmarks.
void run_with_level(CpuLevel level, const CpuAttentionParams& params, const Plan& plan, CpuWorkspace& workspace,
                    ThreadPool& pool);
void append_kv_with_level(CpuLevel level, const AttentionShape& shape, const CpuKvLayer& kv, const float* k,
                          const float* v, const int32_t* slots, int num_queries, ThreadPool& pool);

}  // namespace deftree::attention
