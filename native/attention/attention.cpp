#include "attention/attention.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string>

#include "attention/kernels.h"
#include "attention/kv_layout.h"
#include "common/error.h"

namespace deftree::attention {
namespace {

constexpr size_t kCacheLine = 64;

void check_layer(const AttentionShape& shape, const CpuKvLayer& kv) {
  if (shape.num_kv_heads < 1 || shape.num_qo_heads < 1 || shape.num_qo_heads % shape.num_kv_heads != 0 ||
      shape.head_dim < 1 || shape.page_size < 1) {
    throw Error(ErrorCode::kBadArgument,
                "attention: num_qo_heads " + std::to_string(shape.num_qo_heads) + ", num_kv_heads " +
                    std::to_string(shape.num_kv_heads) + ", head_dim " + std::to_string(shape.head_dim) +
                    ", page_size " + std::to_string(shape.page_size) +
                    " is no shape: all must be at least 1 and the KV heads must divide the query heads");
  }
  if (kv.type != KvType::kF32 && kv.type != KvType::kF16)
    throw Error(ErrorCode::kBadArgument, "attention: KV on the CPU is f32 or f16");
}

size_t element_size(KvType type) { return type == KvType::kF32 ? sizeof(float) : sizeof(uint16_t); }

// Merges the query heads of one KV head. The slots come in the plan's order, whichever thread finished first, so the
// same plan gives the same bits.
void merge_query(const CpuAttentionParams& params, const Plan& plan, const KernelSet& kernels,
                 const CpuWorkspace& workspace, int query, int kv_head) {
  const AttentionShape& shape = params.shape;
  MergeTask task{.partial_o = workspace.partial_o.data(),
                 .partial_lse = workspace.partial_lse.data(),
                 .slots = plan.merge_slots.data() + plan.merge_indptr[query],
                 .num_slots = plan.merge_indptr[query + 1] - plan.merge_indptr[query],
                 .num_qo_heads = shape.num_qo_heads,
                 .head = kv_head * shape.group_size(),
                 .head_dim = shape.head_dim,
                 .out = nullptr};
  for (const int end = task.head + shape.group_size(); task.head < end; ++task.head) {
    task.out = params.out + (static_cast<size_t>(query) * shape.num_qo_heads + task.head) * shape.head_dim;
    kernels.merge(task);
  }
}

// Sizes the workspace for the plan; returns the bytes of each thread's scratch.
size_t prepare(const AttentionShape& shape, const Plan& plan, const KernelSet& kernels, int num_threads,
               CpuWorkspace& workspace) {
  const size_t rows = static_cast<size_t>(plan.num_partials) * shape.num_qo_heads;
  if (workspace.partial_lse.size() < rows) workspace.partial_lse.resize(rows);
  if (workspace.partial_o.size() < rows * shape.head_dim) workspace.partial_o.resize(rows * shape.head_dim);

  const size_t num_pending = static_cast<size_t>(plan.counters.num_queries) * shape.num_kv_heads;
  if (workspace.num_pending < num_pending) {
    workspace.pending = std::make_unique<std::atomic<int32_t>[]>(num_pending);
    workspace.num_pending = num_pending;
  }
  for (int query = 0; query < plan.counters.num_queries; ++query) {
    const int32_t count = plan.merge_indptr[query + 1] - plan.merge_indptr[query];
    for (int head = 0; head < shape.num_kv_heads; ++head)
      workspace.pending[static_cast<size_t>(query) * shape.num_kv_heads + head].store(count, std::memory_order_relaxed);
  }

  const size_t used = kernels.scratch_bytes(shape, plan.max_group_len);
  const size_t bytes = (used + kCacheLine - 1) / kCacheLine * kCacheLine;
  if (workspace.threads.size() < bytes * num_threads + kCacheLine)
    workspace.threads.resize(bytes * num_threads + kCacheLine);
  return bytes;
}

// dst[d * stride] = src[d]: a token's K into its column of the page.
template <class T>
void scatter(const T* src, T* dst, int n, int stride) {
  for (int d = 0; d < n; ++d) dst[static_cast<size_t>(d) * stride] = src[d];
}

// k, v: [num_kv_heads, head_dim]
void append_token(const AttentionShape& shape, const CpuKvLayer& kv, const KernelSet& kernels, const float* k,
                  const float* v, int32_t slot) {
  const int32_t page = slot / shape.page_size;
  const int offset = slot % shape.page_size;
  for (int head = 0; head < shape.num_kv_heads; ++head, k += shape.head_dim, v += shape.head_dim) {
    const size_t k_begin = k_offset(shape, page, head, offset, 0);
    const size_t v_begin = v_offset(shape, page, head, offset, 0);
    if (kv.type == KvType::kF32) {
      scatter(k, static_cast<float*>(kv.k) + k_begin, shape.head_dim, shape.page_size);
      std::copy_n(v, shape.head_dim, static_cast<float*>(kv.v) + v_begin);
      continue;
    }
    kernels.to_half(v, static_cast<uint16_t*>(kv.v) + v_begin, shape.head_dim);
    std::array<uint16_t, 64> part;
    for (int d = 0; d < shape.head_dim; d += static_cast<int>(part.size())) {
      const int len = std::min(static_cast<int>(part.size()), shape.head_dim - d);
      kernels.to_half(k + d, part.data(), len);
      scatter(part.data(), static_cast<uint16_t*>(kv.k) + k_begin + static_cast<size_t>(d) * shape.page_size, len,
              shape.page_size);
    }
  }
}

std::byte* align_to_cache_line(std::byte* p) {
  return p + (kCacheLine - reinterpret_cast<uintptr_t>(p) % kCacheLine) % kCacheLine;
}

}  // namespace

PlanDevice cpu_plan_device(int num_threads) {
  return {.num_processors = num_threads, .min_chunk_len = 128, .max_group_rows = 128, .chunk_align = 4};
}

const KernelSet& choose_kernels([[maybe_unused]] CpuLevel level, const AttentionShape& shape) {
  if (shape.page_size != 16 || shape.head_dim % 64 != 0) return kPlainKernels;
#if defined(__x86_64__)
  if (level >= CpuLevel::kAvx512) return kAvx512Kernels;
  if (level >= CpuLevel::kAvx2) return kAvx2Kernels;
#endif
  return kVec128Kernels;
}

void run_with_level(CpuLevel level, const CpuAttentionParams& params, const Plan& plan, CpuWorkspace& workspace,
                    ThreadPool& pool) {
  const AttentionShape& shape = params.shape;
  check_layer(shape, params.kv);
  const KernelSet& kernels = choose_kernels(level, shape);
  const size_t scratch_bytes = prepare(shape, plan, kernels, pool.num_threads(), workspace);
  std::byte* scratch = align_to_cache_line(workspace.threads.data());

  for (int query : plan.empty_queries)
    std::fill_n(params.out + static_cast<size_t>(query) * shape.num_qo_heads * shape.head_dim,
                shape.num_qo_heads * shape.head_dim, 0.0f);

  // Items stand largest first, so tasks do too.
  const int num_tasks = static_cast<int>(plan.items.size()) * shape.num_kv_heads;
  pool.run(num_tasks, [&](int index, int thread) {
    const WorkItem& item = plan.items[index / shape.num_kv_heads];
    const int kv_head = index % shape.num_kv_heads;
    kernels.attend_item({.params = &params,
                         .plan = &plan,
                         .item = &item,
                         .kv_head = kv_head,
                         .partial_o = workspace.partial_o.data(),
                         .partial_lse = workspace.partial_lse.data(),
                         .scratch = scratch + thread * scratch_bytes});
    if (item.partial_begin < 0) return;
    for (int i = item.query_begin; i < item.query_end; ++i) {
      const int query = plan.group_queries[i];
      std::atomic<int32_t>& pending = workspace.pending[static_cast<size_t>(query) * shape.num_kv_heads + kv_head];
      if (pending.fetch_sub(1, std::memory_order_acq_rel) == 1)
        merge_query(params, plan, kernels, workspace, query, kv_head);
    }
  });
}

void run(const CpuAttentionParams& params, const Plan& plan, CpuWorkspace& workspace, ThreadPool& pool) {
  run_with_level(cpu_level(), params, plan, workspace, pool);
}

void append_kv_with_level(CpuLevel level, const AttentionShape& shape, const CpuKvLayer& kv, const float* k,
                          const float* v, const int32_t* slots, int num_queries, ThreadPool& pool) {
  check_layer(shape, kv);
  const KernelSet& kernels = choose_kernels(level, shape);
  // A few dozen tokens take less time than waking the pool.
  constexpr int kTaskLen = 32;
  const int num_tasks = (num_queries + kTaskLen - 1) / kTaskLen;
  const size_t token_size = static_cast<size_t>(shape.num_kv_heads) * shape.head_dim;
  pool.run(num_tasks, [&](int task, int) {
    const int end = std::min(num_queries, (task + 1) * kTaskLen);
    for (int query = task * kTaskLen; query < end; ++query) {
      if (slots[query] >= 0)
        append_token(shape, kv, kernels, k + query * token_size, v + query * token_size, slots[query]);
    }
  });
}

void append_kv(const AttentionShape& shape, const CpuKvLayer& kv, const float* k, const float* v, const int32_t* slots,
               int num_queries, ThreadPool& pool) {
  append_kv_with_level(cpu_level(), shape, kv, k, v, slots, num_queries, pool);
}

void copy_slot(const AttentionShape& shape, const CpuKvLayer& kv, int32_t from_slot, int32_t to_slot) {
  check_layer(shape, kv);
  const size_t size = element_size(kv.type);
  auto* k = static_cast<std::byte*>(kv.k);
  auto* v = static_cast<std::byte*>(kv.v);
  const int32_t from_page = from_slot / shape.page_size, to_page = to_slot / shape.page_size;
  const int from = from_slot % shape.page_size, to = to_slot % shape.page_size;
  for (int head = 0; head < shape.num_kv_heads; ++head) {
    for (int d = 0; d < shape.head_dim; ++d)
      std::memcpy(k + k_offset(shape, to_page, head, to, d) * size,
                  k + k_offset(shape, from_page, head, from, d) * size, size);
    std::memmove(v + v_offset(shape, to_page, head, to, 0) * size, v + v_offset(shape, from_page, head, from, 0) * size,
                 shape.head_dim * size);
  }
}

}  // namespace deftree::attention
