// What each policy costs on a tree: attention_bench --help. Method: random data; `layers` layers with K/V of their own,
// run one after another as a model runs them; one warm-up, then the median and the best of all layers and rounds (rates
// are of the best, which a busy machine disturbs least); policies take turns, so that a neighbour disturbs all alike.
// Beside the times stands the floor of reading the plan's KV at the copy rate of the same run.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <random>
#include <string>
#include <vector>

#include "attention/bench_tree.h"
#include "attention/half.h"
#include "attention/kernels.h"
#include "attention/test_trees.h"
#include "common/error.h"

namespace deftree::attention {
namespace {

constexpr const char* kUsage = R"(attention_bench [options]
  --tree T      star:PREFIX,WIDTH,LEN | draft:PREFIX,LEN,ARITY | prefill:PREFIX,LEN | levels:W,LEN,W,LEN,... | -
                (default star:2000,16,100). "-" reads lines "node PARENT LEN" and "query NODE" from standard input
  --heads Q/KV  query and KV heads (default 9/3)      --dim N      head_dim (default 64)
  --kv f32|f16  storage (default f16)                 --threads N  (default 2)
  --layers N    (default 8)                           --rounds N   (default 9)
  --level L     scalar | avx2 | avx512 (default: the best)
)";

[[noreturn]] void bad(const std::string& what) { throw Error(ErrorCode::kBadArgument, what + "\n" + kUsage); }

struct Options {
  std::string tree = "star:2000,16,100", kv = "f16", level;
  int num_qo_heads = 9, num_kv_heads = 3, head_dim = 64, threads = 2, layers = 8, rounds = 9;
};

Options parse_options(int argc, char** argv) {
  Options o;
  for (int i = 1; i < argc; i += 2) {
    const std::string name = argv[i];
    if (i + 1 == argc) bad("option " + name + " has no value");
    const char* value = argv[i + 1];
    if (name == "--tree")
      o.tree = value;
    else if (name == "--kv")
      o.kv = value;
    else if (name == "--level")
      o.level = value;
    else if (name == "--heads" && std::sscanf(value, "%d/%d", &o.num_qo_heads, &o.num_kv_heads) == 2)
      continue;
    else if (name == "--dim")
      o.head_dim = std::atoi(value);
    else if (name == "--threads")
      o.threads = std::atoi(value);
    else if (name == "--layers")
      o.layers = std::atoi(value);
    else if (name == "--rounds")
      o.rounds = std::atoi(value);
    else
      bad("unknown option " + name);
  }
  if (o.head_dim < 1 || o.threads < 1 || o.layers < 1 || o.rounds < 1) bad("sizes must be at least 1");
  if (o.kv != "f16" && o.kv != "f32") bad("--kv is f16 or f32");
  return o;
}

NamedTree read_tree(std::istream& in) {
  NamedTree t{"stdin", {}, {}};
  std::string kind;
  while (in >> kind) {
    int parent = 0, len = 0, node = 0;
    if (kind == "node" && in >> parent >> len)
      t.nodes.push_back({parent, len});
    else if (kind == "query" && in >> node)
      t.queries.push_back(node);
    else
      bad("standard input: expected \"node PARENT LEN\" or \"query NODE\"");
  }
  return t;
}

NamedTree parse_tree(const std::string& text) {
  if (text == "-") return read_tree(std::cin);
  const size_t colon = text.find(':');
  const std::string family = text.substr(0, colon);
  std::vector<int> n;
  for (size_t at = colon; at != std::string::npos; at = text.find(',', at + 1)) n.push_back(std::atoi(&text[at + 1]));
  if (family == "star" && n.size() == 3) return star_tree(n[0], n[1], n[2]);
  if (family == "draft" && n.size() == 3) return draft_tree(n[0], n[1], n[2]);
  if (family == "prefill" && n.size() == 2) return prefill_tree(n[0], n[1]);
  if (family == "levels" && n.size() >= 2 && n.size() % 2 == 0) {
    std::vector<int> widths, lens;
    for (size_t i = 0; i < n.size(); i += 2) widths.push_back(n[i]), lens.push_back(n[i + 1]);
    return level_tree(widths, lens);
  }
  bad("unknown tree " + text);
}

double now_ms() {
  using namespace std::chrono;
  return duration<double, std::milli>(steady_clock::now().time_since_epoch()).count();
}

class Layers {
 public:
  Layers(const TreeSnapshot& tree, const AttentionShape& shape, KvType type, int layers) : type_(type) {
    int num_pages = 0;
    for (const PageSpan& span : tree.spans) num_pages = std::max(num_pages, span.page + 1);
    const size_t size = static_cast<size_t>(num_pages) * shape.num_kv_heads * shape.head_dim * shape.page_size;
    std::mt19937 random(1);
    std::uniform_real_distribution<float> uniform(-1, 1);
    std::vector<float> noise(4096);
    for (float& x : noise) x = uniform(random);
    auto fill = [&](auto& tensor, auto convert) {
      tensor.resize(size);
      for (size_t i = 0; i < size; ++i) tensor[i] = convert(noise[(i * 31 + i / 4096) % noise.size()]);
    };
    for (int i = 0; i < 2 * layers; ++i) {
      if (type == KvType::kF16)
        fill(halves_.emplace_back(), float_to_half);
      else
        fill(floats_.emplace_back(), [](float x) { return x; });
    }
  }
  CpuKvLayer layer(int i) {
    if (type_ == KvType::kF16) return {halves_[2 * i].data(), halves_[2 * i + 1].data(), type_};
    return {floats_[2 * i].data(), floats_[2 * i + 1].data(), type_};
  }

