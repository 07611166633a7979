#include "attention/bench_tree.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "attention/attention.h"
#include "attention/half.h"
#include "common/cpu_features.h"
#include "common/error.h"

namespace deftree::attention {
namespace {

constexpr ElementSizes kCpuSizes{.kv = 2, .qo = 4, .partial = 4};
constexpr size_t kCopyBytes = size_t{32} << 20;  // of a thread: far more than its caches hold

double now_s() {
  using namespace std::chrono;
  return duration<double>(steady_clock::now().time_since_epoch()).count();
}

void stop_if(const std::atomic<bool>& cancel) {
  if (cancel.load(std::memory_order_relaxed)) throw Error(ErrorCode::kAborted, "the benchmark was aborted");
}

// Values from -1 to 1, the same in every run.
std::vector<float> noise(size_t size, unsigned seed) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<float> values(size);
  for (float& value : values) value = uniform(random);
  return values;
}

class Layers {
 public:
  Layers(const AttentionShape& shape, int num_pages, int num_layers, ThreadPool& pool, const std::atomic<bool>& cancel)
      : tensors_(2 * num_layers) {
    const size_t size = static_cast<size_t>(num_pages) * shape.num_kv_heads * shape.head_dim * shape.page_size;
    const std::vector<float> values = noise(4096, 1);
    for (auto& tensor : tensors_) {
      stop_if(cancel);
      tensor.resize(size);
    }
    pool.run(static_cast<int>(tensors_.size()), [&](int task, int) {
      for (size_t i = 0; i < size && !cancel; ++i)
        tensors_[task][i] = float_to_half(values[(i * 31 + i / 4096 + task) % values.size()]);
    });
    stop_if(cancel);
  }
  CpuKvLayer operator[](int i) { return {tensors_[2 * i].data(), tensors_[2 * i + 1].data(), KvType::kF16}; }

 private:
  std::vector<std::vector<uint16_t>> tensors_;
};

// Each query against all keys it sees, spread over the pool.
std::vector<float> reference(CpuAttentionParams params, const TreeSnapshot& tree, size_t size, ThreadPool& pool,
                             const std::atomic<bool>& cancel) {
  std::vector<float> out(size);
  params.out = out.data();
  std::vector<int> node_of;
  for (int node = 0; node < tree.num_nodes(); ++node)
    node_of.insert(node_of.end(), tree.query_indptr[node + 1] - tree.query_indptr[node], node);
  pool.run(tree.num_queries(), [&](int query, int) {
    if (!cancel) reference_dense_query(params, tree, node_of[query], query);
  });
  stop_if(cancel);
  return out;
}

}  // namespace

AttentionFloor attention_floor(double bytes, double flops, int num_layers, const DeviceLimits& limits) {
  const double read_s = bytes / limits.copy_bytes_per_s;
  const double multiply_s = limits.flops_per_s > 0 ? flops / limits.flops_per_s : 0;
  const double layer_s = std::max(read_s, multiply_s);
  return {layer_s * num_layers * 1e3, (layer_s + limits.launch_s) * num_layers * 1e3};
}

AttentionShape bench_shape(const TreeBenchOptions& options) {
  const AttentionShape shape{options.num_qo_heads, options.num_kv_heads, options.head_dim, kBenchPageSize};
  if (shape.num_kv_heads < 1 || shape.num_qo_heads < 1 || shape.num_qo_heads % shape.num_kv_heads != 0)
    throw Error(ErrorCode::kBadArgument, std::to_string(shape.num_qo_heads) + " query heads are no multiple of " +
                                             std::to_string(shape.num_kv_heads) + " KV heads");
  if (shape.head_dim < 1 || options.num_layers < 1 || options.num_rounds < 1)
    throw Error(ErrorCode::kBadArgument, "head_dim, layers and rounds must be at least 1");
  return shape;
}

