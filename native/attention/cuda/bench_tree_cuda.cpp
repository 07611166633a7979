#include "attention/cuda/bench_tree_cuda.h"

#include <cmath>
#include <cstddef>
#include <functional>
#include <limits>

#include "attention/cuda/attention_cuda.h"
#include "attention/cuda/reference_cuda.h"
#include "common/error.h"
#include "cuda/stream.h"

namespace deftree::attention {
namespace {

constexpr ElementSizes kCudaSizes{.kv = 2, .qo = 2, .partial = 2};
constexpr DeviceLimits kH100{.copy_bytes_per_s = 0, .flops_per_s = 750e12, .launch_s = 2.5e-6};
constexpr int kWarmUps = 3;

void stop_if(const std::atomic<bool>& cancel) {
  if (cancel.load(std::memory_order_relaxed)) throw Error(ErrorCode::kAborted, "the benchmark was aborted");
}

double median_ms(const cuda::Stream& stream, int num_rounds, const std::function<void()>& body) {
  for (int i = 0; i < kWarmUps; ++i) body();
  std::vector<double> times;
  cuda::Event begin, end;
  for (int i = 0; i < num_rounds; ++i) {
    begin.record(stream);
    body();
    end.record(stream);
    stream.synchronize();
    times.push_back(end.ms_since(begin));
  }
  return median(std::move(times));
}

double copy_bytes_per_s(const cuda::Stream& stream) {
  constexpr size_t kBytes = size_t{2} << 30;
  constexpr int kRounds = 20;
  cuda::DeviceBuffer<std::byte> from(kBytes), to(kBytes);
  const double ms = median_ms(stream, kRounds, [&] {
    cuda::check(cudaMemcpyAsync(to.data(), from.data(), kBytes, cudaMemcpyDeviceToDevice, stream.get()),
                "cannot copy on the GPU");
  });
  return 2.0 * kBytes / (ms * 1e-3);
}

std::string device_name() {
  cudaDeviceProp properties{};
  cuda::check(cudaGetDeviceProperties(&properties, 0), "cannot read the GPU's properties");
  return properties.name;
}

std::vector<float> to_host(const cuda::DeviceBuffer<__nv_bfloat16>& buffer) {
  std::vector<__nv_bfloat16> halves(buffer.size());
  cuda::check(cudaMemcpy(halves.data(), buffer.data(), buffer.bytes(), cudaMemcpyDeviceToHost),
              "cannot copy from the GPU");
  std::vector<float> values(halves.size());
  for (size_t i = 0; i < values.size(); ++i) values[i] = __bfloat162float(halves[i]);
  return values;
}

std::vector<float> reference(const CudaAttentionParams& params, const TreeSnapshot& tree, size_t size,
                             ReferencePrecision precision) {
  const cuda::DeviceBuffer<float> result(size);
  reference_dense(params, tree, precision, result.data());
  std::vector<float> values(size);
  cuda::check(cudaMemcpy(values.data(), result.data(), result.bytes(), cudaMemcpyDeviceToHost),
              "cannot copy from the GPU");
  return values;
}

}  // namespace

TreeBench run_attention_bench_cuda(const TreeSnapshot& tree, const TreeBenchOptions& options,
                                   const std::atomic<bool>& cancel) {
  const AttentionShape shape = bench_shape(options);
  const CudaDevice gpu = query_cuda_device(0, shape.head_dim);
  const cuda::Stream stream;
  TreeBench bench;
  bench.limits = kH100;
  bench.limits.copy_bytes_per_s = options.copy_bytes_per_s > 0 ? options.copy_bytes_per_s : copy_bytes_per_s(stream);
  bench.device = device_name();
  bench.kv_type = "bf16";
  bench.num_queries = tree.num_queries();
  bench.kv_bytes_unique = num_tokens(tree) * 2 * shape.num_kv_heads * shape.head_dim * kCudaSizes.kv * options.num_layers;
  if (tree.num_queries() == 0) return bench;

  const int row_size = shape.num_qo_heads * shape.head_dim;
  const size_t size = static_cast<size_t>(tree.num_queries()) * row_size;
  const size_t layer_size = static_cast<size_t>(num_pages(tree)) * shape.num_kv_heads * shape.head_dim * shape.page_size;
  const cuda::DeviceBuffer<__nv_bfloat16> kv(2 * options.num_layers * layer_size), q(size), out(size);
  fill_random(kv.data(), kv.size(), 1);
  fill_random(q.data(), q.size(), 2);
  const auto params = [&](int layer) {
    return CudaAttentionParams{shape, 1 / std::sqrt(static_cast<float>(shape.head_dim)), q.data(), row_size, out.data(),
                               {kv.data() + 2 * layer * layer_size, kv.data() + (2 * layer + 1) * layer_size}};
  };
  const int last = options.num_layers - 1;
  const std::vector<float> exact = reference(params(last), tree, size, ReferencePrecision::kF64);
  const double type_error =
      max_difference(reference(params(last), tree, size, ReferencePrecision::kBf16), exact);

  Plan plan;
  for (Policy policy : options.policies) {
    stop_if(cancel);
    make_plan(tree, policy, shape, cuda_plan_device(gpu), plan);
    DevicePlan device_plan(shape, gpu);
    device_plan.upload(plan, stream.get());
    const cuda::Graph graph(stream, [&] {
      device_plan.begin_step(stream.get());
      for (int layer = 0; layer <= last; ++layer) run(params(layer), device_plan, stream.get());
    });
    TreeBenchRow& row = bench.rows.emplace_back(count_plan(plan, tree, options, kCudaSizes, bench.limits));
    row.ms = median_ms(stream, options.num_rounds, [&] { graph.launch(stream); });
    cuda::check(cudaMemsetAsync(out.data(), 0xff, out.bytes(), stream.get()), "cannot poison the output");  // NaN
    graph.launch(stream);
    stream.synchronize();
    row.max_error = max_difference(to_host(out), exact);
    row.type_error = type_error;
  }
  return bench;
}

}  // namespace deftree::attention
