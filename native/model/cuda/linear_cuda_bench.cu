// Matrix products of a step on a GPU: linear_cuda_bench [shapes | step | prefill]...
//
// Method: random bf16 weights and inputs; as many weights of a shape as are needed that nothing stays in L2 from one
// replay to the next; products as links of one CUDA graph; warm-up, then the median of the replays. Bandwidths count
// the bytes of weights; beside them the bandwidth of a device-to-device copy (bytes read and written) of the same run.
//
//   shapes    one product after another, for 1 to 128 rows: the streaming kernel and cuBLASLt
//   step      the products of Llama-3-8B's 32 layers and its lm_head with small kernels between them
//   prefill   cuBLASLt on 2048 and 4000 rows
#include <cuda_bf16.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <iterator>
#include <set>
#include <string>
#include <vector>

#include "cuda/launch.cuh"
#include "cuda/stream.h"
#include "model/cuda/cublas_lt.h"
#include "model/cuda/linear_cuda.h"

namespace deftree {
namespace {

using cuda::DeviceBuffer;
using Values = DeviceBuffer<__nv_bfloat16>;

constexpr int kRounds = 20;
constexpr int kBlock = 256;
constexpr int kRowCounts[] = {1, 16, 20, 32, 64, 128};

struct Shape {
  const char* model;
  int out_features, in_features;
  bool is_lm_head = false;
};

constexpr Shape kShapes[] = {
    {"Llama-3-8B", 6144, 4096},           {"Llama-3-8B", 4096, 4096},         {"Llama-3-8B", 28672, 4096},
    {"Llama-3-8B", 4096, 14336},          {"Llama-3-8B", 128256, 4096, true}, {"Llama-3.2-1B", 3072, 2048},
    {"Llama-3.2-1B", 2048, 2048},         {"Llama-3.2-1B", 16384, 2048},      {"Llama-3.2-1B", 2048, 8192},
    {"Llama-3.2-1B", 128256, 2048, true}, {"SmolLM2-135M", 960, 576},         {"SmolLM2-135M", 576, 576},
    {"SmolLM2-135M", 3072, 576},          {"SmolLM2-135M", 576, 1536},        {"SmolLM2-135M", 49152, 576, true},
};
constexpr Shape kLayer[] = {kShapes[0], kShapes[1], kShapes[2], kShapes[3]};
constexpr Shape kLmHead = kShapes[4];
constexpr int kNumLayers = 32;

__global__ void fill_kernel(__nv_bfloat16* out, size_t size, unsigned seed, float scale) {
  for (size_t i = blockIdx.x * size_t{kBlock} + threadIdx.x; i < size; i += size_t{gridDim.x} * kBlock) {
    unsigned h = static_cast<unsigned>(i) * 2654435761u ^ seed * 0x9e3779b9u;
    h = (h ^ h >> 16) * 0x85ebca6bu;
    h = (h ^ h >> 13) * 0xc2b2ae35u;
    out[i] = __float2bfloat16((static_cast<float>(h ^ h >> 16) * 0x1p-31f - 1) * scale);
  }
}

Values random_values(size_t size, unsigned seed, float scale) {
  Values values(size);
  fill_kernel<<<2048, kBlock>>>(values.data(), size, seed, scale);
  cuda::check(cudaDeviceSynchronize(), "fill");
  return values;
}

// Stands for the small kernels of a step: adds up a result and leaves its first `width` features as the next input.
__global__ void fold_kernel(LinearSum sum, __nv_bfloat16* next, int width) {
  cuda::let_next_start();
  cuda::wait_for_previous();
  const int groups = width / 4, index = blockIdx.x * kBlock + threadIdx.x;
  if (index >= sum.num_rows * groups) return;
  const int row = index / groups, feature = index % groups * 4;
  const float4 v = sum.load4(row, feature);
  const __nv_bfloat162 pairs[] = {__floats2bfloat162_rn(v.x, v.y), __floats2bfloat162_rn(v.z, v.w)};
  *reinterpret_cast<uint2*>(next + static_cast<size_t>(row) * width + feature) = reinterpret_cast<const uint2&>(pairs);
}

double median_ms(const cuda::Stream& stream, const std::function<void()>& body) {
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
  std::nth_element(times.begin(), times.begin() + kRounds / 2, times.end());
  return times[kRounds / 2];
}

double replay_ms(const cuda::Stream& stream, const std::function<void()>& body) {
  body();  // chooses algorithms
  stream.synchronize();
  const cuda::Graph graph(stream, body);
  return median_ms(stream, [&] { graph.launch(stream); });
}

double copy_bytes_per_s(const cuda::Stream& stream) {
  constexpr size_t kBytes = size_t{2} << 30;
  DeviceBuffer<std::byte> from(kBytes), to(kBytes);
  const double ms = median_ms(stream, [&] {
    cuda::check(cudaMemcpyAsync(to.data(), from.data(), kBytes, cudaMemcpyDeviceToDevice, stream.get()), "copy");
  });
  return 2.0 * kBytes / (ms * 1e-3);
}

LinearResult result_of(const Shape& shape) { return shape.is_lm_head ? LinearResult::kFloats : LinearResult::kSum; }

struct Layer {
  Shape shape;
  Values weight;
  int id;
};

// Weights, results and both ways to multiply.
struct Model {
  CudaLinear linear{0};
  CublasLt cublas_lt;
  std::vector<Layer> layers;
  DeviceBuffer<float> parts, floats;
  Values values, x[2];

