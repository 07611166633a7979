// run() with every policy, kernel, shape and storage type against the dense oracle, and the oracles against each other.
#include "attention/attention.h"

#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "attention/kernels.h"
#include "attention/kv_layout.h"
#include "attention/test_trees.h"
#include "common/error.h"
#include "common/test.h"

namespace deftree::attention {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr double kEpsilon = std::numeric_limits<float>::epsilon();

std::vector<CpuLevel> levels() {
  std::vector<CpuLevel> all = {CpuLevel::kScalar};
  const CpuLevel best = best_cpu_level(cpu_features());
  if (best >= CpuLevel::kAvx2) all.push_back(CpuLevel::kAvx2);
  if (best >= CpuLevel::kAvx512) all.push_back(CpuLevel::kAvx512);
  return all;
}

// One layer with random K and V in the slots the tree uses and NaN in all others, and random queries.
struct Layer {
  TreeSnapshot tree;
  AttentionShape shape;
  KvType type;
  std::vector<float> k32, v32;
  std::vector<uint16_t> k16, v16;
  std::vector<float> q, out;

  Layer(TreeSnapshot snapshot, int num_pages, const AttentionShape& attention_shape, KvType kv_type, unsigned seed)
      : tree(std::move(snapshot)), shape(attention_shape), type(kv_type) {
    const size_t size = static_cast<size_t>(num_pages) * shape.num_kv_heads * shape.head_dim * shape.page_size;
    if (type == KvType::kF32) {
      k32.assign(size, kNaN);
      v32.assign(size, kNaN);
    } else {
      k16.assign(size, 0x7e00);
      v16.assign(size, 0x7e00);
    }
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    std::vector<int32_t> slots;
    for (const PageSpan& span : tree.spans) {
      for (int slot = span.begin; slot < span.end; ++slot) slots.push_back(span.page * shape.page_size + slot);
    }
    std::vector<float> k(slots.size() * shape.num_kv_heads * shape.head_dim), v(k.size());
    for (float& x : k) x = normal(random);
    for (float& x : v) x = normal(random);
    ThreadPool pool(1);
    append_kv(shape, kv(), k.data(), v.data(), slots.data(), static_cast<int>(slots.size()), pool);
    q.resize(static_cast<size_t>(tree.num_queries()) * shape.num_qo_heads * shape.head_dim);
    for (float& x : q) x = normal(random);
    out.resize(q.size());
  }

  CpuKvLayer kv() {
    if (type == KvType::kF32) return {k32.data(), v32.data(), type};
    return {k16.data(), v16.data(), type};
  }
  CpuAttentionParams params() {
    std::fill(out.begin(), out.end(), kNaN);
    return {shape, 1 / std::sqrt(static_cast<float>(shape.head_dim)), q.data(), out.data(), kv()};
  }
};

// The same attention by naive float32 code that reads the same storage type: what the kernels' error is measured by.
std::vector<float> naive_float(Layer& layer) {
  const AttentionShape& shape = layer.shape;
  const CpuAttentionParams params = layer.params();
  const TreeSnapshot& tree = layer.tree;
  for (int node = 0; node < tree.num_nodes(); ++node) {
    for (int query = tree.query_indptr[node]; query < tree.query_indptr[node + 1]; ++query) {
      for (int head = 0; head < shape.num_qo_heads; ++head) {
        const float* q = params.q + (query * shape.num_qo_heads + head) * shape.head_dim;
        float* out = params.out + (query * shape.num_qo_heads + head) * shape.head_dim;
        const int kv_head = head / shape.group_size();
        std::vector<float> scores;
        std::vector<std::pair<int, int>> keys;
        for (int above = node; above >= 0; above = tree.parent[above]) {
          int token = 0;
          for (int s = tree.span_indptr[above]; s < tree.span_indptr[above + 1]; ++s) {
            for (int slot = tree.spans[s].begin; slot < tree.spans[s].end; ++slot, ++token) {
              const int own = query - tree.query_indptr[node];
              bool visible = above != node || tree.mask[node] == NodeMask::kNone ||
                             (tree.mask[node] == NodeMask::kCausal && token <= own);
              if (above == node && tree.mask[node] == NodeMask::kTree) {
                for (int t = own; t >= 0; t = tree.tree_parent[tree.tree_parent_indptr[node] + t])
                  visible |= t == token;
              }
              if (!visible) continue;
              float score = 0;
              for (int d = 0; d < shape.head_dim; ++d)
                score += q[d] * load_element(params.kv.k, params.kv.type,
                                             k_offset(shape, tree.spans[s].page, kv_head, slot, d));
              scores.push_back(score * params.sm_scale);
              keys.push_back({tree.spans[s].page, slot});
            }
          }
        }
        std::fill_n(out, shape.head_dim, 0.0f);
        if (scores.empty()) continue;
        const float max = *std::max_element(scores.begin(), scores.end());
        float sum = 0;
        for (float& score : scores) sum += score = std::exp(score - max);
        for (size_t i = 0; i < keys.size(); ++i) {
          for (int d = 0; d < shape.head_dim; ++d)
            out[d] +=
                scores[i] / sum *
                load_element(params.kv.v, params.kv.type, v_offset(shape, keys[i].first, kv_head, keys[i].second, d));
        }
      }
    }
  }
  return layer.out;
}

double max_error(const std::vector<float>& a, const std::vector<float>& b) {
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double error = std::abs(static_cast<double>(a[i]) - b[i]);
    if (!(error <= worst)) worst = error;  // NaN is the worst
  }
  return worst;
}

