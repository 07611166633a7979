// What the attention of one decode step costs on a tree, policy by policy: the library behind `deftree bench attention` and
// attention_cuda_bench.
//
// Method: random K, V and Q; `num_layers` layers with K/V of their own, so that no cache holds anything of the step
// before; after a warm-up the median over `num_rounds` steps. Beside a time stand the bytes of the plan, which are exact,
// the floor, and the largest difference from attention key by key in double precision.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "attention/params.h"
#include "attention/plan.h"
#include "cache/tree_snapshot.h"
#include "common/thread_pool.h"

namespace deftree::attention {

inline constexpr int kBenchPageSize = 16;

struct TreeBenchOptions {
  int num_qo_heads = 32, num_kv_heads = 8, head_dim = 128;
  int num_layers = 32;
  int num_rounds = 30;
  std::vector<Policy> policies;
  double copy_bytes_per_s = 0;  // as an earlier call of the same run measured it; 0: measured now
};

// What a device cannot do faster.
struct DeviceLimits {
  double copy_bytes_per_s;     // read plus written by a copy of its memory, measured in the same run
  double flops_per_s = 0;      // of its matrix units; 0: not known, and not part of a floor
  double launch_s = 0;         // what starting a layer's kernel costs
};

// Milliseconds below which no step can be.
struct AttentionFloor {
  double plain;  // max(bytes of unique K/V, Q and O / copy rate, flops / matrix rate)
  double star;   // floor*: plain + what launches cost
};

// Bytes of an element.
struct ElementSizes {
  int kv, qo, partial;
};

// bytes, flops: of a layer.
AttentionFloor attention_floor(double bytes, double flops, int num_layers, const DeviceLimits& limits);

struct TreeBenchRow {
  Policy policy;
  double ms;            // a step, all layers
  AttentionFloor floor;
  // Of a step, all layers.
  int64_t kv_bytes_read, kv_bytes_unshared, mask_bytes, partial_bytes;
  int num_items;        // of a layer; each is computed for every KV head
  int num_launches;     // kernels of a step; on the CPU parallel regions
  double max_error;     // largest difference of an output element from the reference
  double type_error;    // of the same computation, key by key, in the storage type; NaN where there is none (CPU)
};

struct TreeBench {
  DeviceLimits limits;
  std::string device, kv_type;
  int num_queries = 0;
  int64_t kv_bytes_unique = 0;  // of the tree's tokens, all layers
  std::vector<TreeBenchRow> rows;
};

// The shape of the options. Throws kBadArgument when a size is below 1 or query heads are no multiple of KV heads.
AttentionShape bench_shape(const TreeBenchOptions& options);
// A row with what the plan alone tells.
TreeBenchRow count_plan(const Plan& plan, const TreeSnapshot& tree, const TreeBenchOptions& options,
                        const ElementSizes& sizes, const DeviceLimits& limits);

double median(std::vector<double> values);
int num_pages(const TreeSnapshot& tree);
int64_t num_tokens(const TreeSnapshot& tree);
// Largest |a[i] - b[i]|; infinity when a NaN is among them.
double max_difference(const std::vector<float>& a, const std::vector<float>& b);

// Bytes per second read plus written by a copy with all threads, the best of several.
double copy_bytes_per_s(ThreadPool& pool);

// On the CPU: f16 KV, f32 Q and O. `tree` has pages of kBenchPageSize; one with no queries gives no rows, only the limits.
// Throws kBadArgument, kOutOfMemory, and kAborted soon after `cancel` turns true.
TreeBench run_attention_bench(const TreeSnapshot& tree, const TreeBenchOptions& options, ThreadPool& pool,
                              const std::atomic<bool>& cancel);

}  // namespace deftree::attention
