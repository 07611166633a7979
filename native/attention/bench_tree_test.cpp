#include "attention/bench_tree.h"

#include <atomic>
#include <cmath>

#include "attention/test_trees.h"
#include "common/error.h"
#include "common/test.h"

namespace deftree::attention {
namespace {

constexpr DeviceLimits kLimits{.copy_bytes_per_s = 1e9, .flops_per_s = 1e12, .launch_s = 1e-6};

TreeBenchOptions small_options() {
  TreeBenchOptions options;
  options.num_qo_heads = 4;
  options.num_kv_heads = 2;
  options.head_dim = 64;
  options.num_layers = 2;
  options.num_rounds = 2;
  return options;
}

}  // namespace

TEST(the_floor_is_the_slower_of_reading_and_multiplying) {
  // 2 MB at 1 GB/s: 2 ms a layer; 1 GFLOP at 1 TFLOP/s: 1 ms.
  const AttentionFloor reads = attention_floor(2e6, 1e9, 10, kLimits);
  CHECK_NEAR(reads.plain, 20, 1e-9);
  CHECK_NEAR(reads.star, 20.01, 1e-9);
  CHECK_NEAR(attention_floor(2e6, 4e9, 10, kLimits).plain, 40, 1e-9);
  CHECK_NEAR(attention_floor(2e6, 4e9, 10, {.copy_bytes_per_s = 1e9}).star, 20, 1e-9);
}

TEST(every_policy_is_measured_and_agrees_with_the_reference) {
  NamedTree tree = star_tree(300, 5, 20);
  tree.queries.push_back(0);  // an inner node
  TreeSnapshot snapshot = tree.snapshot(kBenchPageSize);
  pack_small_nodes(snapshot);
  TreeBenchOptions options = small_options();
  options.policies.assign(all_policies().begin(), all_policies().end());
  ThreadPool pool(2);
  const std::atomic<bool> cancel{false};
  const TreeBench bench = run_attention_bench(snapshot, options, pool, cancel);
  CHECK_EQ(bench.num_queries, 6);
  CHECK_EQ(bench.kv_bytes_unique, int64_t{400} * 2 * 2 * 64 * 2 * 2);
  CHECK_EQ(bench.rows.size(), all_policies().size());
  for (const TreeBenchRow& row : bench.rows) {
    CHECK(row.ms > 0);
    CHECK(row.max_error < 1e-5);  // f32 sums over 320 keys of values up to 1
    CHECK_EQ(row.kv_bytes_unshared, int64_t{5 * 320 + 300} * 2 * 2 * 64 * 2 * 2);
    CHECK(row.kv_bytes_read >= bench.kv_bytes_unique || row.policy == Policy::kDeftFlatten);
  }
  CHECK_EQ(bench.rows[0].policy == Policy::kDeftFlatten, true);
  CHECK_EQ(bench.rows[0].kv_bytes_read, bench.kv_bytes_unique);
}

TEST(no_tree_measures_the_limits_only) {
  ThreadPool pool(1);
  const TreeBench bench = run_attention_bench({}, small_options(), pool, std::atomic<bool>{false});
  CHECK(bench.rows.empty());
  CHECK(bench.limits.copy_bytes_per_s > 1e8);
}

TEST(a_cancelled_benchmark_ends) {
  ThreadPool pool(1);
  TreeBenchOptions options = small_options();
  options.policies = {Policy::kRadix};
  CHECK_ERROR(run_attention_bench(star_tree(50, 2, 5).snapshot(kBenchPageSize), options, pool, std::atomic<bool>{true}),
              ErrorCode::kAborted);
}

TEST(refuses_heads_that_do_not_divide) {
  TreeBenchOptions options = small_options();
  options.num_kv_heads = 3;
  CHECK_ERROR(bench_shape(options), ErrorCode::kBadArgument);
  options = small_options();
  options.num_rounds = 0;
  CHECK_ERROR(bench_shape(options), ErrorCode::kBadArgument);
}

TEST(a_nan_is_an_infinite_difference) {
  CHECK_EQ(max_difference({1, 2}, {1, 2.5}), 0.5);
  CHECK(std::isinf(max_difference({1, std::nanf("")}, {1, 2})));
}

}  // namespace deftree::attention