  void add(const Shape& shape) {
    Values weight =
        random_values(static_cast<size_t>(shape.out_features) * shape.in_features, static_cast<unsigned>(layers.size()),
                      1.7f / std::sqrt(static_cast<float>(shape.in_features)));
    const int id = linear.add({weight.data(), shape.out_features, shape.in_features}, result_of(shape));
    layers.push_back({shape, std::move(weight), id});
  }
  void allocate(int max_rows) {
    size_t out = 0, in = 0, floats_out = 0;
    for (const Layer& layer : layers) {
      out = std::max<size_t>(out, layer.shape.out_features);
      in = std::max<size_t>(in, layer.shape.in_features);
      if (layer.shape.is_lm_head) floats_out = layer.shape.out_features;
    }
    parts = DeviceBuffer<float>(linear.max_part_values(max_rows));
    floats = DeviceBuffer<float>(floats_out * max_rows);
    values = Values(out * max_rows);
    for (Values& side : x) side = random_values(in * max_rows, 7, 1.7f);
  }
  size_t weight_bytes() const {
    size_t bytes = 0;
    for (const Layer& layer : layers) bytes += layer.weight.bytes();
    return bytes;
  }

  LinearSum run(const Layer& layer, const __nv_bfloat16* input, int rows, bool ours, cudaStream_t stream) {
    const Shape& shape = layer.shape;
    if (!ours) {
      void* y = values.data();
      if (shape.is_lm_head) y = floats.data();
      cublas_lt.multiply(layer.weight.data(), input, rows, shape.out_features, shape.in_features, y,
                         shape.is_lm_head ? CublasLt::Output::kF32 : CublasLt::Output::kBf16, stream);
      return {values.data(), nullptr, rows, shape.out_features, 0, 0, 0, 0};
    }
    if (!shape.is_lm_head) return linear.run(layer.id, input, rows, parts.data(), values.data(), stream);
    linear.run_to_floats(layer.id, input, rows, floats.data(), stream);
    return {};
  }
  // All layers in order, each on what the one before left.
  void run_chain(int rows, bool ours, cudaStream_t stream) {
    for (size_t i = 0; i < layers.size(); ++i) {
      const LinearSum sum = run(layers[i], x[i % 2].data(), rows, ours, stream);
      if (i + 1 == layers.size()) break;
      const int width = layers[i + 1].shape.in_features;
      cuda::launch_chained(fold_kernel, (rows * (width / 4) + kBlock - 1) / kBlock, kBlock, 0, stream, true, "fold",
                           sum, x[(i + 1) % 2].data(), width);
    }
  }
};

void bench_shapes(const cuda::Stream& stream, double bandwidth, std::string& json) {
  constexpr size_t kColdBytes = size_t{600} << 20;
  std::printf("\n%-13s %7s %6s %5s %9s %7s %6s %9s %7s %6s\n", "model", "out", "in", "rows", "us", "TB/s", "copy",
              "us cuBLAS", "TB/s", "copy");
  for (const Shape& shape : kShapes) {
    Model model;
    do model.add(shape);
    while (model.weight_bytes() < kColdBytes);
    model.allocate(128);
    const double bytes = static_cast<double>(model.layers.front().weight.bytes());
    for (int rows : kRowCounts) {
      double us[2];
      for (bool ours : {false, true}) {
        us[ours] = replay_ms(stream,
                             [&] {
                               for (const Layer& layer : model.layers)
                                 model.run(layer, model.x[0].data(), rows, ours, stream.get());
                             }) *
                   1e3 / model.layers.size();
      }
      std::printf("%-13s %7d %6d %5d %9.2f %7.3f %5.0f%% %9.2f %7.3f %5.0f%%\n", shape.model, shape.out_features,
                  shape.in_features, rows, us[1], bytes / us[1] * 1e-6, bytes / us[1] * 1e8 / bandwidth, us[0],
                  bytes / us[0] * 1e-6, bytes / us[0] * 1e8 / bandwidth);
      char row[160];
      std::snprintf(row, sizeof(row), "%s{\"out\":%d,\"in\":%d,\"rows\":%d,\"us\":%.3f,\"cublas_us\":%.3f}",
                    json.empty() ? "" : ",", shape.out_features, shape.in_features, rows, us[1], us[0]);
      json += row;
    }
    std::fflush(stdout);
  }
}

void bench_step(const cuda::Stream& stream, double bandwidth, std::string& json) {
  Model model;
  for (int layer = 0; layer < kNumLayers; ++layer)
    for (const Shape& shape : kLayer) model.add(shape);
  model.add(kLmHead);
  model.allocate(128);
  const double floor_ms = model.weight_bytes() / bandwidth * 1e3;
  std::printf("\nproducts of a Llama-3-8B step, %.2f GB of weights, %.3f ms at the copy bandwidth\n",
              model.weight_bytes() * 1e-9, floor_ms);
  std::printf("%5s %9s %7s %12s %7s\n", "rows", "ms", "ratio", "ms cuBLASLt", "ratio");
  for (int rows : kRowCounts) {
    double ms[2];
    for (bool ours : {false, true}) ms[ours] = replay_ms(stream, [&] { model.run_chain(rows, ours, stream.get()); });
    std::printf("%5d %9.3f %7.3f %12.3f %7.3f\n", rows, ms[1], ms[1] / floor_ms, ms[0], ms[0] / floor_ms);
    std::fflush(stdout);
    char row[160];
    std::snprintf(row, sizeof(row), "%s{\"rows\":%d,\"ms\":%.4f,\"cublas_ms\":%.4f,\"floor_ms\":%.4f}",
                  json.empty() ? "" : ",", rows, ms[1], ms[0], floor_ms);
    json += row;
  }
}

void bench_prefill(const cuda::Stream& stream, double, std::string& json) {
  std::printf("\n%7s %6s %5s %9s %9s\n", "out", "in", "rows", "us", "TFLOP/s");
  for (const Shape& shape : kLayer) {
    Model model;
    for (int i = 0; i < 4; ++i) model.add(shape);
    model.allocate(4096);
    for (int rows : {2048, 4000}) {
      const double us = replay_ms(stream,
                                  [&] {
                                    for (const Layer& layer : model.layers)
                                      model.run(layer, model.x[0].data(), rows, true, stream.get());
                                  }) *
                        1e3 / model.layers.size();
      const double tflops = 2.0 * rows * shape.out_features * shape.in_features / us * 1e-6;
      std::printf("%7d %6d %5d %9.2f %9.1f\n", shape.out_features, shape.in_features, rows, us, tflops);
      char row[160];
      std::snprintf(row, sizeof(row), "%s{\"out\":%d,\"in\":%d,\"rows\":%d,\"us\":%.3f,\"tflops\":%.1f}",
                    json.empty() ? "" : ",", shape.out_features, shape.in_features, rows, us, tflops);
      json += row;
    }
  }
}

int bench(std::set<std::string> parts) {
  using Part = void (*)(const cuda::Stream&, double, std::string&);
  constexpr std::pair<const char*, Part> kParts[] = {
      {"shapes", bench_shapes}, {"step", bench_step}, {"prefill", bench_prefill}};
  cuda::Stream stream;
  const double bandwidth = copy_bytes_per_s(stream);
  std::printf("copy %.3f TB/s\n", bandwidth * 1e-12);
  std::string json;
  for (const auto& [name, run] : kParts) {
    if (!parts.empty() && !parts.contains(name)) continue;
    std::string rows;
    run(stream, bandwidth, rows);
    json += std::string(",\"") + name + "\":[" + rows + "]";
  }
  std::printf("{\"copy_tb_s\":%.3f%s}\n", bandwidth * 1e-12, json.c_str());
  return 0;
}

}  // namespace
}  // namespace deftree

int main(int argc, char** argv) {
  try {
    return deftree::bench(std::set<std::string>(argv + 1, argv + argc));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
