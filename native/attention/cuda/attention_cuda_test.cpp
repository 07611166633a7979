// run() on the GPU with every policy against the dense oracle. Slots that no token owns hold NaN, and so do outputs and
// partial states before the run.
#include "attention/cuda/attention_cuda.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "attention/cuda/reference_cuda.h"
#include "attention/tree_file.h"
#include "attention/test_trees.h"
#include "common/error.h"
#include "common/test.h"
#include "cuda/gpu_test.h"
#include "cuda/stream.h"

namespace deftree::attention {
namespace {

using test::has_gpu;
using cuda::DeviceBuffer;

struct Layer {
  TreeSnapshot tree;
  AttentionShape shape;
  DeviceBuffer<__nv_bfloat16> k, v, q, out;

  Layer(TreeSnapshot snapshot, int num_pages, const AttentionShape& attention_shape, unsigned seed)
      : tree(std::move(snapshot)), shape(attention_shape) {
    const size_t page_size = static_cast<size_t>(shape.num_kv_heads) * kCudaPageSize * shape.head_dim;
    k = DeviceBuffer<__nv_bfloat16>(num_pages * page_size);
    v = DeviceBuffer<__nv_bfloat16>(num_pages * page_size);
    poison(k);
    poison(v);
    std::vector<int32_t> slots;
    for (const PageSpan& span : tree.spans) {
      for (int slot = span.begin; slot < span.end; ++slot) slots.push_back(span.page * kCudaPageSize + slot);
    }
    const int stride = shape.num_kv_heads * shape.head_dim;
    DeviceBuffer<__nv_bfloat16> tokens(2 * slots.size() * stride);
    fill_random(tokens.data(), tokens.size(), seed);
    DeviceBuffer<int32_t> device_slots(slots.size());
    if (!slots.empty())
      cuda::check(cudaMemcpy(device_slots.data(), slots.data(), device_slots.bytes(), cudaMemcpyHostToDevice), "slots");
    append_kv(shape, kv(), tokens.data(), tokens.data() + slots.size() * stride, stride, device_slots.data(),
              static_cast<int>(slots.size()), nullptr);
    q = DeviceBuffer<__nv_bfloat16>(static_cast<size_t>(tree.num_queries()) * shape.num_qo_heads * shape.head_dim);
    out = DeviceBuffer<__nv_bfloat16>(q.size());
    fill_random(q.data(), q.size(), seed + 1);
  }

  CudaKvLayer kv() const { return {k.data(), v.data()}; }
  CudaAttentionParams params() {
    poison(out);
    return {shape, 1 / std::sqrt(static_cast<float>(shape.head_dim)), q.data(), shape.num_qo_heads * shape.head_dim,
            out.data(), kv()};
  }
  std::vector<float> reference(ReferencePrecision precision) {
    DeviceBuffer<float> result(q.size());
    reference_dense(params(), tree, precision, result.data());
    std::vector<float> values(result.size());
    if (!values.empty())
      cuda::check(cudaMemcpy(values.data(), result.data(), result.bytes(), cudaMemcpyDeviceToHost), "reference");
    return values;
  }
  std::vector<float> result() {
    std::vector<__nv_bfloat16> halves(out.size());
    if (!halves.empty())
      cuda::check(cudaMemcpy(halves.data(), out.data(), out.bytes(), cudaMemcpyDeviceToHost), "result");
    std::vector<float> values(halves.size());
    for (size_t i = 0; i < values.size(); ++i) values[i] = __bfloat162float(halves[i]);
    return values;
  }