TreeBenchRow count_plan(const Plan& plan, const TreeSnapshot& tree, const TreeBenchOptions& options,
                        const ElementSizes& sizes, const DeviceLimits& limits) {
  const PlanCounters& counters = plan.counters;
  const int64_t layers = options.num_layers;
  const int64_t kv_bytes = int64_t{2} * options.num_kv_heads * options.head_dim * sizes.kv;  // of a token in a layer
  const int64_t row_size = int64_t{1} * options.num_qo_heads * options.head_dim;
  const int64_t state_bytes = int64_t{1} * options.head_dim * sizes.partial + static_cast<int64_t>(sizeof(float));
  const double bytes = static_cast<double>(num_tokens(tree) * kv_bytes + 2 * tree.num_queries() * row_size * sizes.qo);
  const double flops = 4.0 * static_cast<double>(counters.kv_tokens_unshared * row_size);
  return {.policy = plan.policy,
          .ms = 0,
          .floor = attention_floor(bytes, flops, options.num_layers, limits),
          .kv_bytes_read = counters.kv_tokens_read * kv_bytes * layers,
          .kv_bytes_unshared = counters.kv_tokens_unshared * kv_bytes * layers,
          .mask_bytes = counters.mask_bytes * layers,
          .partial_bytes = counters.partial_states * state_bytes * layers,
          .num_items = counters.num_items,
          .num_launches = options.num_layers,
          .max_error = 0,
          .type_error = std::numeric_limits<double>::quiet_NaN()};
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

int num_pages(const TreeSnapshot& tree) {
  int count = 0;
  for (const PageSpan& span : tree.spans) count = std::max(count, span.page + 1);
  return count;
}

int64_t num_tokens(const TreeSnapshot& tree) {
  int64_t sum = 0;
  for (int32_t len : tree.node_len) sum += len;
  return sum;
}

double max_difference(const std::vector<float>& a, const std::vector<float>& b) {
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double difference = std::abs(static_cast<double>(a[i]) - b[i]);
    if (std::isnan(difference)) return std::numeric_limits<double>::infinity();
    worst = std::max(worst, difference);
  }
  return worst;
}

double copy_bytes_per_s(ThreadPool& pool) {
  const int n = pool.num_threads();
  std::vector<char> from(kCopyBytes * n, 1), to(kCopyBytes * n, 2);
  double best = std::numeric_limits<double>::infinity();
  for (int i = 0; i < 7; ++i) {
    const double begin = now_s();
    pool.run(n, [&](int task, int) { std::memcpy(&to[kCopyBytes * task], &from[kCopyBytes * task], kCopyBytes); });
    best = std::min(best, now_s() - begin);
  }
  return 2.0 * static_cast<double>(kCopyBytes) * n / best;
}

TreeBench run_attention_bench(const TreeSnapshot& tree, const TreeBenchOptions& options, ThreadPool& pool,
                              const std::atomic<bool>& cancel) {
  const AttentionShape shape = bench_shape(options);
  TreeBench bench;
  bench.limits.copy_bytes_per_s = options.copy_bytes_per_s > 0 ? options.copy_bytes_per_s : copy_bytes_per_s(pool);
  bench.device = std::string(cpu_level_name(cpu_level())) + ", " + std::to_string(pool.num_threads()) + " threads";
  bench.kv_type = "f16";
  bench.num_queries = tree.num_queries();
  bench.kv_bytes_unique = num_tokens(tree) * 2 * shape.num_kv_heads * shape.head_dim * kCpuSizes.kv * options.num_layers;
  if (tree.num_queries() == 0) return bench;

  Layers layers(shape, num_pages(tree), options.num_layers, pool, cancel);
  const size_t size = static_cast<size_t>(tree.num_queries()) * shape.num_qo_heads * shape.head_dim;
  const std::vector<float> q = noise(size, 2);
  std::vector<float> out(size);
  const auto params = [&](int layer) {
    return CpuAttentionParams{shape, 1 / std::sqrt(static_cast<float>(shape.head_dim)), q.data(), out.data(),
                              layers[layer]};
  };
  const int last = options.num_layers - 1;
  const std::vector<float> exact = reference(params(last), tree, size, pool, cancel);

  CpuWorkspace workspace;
  Plan plan;
  for (Policy policy : options.policies) {
    make_plan(tree, policy, shape, cpu_plan_device(pool.num_threads()), plan);
    std::vector<double> times;
    for (int round = -1; round < options.num_rounds; ++round) {
      const double begin = now_s();
      for (int layer = 0; layer <= last; ++layer) {
        stop_if(cancel);
        run(params(layer), plan, workspace, pool);
      }
      if (round >= 0) times.push_back((now_s() - begin) * 1e3);
    }
    TreeBenchRow& row = bench.rows.emplace_back(count_plan(plan, tree, options, kCpuSizes, bench.limits));
    row.ms = median(std::move(times));
    row.max_error = max_difference(out, exact);
  }
  return bench;
}

}  // namespace deftree::attention
