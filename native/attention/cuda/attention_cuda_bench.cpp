// Attention of one decode step on a GPU, for a machine without Node: attention_cuda_bench FILE [layers [policy...]].
// Method: bench_tree.h. What follows is `deftree bench attention` as a table and one JSON line.
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "attention/cuda/bench_tree_cuda.h"
#include "attention/tree_file.h"

namespace deftree::attention {
namespace {

int bench(const std::string& path, TreeBenchOptions options) {
  const std::atomic<bool> cancel{false};
  const std::vector<NamedTree> trees = read_tree_file(path);
  const TreeBench device = run_attention_bench_cuda({}, options, cancel);
  options.copy_bytes_per_s = device.limits.copy_bytes_per_s;
  std::printf("%s: copy %.3f TB/s\n", device.device.c_str(), options.copy_bytes_per_s * 1e-12);
  std::printf("%-42s %-15s %9s %9s %7s %7s %6s %9s %9s %9s\n", "tree", "policy", "us/layer", "floor* us", "ratio",
              "TB/s", "items", "KV MB", "error", "bf16's");
  std::vector<double> log_ratio(options.policies.size(), 0);
  std::string json;
  for (const NamedTree& tree : trees) {
    TreeSnapshot snapshot = tree.snapshot(kBenchPageSize);
    pack_small_nodes(snapshot);
    const TreeBench result = run_attention_bench_cuda(snapshot, options, cancel);
    for (size_t i = 0; i < result.rows.size(); ++i) {
      const TreeBenchRow& row = result.rows[i];
      const std::string policy(policy_name(row.policy));
      const double us = row.ms * 1e3 / options.num_layers, floor_us = row.floor.star * 1e3 / options.num_layers;
      log_ratio[i] += std::log(us / floor_us);
      std::printf("%-42s %-15s %9.2f %9.2f %7.3f %7.3f %6d %9.1f %9.2e %9.2e\n", tree.name.c_str(), policy.c_str(), us,
                  floor_us, us / floor_us, result.kv_bytes_unique / row.ms * 1e-9, row.num_items,
                  row.kv_bytes_read * 1e-6 / options.num_layers, row.max_error, row.type_error);
      std::fflush(stdout);
      json += (json.empty() ? "{\"tree\":\"" : ",{\"tree\":\"") + tree.name + "\",\"policy\":\"" + policy +
              "\",\"us\":" + std::to_string(us) + ",\"floor_us\":" + std::to_string(floor_us) + "}";
    }
  }
  for (size_t i = 0; i < options.policies.size(); ++i)
    std::printf("geometric mean of %s over floor*: %.3f\n", std::string(policy_name(options.policies[i])).c_str(),
                std::exp(log_ratio[i] / trees.size()));
  std::printf("{\"copy_tb_s\":%.3f,\"layers\":%d,\"rows\":[%s]}\n", options.copy_bytes_per_s * 1e-12,
              options.num_layers, json.c_str());
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
    TreeBenchOptions options;
    if (argc > 2) options.num_layers = std::atoi(argv[2]);
    for (int i = 3; i < argc; ++i) options.policies.push_back(parse_policy(argv[i]));
    if (options.policies.empty()) options.policies = {Policy::kDeftFlatten};
    return bench(argv[1], options);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