  static void poison(const DeviceBuffer<__nv_bfloat16>& buffer) {
    if (buffer.size() > 0) cuda::check(cudaMemset(buffer.data(), 0xff, buffer.bytes()), "poison");
  }
};

struct ErrorNorm {
  double max = 0, relative = 0;  // largest difference; norm of the difference over that of the reference
};

ErrorNorm error_norm(const std::vector<float>& a, const std::vector<float>& exact) {
  double worst = 0, difference = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double error = std::abs(static_cast<double>(a[i]) - exact[i]);
    if (!(error <= worst)) worst = error;  // NaN is the worst
    difference += error * error;
    size += static_cast<double>(exact[i]) * exact[i];
  }
  return {worst, size > 0 ? std::sqrt(difference / size) : std::sqrt(difference)};
}

struct Worst {
  double max_ratio = 0, relative_ratio = 0;
};

// Compares every policy with the oracle; at most twice the error of the same computation in the storage type.
Worst check_policies(Layer& layer, const PlanDevice& device, const CudaDevice& gpu, const std::string& what) {
  const std::vector<float> exact = layer.reference(ReferencePrecision::kF64);
  const ErrorNorm allowed = error_norm(layer.reference(ReferencePrecision::kBf16), exact);
  constexpr double kFloor = 0x1p-9;  // half a rounding of a number of size 1 in bf16
  Plan plan;
  DevicePlan device_plan(layer.shape, gpu);
  cuda::Stream stream;
  Worst worst;
  for (Policy policy : all_policies()) {
    make_plan(layer.tree, policy, layer.shape, device, plan);
    device_plan.upload(plan, stream.get());
    // Twice: the second round finds the counters of the first.
    for (int round = 0; round < 2; ++round) {
      const CudaAttentionParams params = layer.params();
      cuda::check(cudaDeviceSynchronize(), "poison");
      run(params, device_plan, stream.get());
      stream.synchronize();
      const ErrorNorm error = error_norm(layer.result(), exact);
      if (allowed.max > 0) worst.max_ratio = std::max(worst.max_ratio, error.max / allowed.max);
      if (allowed.relative > 0) worst.relative_ratio = std::max(worst.relative_ratio, error.relative / allowed.relative);
      if (error.max <= 2 * allowed.max + kFloor && error.relative <= 2 * allowed.relative + 1e-6) continue;
      test::fail(__FILE__, __LINE__,
                 what + ", " + std::string(policy_name(policy)) + ", round " + std::to_string(round) + ": max error " +
                     std::to_string(error.max) + " (allowed " + std::to_string(2 * allowed.max) + "), relative " +
                     std::to_string(error.relative) + " (" + std::to_string(2 * allowed.relative) + ")");
    }
  }
  return worst;
}

std::string shape_text(const AttentionShape& shape) {
  return std::to_string(shape.num_qo_heads) + "/" + std::to_string(shape.num_kv_heads) + " heads of " +
         std::to_string(shape.head_dim);
}

}  // namespace

TEST(small_every_policy_on_every_shape) {
  if (!has_gpu()) return;
  std::mt19937 random(1);
  NamedTree tree = random_tree(random, 12);
  tree.nodes.push_back({-1, 0});  // a query with no keys
  tree.queries.push_back(static_cast<int32_t>(tree.nodes.size()) - 1);
  tree.nodes.push_back({-1, 100});
  tree.nodes.push_back({static_cast<int32_t>(tree.nodes.size()) - 1, 40, NodeMask::kCausal});
  for (int group_size : {1, 2, 3, 4, 8}) {
    for (int head_dim : {64, 128}) {
      const AttentionShape shape{2 * group_size, 2, head_dim, 16};
      const CudaDevice gpu = query_cuda_device(0, head_dim);
      TreeSnapshot snapshot = tree.snapshot(16);
      const int num_pages = scatter_pages(snapshot, random);
      Layer layer(std::move(snapshot), num_pages, shape, 7);
      check_policies(layer, cuda_plan_device(gpu), gpu, shape_text(shape));
      PlanDevice many_items = cuda_plan_device(gpu);
      many_items.min_chunk_len = 16;
      many_items.max_group_rows = 16;
      many_items.chunk_align = 1;
      check_policies(layer, many_items, gpu, shape_text(shape) + ", many items");
    }
  }
}

// Groups that fill both warpgroups, with and without a remainder, over chunks that some of a group's queries do not see.
TEST(small_wide_groups) {
  if (!has_gpu()) return;
  for (int group_size : {1, 3, 4, 8}) {
    const AttentionShape shape{2 * group_size, 2, 128, 16};
    const CudaDevice gpu = query_cuda_device(0, shape.head_dim);
    TreeSnapshot tree = star_tree(200, 150 / group_size, 20).snapshot(16);
    const int num_pages = pack_small_nodes(tree);
    Layer layer(std::move(tree), num_pages, shape, 11);
    PlanDevice device = cuda_plan_device(gpu);
    for (int processors : {1, device.num_processors}) {
      device.num_processors = processors;
      check_policies(layer, device, gpu, "wide groups, " + shape_text(shape));
    }
  }
}

// Thousands of fresh tokens of one branch: chunked prefill over a shared prefix.
TEST(a_prefill_chunk) {
  if (!has_gpu()) return;
  const AttentionShape shape{8, 2, 128, 16};
  const CudaDevice gpu = query_cuda_device(0, shape.head_dim);
  TreeSnapshot tree = prefill_tree(300, 2100).snapshot(16);
  const int num_pages = pack_small_nodes(tree);
  Layer layer(std::move(tree), num_pages, shape, 5);
  check_policies(layer, cuda_plan_device(gpu), gpu, "prefill");
  const AttentionShape llama{32, 8, 128, 16};
  Plan plan;
  PackedPlan packed;
  make_plan(layer.tree, Policy::kDeftFlatten, llama, cuda_plan_device(gpu), plan);
  CHECK_EQ(plan.num_partials, 0);  // enough items without cutting the KV
  pack_plan(plan, llama, gpu.num_bins(), packed);
  int num_masked = 0;
  for (const KvTile& tile : packed.tiles) num_masked += tile.mask_begin >= 0;
  CHECK(num_masked <= 2 * plan.counters.num_items);  // only where the fresh tokens of the item itself stand
}