 private:
  KvType type_;
  std::vector<std::vector<float>> floats_;
  std::vector<std::vector<uint16_t>> halves_;
};

struct Run {
  Policy policy;
  Plan plan;
  std::vector<double> plan_us, layer_ms;
};

int bench(const Options& o) {
  const AttentionShape shape{o.num_qo_heads, o.num_kv_heads, o.head_dim, 16};
  const KvType type = o.kv == "f16" ? KvType::kF16 : KvType::kF32;
  const CpuLevel level = cap_cpu_level(cpu_level(), o.level);
  const NamedTree named = parse_tree(o.tree);
  const TreeSnapshot tree = named.snapshot(shape.page_size);
  ThreadPool pool(o.threads);
  Layers layers(tree, shape, type, o.layers);
  const size_t row_size = static_cast<size_t>(shape.num_qo_heads) * shape.head_dim;
  std::vector<float> q(tree.num_queries() * row_size, 0.5f), out(q.size());
  CpuWorkspace workspace;
  const PlanDevice device = cpu_plan_device(o.threads);

  std::vector<Run> runs;
  for (Policy policy : all_policies()) {
    if (policy != Policy::kFlashDecoding) runs.push_back({policy, {}, {}, {}});  // plans as radix
  }
  for (int round = -1; round < o.rounds; ++round) {
    for (Run& run : runs) {
      const double begin = now_ms();
      make_plan(tree, run.policy, shape, device, run.plan);
      if (round >= 0) run.plan_us.push_back((now_ms() - begin) * 1e3);
      for (int i = 0; i < o.layers; ++i) {
        const CpuAttentionParams params{shape, 1 / std::sqrt(static_cast<float>(o.head_dim)), q.data(), out.data(),
                                        layers.layer(i)};
        const double layer_begin = now_ms();
        run_with_level(level, params, run.plan, workspace, pool);
        if (round >= 0) run.layer_ms.push_back(now_ms() - layer_begin);
      }
    }
  }

  const double copy = copy_bytes_per_s(pool) * 1e-9;  // GB/s
  const double token_bytes = 2.0 * shape.num_kv_heads * shape.head_dim * (type == KvType::kF16 ? 2 : 4);
  const double gflop = 4.0 * runs[0].plan.counters.kv_tokens_unshared * row_size / 1e9;
  std::printf("%s: %d queries, %d/%d heads of %d, %s, %s, %d threads; copy %.1f GB/s\n", named.name.c_str(),
              tree.num_queries(), shape.num_qo_heads, shape.num_kv_heads, shape.head_dim, o.kv.c_str(),
              std::string(cpu_level_name(level)).c_str(), o.threads, copy);
  std::printf("%-16s %8s %10s %10s %10s %9s %9s %9s %7s %9s %9s\n", "policy", "plan us", "median ms", "best ms",
              "floor ms", "KV MB", "GB/s", "GFLOP/s", "items", "partials", "mask KB");
  std::string json;
  for (Run& run : runs) {
    const PlanCounters& c = run.plan.counters;
    const std::string name(policy_name(run.policy));
    const double plan_us = median(run.plan_us), ms = median(run.layer_ms);
    const double best = *std::min_element(run.layer_ms.begin(), run.layer_ms.end());
    const double kv_mb = c.kv_tokens_read * token_bytes / 1e6;
    std::printf("%-16s %8.1f %10.3f %10.3f %10.3f %9.2f %9.1f %9.1f %7d %9d %9.1f\n", name.c_str(), plan_us, ms, best,
                kv_mb / copy, kv_mb, kv_mb / best, gflop / best * 1e3, c.num_items, run.plan.num_partials,
                c.mask_bytes / 1e3);
    char line[256];
    std::snprintf(line, sizeof(line),
                  "%s\"%s\":{\"plan_us\":%.2f,\"median_ms\":%.4f,\"best_ms\":%.4f,\"kv_mb\":%.3f,\"gflop_s\":%.1f}",
                  json.empty() ? "" : ",", name.c_str(), plan_us, ms, best, kv_mb, gflop / best * 1e3);
    json += line;
  }
  std::printf("{\"tree\":\"%s\",\"threads\":%d,\"level\":\"%s\",\"kv\":\"%s\",\"copy_gb_s\":%.2f,\"policies\":{%s}}\n",
              named.name.c_str(), o.threads, std::string(cpu_level_name(level)).c_str(), o.kv.c_str(), copy,
              json.c_str());
  return 0;
}

}  // namespace
}  // namespace deftree::attention

int main(int argc, char** argv) {
  try {
    return deftree::attention::bench(deftree::attention::parse_options(argc, argv));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 2;
  }
}
