// Attention of one decode step on a GPU: attention_cuda_bench FILE [layers [policy...]].
//
// Method: random data, 32/8 heads of 128 in bf16; `layers` (32) layers with K/V of their own, so that nothing stays in
// L2 from one replay to the next; the layers captured as one CUDA graph; warm-up, then the median of 30 replays. The floor
// of a layer is max(bytes of unique K/V, Q and O / copy bandwidth, flops / 750 TFLOP/s) + 2.5 us, with the bandwidth
// of a device-to-device copy (bytes read and written) measured in the same run.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "attention/cuda/attention_cuda.h"
#include "attention/cuda/reference_cuda.h"
#include "attention/cuda/tree_file.h"
#include "common/error.h"
#include "cuda/stream.h"

namespace deftree::attention {
namespace {

constexpr AttentionShape kShape{32, 8, 128, 16};
constexpr int kRounds = 30;

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

template <class Body>
double median_ms(const cuda::Stream& stream, Body body) {
  for (int i = 0; i < 3; ++i) body();
  std::vector<double> times;
  cuda::Event begin, end;
  for (int i = 0; i < kRounds; ++i) {
    begin.record(stream);
    body();
    end.record(stream);
    stream.synchronize();
    times.push_back(end.ms_since(begin));
  }
  return median(times);
}

double copy_bytes_per_s(const cuda::Stream& stream) {
  constexpr size_t kBytes = size_t{2} << 30;
  cuda::DeviceBuffer<std::byte> from(kBytes), to(kBytes);
  const double ms = median_ms(stream, [&] {
    cuda::check(cudaMemcpyAsync(to.data(), from.data(), kBytes, cudaMemcpyDeviceToDevice, stream.get()), "copy");
  });
  return 2.0 * kBytes / (ms * 1e-3);
}

int num_pages_of(const TreeSnapshot& tree) {
  int num_pages = 0;
  for (const PageSpan& span : tree.spans) num_pages = std::max(num_pages, span.page + 1);
  return num_pages;
}

int64_t num_tokens_of(const TreeSnapshot& tree) {
  int64_t sum = 0;
  for (int32_t len : tree.node_len) sum += len;
  return sum;
}

int bench(const std::string& path, int layers, std::vector<Policy> policies) {
  const CudaDevice gpu = query_cuda_device(0, kShape.head_dim);
  cuda::Stream stream;
  const double bandwidth = copy_bytes_per_s(stream);
  std::printf("copy %.3f TB/s; %d multiprocessors, %d blocks each\n", bandwidth * 1e-12, gpu.num_processors,
              gpu.blocks_per_processor);

  std::vector<NamedTree> trees = read_tree_file(path);
  std::vector<TreeSnapshot> snapshots;
  size_t num_pages = 0, num_queries = 0;
  for (const NamedTree& tree : trees) {
    snapshots.push_back(tree.snapshot(kShape.page_size));
    pack_small_nodes(snapshots.back());
    num_pages = std::max<size_t>(num_pages, num_pages_of(snapshots.back()));
    num_queries = std::max<size_t>(num_queries, snapshots.back().num_queries());
  }
  const size_t page_size = static_cast<size_t>(kShape.num_kv_heads) * kShape.head_dim * kShape.page_size;
  const size_t row_size = static_cast<size_t>(kShape.num_qo_heads) * kShape.head_dim;
  cuda::DeviceBuffer<__nv_bfloat16> kv(2 * layers * num_pages * page_size), q(num_queries * row_size), out(num_queries * row_size);
  fill_random(kv.data(), kv.size(), 1);
  fill_random(q.data(), q.size(), 2);

  std::printf("%-42s %-15s %9s %9s %7s %7s %6s %8s %8s %8s\n", "tree", "policy", "us/layer", "floor* us", "ratio",
              "TB/s", "items", "partials", "plan KB", "tiles/min");
  std::vector<double> log_ratio(policies.size(), 0);
  std::string json;
  for (size_t i = 0; i < trees.size(); ++i) {
    const TreeSnapshot& tree = snapshots[i];
    const size_t layer_size = num_pages_of(tree) * page_size;
    for (size_t p = 0; p < policies.size(); ++p) {
      Plan plan;
      make_plan(tree, policies[p], kShape, cuda_plan_device(gpu), plan);
      DevicePlan device_plan(kShape, gpu);
      device_plan.upload(plan, stream.get());
      const cuda::Graph graph(stream, [&] {
        device_plan.begin_step(stream.get());
        for (int l = 0; l < layers; ++l) {
          run({kShape, 1 / std::sqrt(static_cast<float>(kShape.head_dim)), q.data(), static_cast<int>(row_size),
               out.data(), {kv.data() + 2 * l * layer_size, kv.data() + (2 * l + 1) * layer_size}},
              device_plan, stream.get());
        }
      });
      const double us = median_ms(stream, [&] { graph.launch(stream); }) * 1e3 / layers;
      const double kv_bytes = 4.0 * num_tokens_of(tree) * kShape.num_kv_heads * kShape.head_dim;
      const double bytes = kv_bytes + 4.0 * tree.num_queries() * row_size;
      const double flops = 4.0 * plan.counters.kv_tokens_unshared * row_size;
      const double floor_us = std::max(bytes / bandwidth, flops / 750e12) * 1e6 + 2.5;
      const double tiles = static_cast<double>(device_plan.packed().tiles.size()) * kTileLen / num_tokens_of(tree);
      log_ratio[p] += std::log(us / floor_us);
      std::printf("%-42s %-15s %9.2f %9.2f %7.3f %7.3f %6d %8d %8.1f %8.2f\n", trees[i].name.c_str(),
                  std::string(policy_name(policies[p])).c_str(), us, floor_us, us / floor_us, kv_bytes / us * 1e-6,
                  plan.counters.num_items, plan.num_partials, device_plan.packed().bytes.size() / 1e3, tiles);
      std::fflush(stdout);
      char row[256];
      std::snprintf(row, sizeof(row), "%s{\"tree\":\"%s\",\"policy\":\"%s\",\"us\":%.3f,\"floor_us\":%.3f}",
                    json.empty() ? "" : ",", trees[i].name.c_str(), std::string(policy_name(policies[p])).c_str(), us,
                    floor_us);
      json += row;
    }
  }
  for (size_t p = 0; p < policies.size(); ++p)
    std::printf("geometric mean of %s over floor*: %.3f\n", std::string(policy_name(policies[p])).c_str(),
                std::exp(log_ratio[p] / trees.size()));
  std::printf("{\"copy_tb_s\":%.3f,\"layers\":%d,\"rows\":[%s]}\n", bandwidth * 1e-12, layers, json.c_str());
  return 0;
}

}  // namespace
}  // namespace deftree::attention

int main(int argc, char** argv) {
  using namespace deftree::attention;
  if (argc < 2) {
    std::fprintf(stderr, "attention_cuda_bench FILE [layers [policy...]]\n");
    return 2;
  }
  try {
    std::vector<Policy> policies;
    for (int i = 3; i < argc; ++i) policies.push_back(parse_policy(argv[i]));
    if (policies.empty()) policies = {Policy::kDeftFlatten};
    return bench(argv[1], argc > 2 ? std::max(std::atoi(argv[2]), 1) : 32, policies);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
