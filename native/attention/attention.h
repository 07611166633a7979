// The family's entry points on the CPU.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <vector>

#include "attention/params.h"
#include "attention/plan.h"
#include "common/thread_pool.h"

namespace deftree::attention {

// Scratch that `run` sizes from the plan and keeps between steps.
struct CpuWorkspace {
  std::vector<float> partial_o;    // [num_partials, num_qo_heads, head_dim]
  std::vector<float> partial_lse;  // [num_partials, num_qo_heads]
  std::vector<std::byte> threads;  // each thread's tile buffers
  // Partial states of a (query, KV head) that are still to come; who brings the last merges them.
  std::unique_ptr<std::atomic<int32_t>[]> pending;  // [num_queries, num_kv_heads]
  size_t num_pending = 0;
};

// What the partition should know of a CPU with so many threads. A chunk of 128 tokens is some microseconds of work,
// several times what its start and its merge cost; 128 rows keep q and O of a group in a core's second-level cache; the
// tiled kernels take 4 pages at a time.
PlanDevice cpu_plan_device(int num_threads);

// Follows the plan with the fastest kernel this CPU has (AVX-512, AVX2, portable). Throws kBadArgument for a shape with
// sizes below 1 or heads that do not divide, and for a KV type the CPU has no kernel for (bf16).
void run(const CpuAttentionParams& params, const Plan& plan, CpuWorkspace& workspace, ThreadPool& pool);

// The oracle without a plan: each query against all keys it sees, in double precision accumulations.
void reference_dense(const CpuAttentionParams& params, const TreeSnapshot& snapshot);
// The same for one query, which stands at `node`: writes its row of params.out.
void reference_dense_query(const CpuAttentionParams& params, const TreeSnapshot& snapshot, int node, int query);
// The oracle that follows the plan, item by item and merge by merge, in plain loops.
void reference_plan(const CpuAttentionParams& params, const Plan& plan);

// Writes the K and V of `num_queries` tokens into their slots (slot = page * page_size + offset; -1: skip).
// k, v: [num_queries, num_kv_heads, head_dim].
void append_kv(const AttentionShape& shape, const CpuKvLayer& kv, const float* k, const float* v, const int32_t* slots,
               int num_queries, ThreadPool& pool);
// Copies slots within one layer.
void copy_slot(const AttentionShape& shape, const CpuKvLayer& kv, int32_t from_slot, int32_t to_slot);

}  // namespace deftree::attention