TEST(random_trees) {
  if (!has_gpu()) return;
  for (unsigned seed = 0; seed < 40; ++seed) {
    std::mt19937 random(seed);
    auto one_of = [&](std::initializer_list<int> values) {
      return values.begin()[std::uniform_int_distribution<size_t>(0, values.size() - 1)(random)];
    };
    const int kv_heads = one_of({1, 2, 3, 8});
    const AttentionShape shape{kv_heads * one_of({1, 2, 3, 4, 8}), kv_heads, one_of({64, 128}), 16};
    const CudaDevice gpu = query_cuda_device(0, shape.head_dim);
    TreeSnapshot tree = random_tree(random, 40).snapshot(16);
    const int num_pages = scatter_pages(tree, random);
    PlanDevice device = cuda_plan_device(gpu);
    device.num_processors = one_of({1, 8, 264});
    device.min_chunk_len = one_of({1, 16, 64, 100});
    device.max_group_rows = one_of({8, 24, device.max_group_rows});
    device.chunk_align = one_of({1, 4});
    Layer layer(std::move(tree), num_pages, shape, seed);
    check_policies(layer, device, gpu, "tree " + std::to_string(seed) + ", " + shape_text(shape));
  }
}

TEST(trees_of_the_file) {
  const char* path = std::getenv("DEFTREE_TREES");
  if (path == nullptr) {
    std::printf("    skipped: DEFTREE_TREES names no tree file\n");
    return;
  }
  if (!has_gpu()) return;
  const AttentionShape shape{32, 8, 128, 16};
  const CudaDevice gpu = query_cuda_device(0, shape.head_dim);
  for (const NamedTree& named : read_tree_file(path)) {
    TreeSnapshot tree = named.snapshot(16);
    const int num_pages = pack_small_nodes(tree);
    Layer layer(std::move(tree), num_pages, shape, 3);
    const Worst worst = check_policies(layer, cuda_plan_device(gpu), gpu, named.name);
    std::printf("    %-45s error / bf16 error: max %.3f, norm %.3f\n", named.name.c_str(), worst.max_ratio,
                worst.relative_ratio);
  }
}

TEST(a_graph_may_be_replayed) {
  if (!has_gpu()) return;
  const AttentionShape shape{8, 2, 128, 16};
  const CudaDevice gpu = query_cuda_device(0, shape.head_dim);
  TreeSnapshot tree = star_tree(900, 8, 60).snapshot(16);
  const int num_pages = pack_small_nodes(tree);
  Layer layer(std::move(tree), num_pages, shape, 3);
  Plan plan;
  make_plan(layer.tree, Policy::kDeftFlatten, shape, cuda_plan_device(gpu), plan);
  CHECK(plan.num_partials > 0);
  DevicePlan device_plan(shape, gpu);
  cuda::Stream stream;
  device_plan.upload(plan, stream.get());
  const CudaAttentionParams params = layer.params();
  run(params, device_plan, stream.get());
  stream.synchronize();
  const std::vector<float> expected = layer.result();
  const cuda::Graph graph(stream, [&] {
    device_plan.begin_step(stream.get());
    for (int i = 0; i < 3; ++i) run(params, device_plan, stream.get());
  });
  for (int i = 0; i < 10; ++i) {
    Layer::poison(layer.out);
    cuda::check(cudaDeviceSynchronize(), "poison");
    graph.launch(stream);
    stream.synchronize();
    CHECK(layer.result() == expected);
  }
}

TEST(refuses_what_it_has_no_kernel_for) {
  if (!has_gpu()) return;
  CHECK_ERROR(query_cuda_device(0, 96), ErrorCode::kBadArgument);
  const AttentionShape shape{8, 2, 128, 16};
  const CudaDevice gpu = query_cuda_device(0, 128);
  const AttentionShape other_pages{8, 2, 128, 32};
  Plan plan;
  make_plan(star_tree(100, 4, 20).snapshot(32), Policy::kDeftFlatten, other_pages, cuda_plan_device(gpu), plan);
  DevicePlan device_plan(other_pages, gpu);
  CHECK_ERROR(device_plan.upload(plan, nullptr), ErrorCode::kBadArgument);
  PlanDevice wide = cuda_plan_device(gpu);
  wide.max_group_rows = 1024;
  wide.wide_tokens = 0;
  make_plan(star_tree(100, 64, 20).snapshot(16), Policy::kDeftFlatten, shape, wide, plan);
  DevicePlan narrow(shape, gpu);
  CHECK_ERROR(narrow.upload(plan, nullptr), ErrorCode::kBadArgument);
}

}  // namespace deftree::attention