std::vector<float> dense(Layer& layer) {
  reference_dense(layer.params(), layer.tree);
  return layer.out;
}

// Outputs are means of standard normal values, at most about 4 in size: the floor is 4 roundings of such a number.
constexpr double kFloor = 4 * 4 * kEpsilon / 2;

void check_all_kernels(Layer& layer, const PlanDevice& device, ThreadPool& pool, const std::string& what) {
  const std::vector<float> exact = dense(layer);
  const double tolerance = 2 * max_error(naive_float(layer), exact) + kFloor;
  Plan plan;
  CpuWorkspace workspace;
  for (Policy policy : all_policies()) {
    make_plan(layer.tree, policy, layer.shape, device, plan);
    reference_plan(layer.params(), plan);
    const std::string where = what + ", " + std::string(policy_name(policy));
    if (!(max_error(layer.out, exact) <= kEpsilon * 4)) test::fail(__FILE__, __LINE__, where + ": reference_plan");
    for (CpuLevel level : levels()) {
      // Poisoned, so that a partial slot that is merged but not written shows.
      std::fill(workspace.partial_o.begin(), workspace.partial_o.end(), kNaN);
      std::fill(workspace.partial_lse.begin(), workspace.partial_lse.end(), kNaN);
      run_with_level(level, layer.params(), plan, workspace, pool);
      const double error = max_error(layer.out, exact);
      if (error <= tolerance) continue;
      test::fail(__FILE__, __LINE__,
                 where + ", " + std::string(cpu_level_name(level)) + ": error " + std::to_string(error) +
                     ", tolerance " + std::to_string(tolerance));
    }
  }
}

std::string shape_text(const AttentionShape& shape, KvType type) {
  return std::to_string(shape.num_qo_heads) + "/" + std::to_string(shape.num_kv_heads) + " heads of " +
         std::to_string(shape.head_dim) + (type == KvType::kF16 ? " f16" : " f32") + ", pages of " +
         std::to_string(shape.page_size);
}

}  // namespace

TEST(every_policy_and_kernel_on_every_shape) {
  std::mt19937 random(1);
  NamedTree tree = random_tree(random, 12);
  tree.nodes.push_back({-1, 0});  // a query with no keys
  tree.queries.push_back(static_cast<int32_t>(tree.nodes.size()) - 1);
  tree.nodes.push_back({-1, 100});
  tree.nodes.push_back({static_cast<int32_t>(tree.nodes.size()) - 1, 40, NodeMask::kCausal});
  ThreadPool pool(2);
  for (int group_size : {1, 2, 3, 4, 8}) {
    for (int head_dim : {64, 128}) {
      for (KvType type : {KvType::kF32, KvType::kF16}) {
        const AttentionShape shape{2 * group_size, 2, head_dim, 16};
        TreeSnapshot snapshot = tree.snapshot(16);
        const int num_pages = scatter_pages(snapshot, random);
        Layer layer(std::move(snapshot), num_pages, shape, type, 7);
        check_all_kernels(layer, {2, 32, 32}, pool, shape_text(shape, type));
      }
    }
  }
}

TEST(random_trees_and_devices) {
  ThreadPool pool(2);
  for (unsigned seed = 0; seed < 60; ++seed) {
    std::mt19937 random(seed);
    auto one_of = [&](std::initializer_list<int> values) {
      return values.begin()[std::uniform_int_distribution<size_t>(0, values.size() - 1)(random)];
    };
    const int kv_heads = one_of({1, 2, 3});
    const AttentionShape shape{kv_heads * one_of({1, 2, 3, 4, 8}), kv_heads, one_of({64, 128}), 16};
    const KvType type = one_of({0, 1}) != 0 ? KvType::kF16 : KvType::kF32;
    TreeSnapshot tree = random_tree(random, 16).snapshot(16);
    const int num_pages = scatter_pages(tree, random);
    const PlanDevice device{one_of({1, 2, 16}), one_of({1, 16, 100}), one_of({1, 8, 24, 64, 1000})};
    Layer layer(std::move(tree), num_pages, shape, type, seed);
    check_all_kernels(layer, device, pool, "tree " + std::to_string(seed) + ", " + shape_text(shape, type));
  }
}

TEST(other_pages_and_head_dims_take_the_plain_kernel) {
  ThreadPool pool(2);
  for (int page_size : {1, 5, 16, 32}) {
    for (int head_dim : {48, 64, 80}) {
      std::mt19937 random(page_size * head_dim);
      TreeSnapshot tree = random_tree(random, 8).snapshot(page_size);
      const int num_pages = scatter_pages(tree, random);
      const AttentionShape shape{4, 2, head_dim, page_size};
      const KvType type = head_dim == 80 ? KvType::kF16 : KvType::kF32;
      Layer layer(std::move(tree), num_pages, shape, type, 3);
      check_all_kernels(layer, {2, 16, 16}, pool, shape_text(shape, type));
    }
  }
}

TEST(large_scores_do_not_overflow) {
  std::mt19937 random(5);
  TreeSnapshot tree = star_tree(100, 3, 40).snapshot(16);
  const int num_pages = scatter_pages(tree, random);
  Layer layer(std::move(tree), num_pages, {4, 2, 64, 16}, KvType::kF32, 5);
  for (float& x : layer.q) x *= 1000;
  ThreadPool pool(1);
  // Scores of some thousands: the softmax is one-hot up to the scores' own rounding, which 2x the naive error covers.
  check_all_kernels(layer, {2, 32, 32}, pool, "scores of thousands");
}

TEST(same_plan_gives_same_bits_on_any_number_of_threads) {
  std::mt19937 random(9);
  TreeSnapshot tree = star_tree(500, 8, 60).snapshot(16);
  const int num_pages = scatter_pages(tree, random);
  Layer layer(std::move(tree), num_pages, {6, 2, 64, 16}, KvType::kF16, 9);
  Plan plan;
  make_plan(layer.tree, Policy::kDeftFlatten, layer.shape, {4, 32, 64}, plan);
  CHECK(plan.num_partials > 0);
  CpuWorkspace workspace;
  ThreadPool one(1), three(3);
  run(layer.params(), plan, workspace, one);
  const std::vector<float> first = layer.out;
  for (int i = 0; i < 5; ++i) {
    run(layer.params(), plan, workspace, three);
    CHECK(layer.out == first);
  }
}

TEST(append_kv_writes_its_slots_and_no_other) {
  for (CpuLevel level : levels()) {
    for (KvType type : {KvType::kF32, KvType::kF16}) {
      const AttentionShape shape{2, 2, 64, 16};
      const size_t size = 3 * 2 * 64 * 16;
      std::vector<float> k32(size, kNaN), v32(size, kNaN);
      std::vector<uint16_t> k16(size, 0x7e00), v16(size, 0x7e00);
      const bool half = type == KvType::kF16;
      const CpuKvLayer kv{half ? static_cast<void*>(k16.data()) : k32.data(),
                          half ? static_cast<void*>(v16.data()) : v32.data(), type};
      const int32_t slots[] = {5, -1, 40};
      std::vector<float> k(3 * 2 * 64), v(k.size());
      for (size_t i = 0; i < k.size(); ++i) {
        k[i] = static_cast<float>(i % 1000);  // exact in half precision
        v[i] = -k[i];
      }
      ThreadPool pool(1);
      append_kv_with_level(level, shape, kv, k.data(), v.data(), slots, 3, pool);
      size_t written = 0;
      for (size_t i = 0; i < size; ++i) written += !std::isnan(load_element(kv.k, type, i));
      CHECK_EQ(written, size_t{2 * 2 * 64});
      for (int token : {0, 2}) {
        for (int head = 0; head < 2; ++head) {
          for (int d = 0; d < 64; ++d) {
            const float expected = k[(token * 2 + head) * 64 + d];
            CHECK_EQ(load_element(kv.k, type, k_offset(shape, slots[token] / 16, head, slots[token] % 16, d)),
                     expected);
            CHECK_EQ(load_element(kv.v, type, v_offset(shape, slots[token] / 16, head, slots[token] % 16, d)),
                     -expected);
          }
        }
      }
      copy_slot(shape, kv, 40, 1);
      CHECK_EQ(load_element(kv.k, type, k_offset(shape, 0, 1, 1, 63)), k[(2 * 2 + 1) * 64 + 63]);
      CHECK_EQ(load_element(kv.v, type, v_offset(shape, 0, 1, 1, 63)), v[(2 * 2 + 1) * 64 + 63]);
      CHECK(std::isnan(load_element(kv.k, type, k_offset(shape, 0, 1, 2, 63))));
    }
  }
}

TEST(shapes_and_types_without_a_kernel_are_refused) {
  std::mt19937 random(2);
  TreeSnapshot tree = star_tree(20, 2, 3).snapshot(16);
  Layer layer(std::move(tree), 8, {4, 2, 64, 16}, KvType::kF32, 2);
  Plan plan;
  make_plan(layer.tree, Policy::kRadix, layer.shape, {1, 16, 16}, plan);
  CpuWorkspace workspace;
  ThreadPool pool(1);
  CpuAttentionParams params = layer.params();
  params.kv.type = KvType::kBf16;
  CHECK_ERROR(run(params, plan, workspace, pool), ErrorCode::kBadArgument);
  params = layer.params();
  params.shape.num_kv_heads = 3;
  CHECK_ERROR(run(params, plan, workspace, pool), ErrorCode::kBadArgument);
}

}  // namespace deftree::attention
