// Matrix products on the GPU against float64. Memory around inputs and under outputs holds NaN.
#include <cuda_bf16.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "common/error.h"
#include "common/test.h"
#include "cuda/gpu_test.h"
#include "cuda/launch.cuh"
#include "cuda/stream.h"
#include "model/cuda/linear_cuda.h"
#include "model/cuda/stream_linear.h"

namespace deftree {
namespace {

using test::has_gpu;
using cuda::DeviceBuffer;

// ---- the cut, which needs no GPU
// --------------------------------------------------------------------------------------

TEST(stream_plan_covers_every_unit_once) {
  for (const auto [out, in] : {std::pair{6144, 4096},
                               {4096, 4096},
                               {28672, 4096},
                               {4096, 14336},
                               {128256, 4096},
                               {3072, 2048},
                               {960, 576},
                               {576, 1536},
                               {64, 64},
                               {4, 8},
                               {260, 72}}) {
    for (int rows : {1, 16, 17, 64, 65, 128}) {
      for (int processors : {1, 7, 114, 132}) {
        const StreamPlan plan = plan_stream(out, in, rows, processors);
        CHECK(plan.num_workers <= processors && plan.num_workers <= plan.num_units);
        CHECK(int64_t{plan.num_units} * plan.num_workers < int64_t{1} << 31);
        CHECK(plan.tile_features * plan.step_features == 64 * 128);
        const LinearSum sum = plan.sum(nullptr, rows, out);
        CHECK_EQ(sum.begin_of_worker(0), 0);
        CHECK_EQ(sum.begin_of_worker(plan.num_workers), plan.num_units);
        int most = 0;
        for (int worker = 0; worker < plan.num_workers; ++worker) {
          const int begin = sum.begin_of_worker(worker), end = sum.begin_of_worker(worker + 1);
          CHECK(begin < end);
          CHECK_EQ(sum.worker_of_unit(begin), worker);
          CHECK_EQ(sum.worker_of_unit(end - 1), worker);
          most = std::max(most, end - begin);
        }
        CHECK(most <= (plan.num_units + plan.num_workers - 1) / plan.num_workers);
        int max_parts = 0;
        for (int tile = 0; tile < plan.num_units / plan.units_per_tile; ++tile)
          max_parts = std::max(max_parts, sum.num_parts_of_tile(tile));
        CHECK_EQ(max_parts, plan.max_parts);
      }
    }
  }
}

TEST(stream_plan_of_whole_tiles_has_one_part) {
  const StreamPlan plan = plan_stream_whole_tiles(128256, 4096, 20, 132);
  const LinearSum sum = plan.sum(nullptr, 20, 128256);
  CHECK_EQ(plan.max_parts, 1);
  CHECK_EQ(plan.num_units, (128256 + plan.tile_features - 1) / plan.tile_features);
  for (int tile = 0; tile < plan.num_units; ++tile) CHECK_EQ(sum.num_parts_of_tile(tile), 1);
}

TEST(stream_plan_depends_on_the_bucket_only) {
  for (const auto [first, last] : {std::pair{1, 16}, {17, 32}, {33, 64}, {65, 128}}) {
    const StreamPlan a = plan_stream(4096, 4096, first, 132), b = plan_stream(4096, 4096, last, 132);
    CHECK_EQ(a.bucket_rows, b.bucket_rows);
    CHECK_EQ(a.tile_features, b.tile_features);
    CHECK_EQ(a.num_workers, b.num_workers);
  }
}

// ---- on the GPU
// -------------------------------------------------------------------------------------------------------

constexpr int kBlock = 256;

// Values of about a normal distribution with a deviation of `scale`, by index and seed.
__global__ void fill_kernel(__nv_bfloat16* out, size_t size, unsigned seed, float scale) {
  for (size_t i = blockIdx.x * size_t{kBlock} + threadIdx.x; i < size; i += size_t{gridDim.x} * kBlock) {
    float sum = -2;
    for (unsigned k = 0; k < 4; ++k) {
      unsigned h =
          (static_cast<unsigned>(i) * 4 + k) * 2654435761u ^ seed * 0x9e3779b9u ^ static_cast<unsigned>(i >> 30);
      h = (h ^ h >> 16) * 0x85ebca6bu;
      h = (h ^ h >> 13) * 0xc2b2ae35u;
      sum += static_cast<float>(h ^ h >> 16) * 0x1p-32f;
    }
    out[i] = __float2bfloat16(sum * 1.7320508f * scale);
  }
}

// A warp per element of y: in f64, and naively in f32 with the result rounded to bf16.
__global__ void reference_kernel(const __nv_bfloat16* weight, const __nv_bfloat16* x, int num_rows, int out_features,
                                 int in_features, double* exact, float* naive) {
  const size_t element = (blockIdx.x * size_t{kBlock} + threadIdx.x) / 32;
  if (element >= static_cast<size_t>(num_rows) * out_features) return;
  const __nv_bfloat16* w = weight + element % out_features * in_features;
  const __nv_bfloat16* row = x + element / out_features * in_features;
  double sum = 0;
  float sum_f32 = 0;
  for (int k = threadIdx.x % 32; k < in_features; k += 32) {
    sum += static_cast<double>(__bfloat162float(w[k])) * __bfloat162float(row[k]);
    sum_f32 += __bfloat162float(w[k]) * __bfloat162float(row[k]);
  }
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    sum += __shfl_xor_sync(~0u, sum, lanes);
    sum_f32 += __shfl_xor_sync(~0u, sum_f32, lanes);
  }
  if (threadIdx.x % 32 == 0) {
    exact[element] = sum;
    naive[element] = __bfloat162float(__float2bfloat16(sum_f32));
  }
}

// What a small kernel of the step does: reads a sum; y as f32, and its first `width` features as the next x.
__global__ void fold_kernel(LinearSum sum, float* y, __nv_bfloat16* next, int width) {
  cuda::let_next_start();
  cuda::wait_for_previous();
  const int groups = sum.out_features / 4, index = blockIdx.x * kBlock + threadIdx.x;
  if (index >= sum.num_rows * groups) return;
  const int row = index / groups, feature = index % groups * 4;
  const float4 v = sum.load4(row, feature);
  if (y != nullptr) *reinterpret_cast<float4*>(y + static_cast<size_t>(row) * sum.out_features + feature) = v;
  if (next != nullptr && feature < width) {
    __nv_bfloat16* out = next + static_cast<size_t>(row) * width + feature;
    out[0] = __float2bfloat16(v.x);
    out[1] = __float2bfloat16(v.y);
    out[2] = __float2bfloat16(v.z);
    out[3] = __float2bfloat16(v.w);
  }
}

void fold(const LinearSum& sum, float* y, __nv_bfloat16* next, int width, cudaStream_t stream) {
  int major = 0;
  cuda::check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0), "attribute");
  const int blocks = (sum.num_rows * (sum.out_features / 4) + kBlock - 1) / kBlock;
  cuda::launch_chained(fold_kernel, blocks, kBlock, 0, stream, major >= 9, "fold", sum, y, next, width);
}

template <class T>
void poison(const DeviceBuffer<T>& buffer) {
  if (buffer.size() > 0) cuda::check(cudaMemset(buffer.data(), 0xff, buffer.bytes()), "poison");
}

template <class T>
std::vector<T> to_host(const DeviceBuffer<T>& buffer) {
  std::vector<T> values(buffer.size());
  cuda::check(cudaMemcpy(values.data(), buffer.data(), buffer.bytes(), cudaMemcpyDeviceToHost), "read back");
  return values;
}

// A matrix of random values between two bands of NaN.
struct Matrix {
  static constexpr size_t kBand = 128 * 64;

  DeviceBuffer<__nv_bfloat16> memory;
  size_t size;

  Matrix(int num_rows, int num_columns, unsigned seed, float scale)
      : memory(static_cast<size_t>(num_rows) * num_columns + 2 * kBand),
        size(static_cast<size_t>(num_rows) * num_columns) {
    poison(memory);
    fill(0, size, seed, scale);
  }
  __nv_bfloat16* data() const { return memory.data() + kBand; }
  void fill(size_t first, size_t count, unsigned seed, float scale) {
    if (count > 0) fill_kernel<<<512, kBlock>>>(data() + first, count, seed, scale);
    cuda::check(cudaDeviceSynchronize(), "fill");
  }
};

// One weight of a CudaLinear with memory for its results.
struct Product {
  int out_features, in_features;
  Matrix weight;
  int id;
  DeviceBuffer<float> parts;
  DeviceBuffer<__nv_bfloat16> values;

  Product(CudaLinear& linear, int out, int in, unsigned seed, int max_rows = 256)
      : out_features(out),
        in_features(in),
        weight(out, in, seed, 1 / std::sqrt(static_cast<float>(in))),
        id(linear.add({weight.data(), out, in})),
        parts(linear.max_part_values(max_rows)),
        values(static_cast<size_t>(max_rows) * out) {}

  LinearSum run(CudaLinear& linear, const __nv_bfloat16* x, int num_rows, cudaStream_t stream = nullptr) {
    return linear.run(id, x, num_rows, parts.data(), values.data(), stream);
  }
  std::vector<float> result(CudaLinear& linear, const Matrix& x, int num_rows) {
    DeviceBuffer<float> y(static_cast<size_t>(num_rows) * out_features);
    poison(parts);
    poison(values);
    poison(y);
    fold(run(linear, x.data(), num_rows), y.data(), nullptr, 0, nullptr);
    cuda::check(cudaDeviceSynchronize(), "product");
    return to_host(y);
  }
};

struct Reference {
  std::vector<double> exact;
  std::vector<float> naive;

  Reference(const Matrix& weight, const Matrix& x, int num_rows, int out, int in) {
    DeviceBuffer<double> device_exact(static_cast<size_t>(num_rows) * out);
    DeviceBuffer<float> device_naive(device_exact.size());
    reference_kernel<<<(device_exact.size() * 32 + kBlock - 1) / kBlock, kBlock>>>(
        weight.data(), x.data(), num_rows, out, in, device_exact.data(), device_naive.data());
    cuda::check(cudaDeviceSynchronize(), "reference");
    exact = to_host(device_exact);
    naive = to_host(device_naive);
  }
};

struct ErrorNorm {
  double norm = 0, max = 0;  // relative to the norm of the exact result; largest difference
};

ErrorNorm error_of(const std::vector<float>& y, const std::vector<double>& exact) {
  double difference = 0, size = 0;
  ErrorNorm error;
  for (size_t i = 0; i < exact.size(); ++i) {
    const double d = std::abs(y[i] - exact[i]);
    if (std::isnan(d)) return {NAN, NAN};
    difference += d * d;
    size += exact[i] * exact[i];
    error.max = std::max(error.max, d);
  }
  error.norm = std::sqrt(difference / size);
  return error;
}

// y in f32: the matrix units add 16 products at a time to a sum in f32 and may cut it instead of rounding, so a sum
// loses at most its last bit (2^-23) each time. y in bf16: at most twice the error of rounding a sum in f32.
void check_product(const std::vector<float>& y, const Reference& reference, int in_features, bool is_f32,
                   const std::string& what) {
  const ErrorNorm error = error_of(y, reference.exact), naive = error_of(reference.naive, reference.exact);
  double largest = 0;
  for (double v : reference.exact) largest = std::max(largest, std::abs(v));
  const double cut = (in_features / 16 + 8) * 0x1p-23;
  const bool ok = is_f32 ? error.norm <= cut && error.max <= cut * largest
                         : error.norm <= 2 * naive.norm && error.max <= 2 * naive.max;
  if (!ok) {
    char figures[160];
    std::snprintf(figures, sizeof(figures), ": error %.3g (max %.3g), naive bf16 %.3g (max %.3g), allowed in f32 %.3g",
                  error.norm, error.max, naive.norm, naive.max, cut);
    test::fail(__FILE__, __LINE__, what + figures);
  }
}

void check_shape(int out, int in, const std::vector<int>& row_counts) {
  CudaLinear linear(0);
  Product product(linear, out, in, 1);
  for (int rows : row_counts) {
    const Matrix x(rows, in, 2 + rows, 1);
    const Reference reference(product.weight, x, rows, out, in);
    const LinearSum form = product.run(linear, x.data(), rows);
    check_product(product.result(linear, x, rows), reference, in, form.values == nullptr,
                  std::to_string(out) + " x " + std::to_string(in) + ", " + std::to_string(rows) + " rows");
  }
}

TEST(small_shapes_against_f64) {
  if (!has_gpu()) return;
  for (const auto [out, in] : {std::pair{64, 64}, {192, 64}, {100, 72}, {4, 8}, {260, 256}, {576, 576}, {576, 1536}})
    check_shape(out, in, {1, 2, 15, 16, 17, 33, 64, 65, 127, 128, 200});
}

TEST(every_row_count_against_f64) {
  if (!has_gpu()) return;
  std::vector<int> rows(128);
  for (int i = 0; i < 128; ++i) rows[i] = i + 1;
  check_shape(960, 576, rows);
}

TEST(model_shapes_against_f64) {
  if (!has_gpu()) return;
  for (const auto [out, in] : {std::pair{6144, 4096},
                               {4096, 4096},
                               {28672, 4096},
                               {4096, 14336},
                               {3072, 2048},
                               {2048, 2048},
                               {16384, 2048},
                               {2048, 8192},
                               {3072, 576}})
    check_shape(out, in, {1, 20, 48, 128, 200});
}

TEST(small_floats_against_f64) {
  if (!has_gpu()) return;
  CudaLinear linear(0);
  for (const auto [out, in] : {std::pair{1000, 576}, {49155, 192}}) {
    const Matrix weight(out, in, 1, 1 / std::sqrt(static_cast<float>(in)));
    const int id = linear.add({weight.data(), out, in}, LinearResult::kFloats);
    for (int rows : {1, 16, 20, 50, 128}) {
      const Matrix x(rows, in, 2 + rows, 1);
      const Reference reference(weight, x, rows, out, in);
      DeviceBuffer<float> y(static_cast<size_t>(rows) * out);
      poison(y);
      linear.run_to_floats(id, x.data(), rows, y.data(), nullptr);
      cuda::check(cudaDeviceSynchronize(), "product");
      check_product(to_host(y), reference, in, true, std::to_string(out) + " x " + std::to_string(in) + " as floats");
    }
  }
}

bool same_bits(const float* a, const float* b, int count) { return std::memcmp(a, b, count * sizeof(float)) == 0; }

TEST(small_rows_do_not_depend_on_their_neighbours) {
  if (!has_gpu()) return;
  constexpr int kOut = 576, kIn = 1536;
  CudaLinear linear(0);
  Product product(linear, kOut, kIn, 1);
  for (const auto [few, many] : {std::pair{3, 16}, {17, 32}, {40, 64}, {65, 128}, {150, 200}}) {
    Matrix x(many, kIn, 2, 1);
    const std::vector<float> all = product.result(linear, x, many);
    const std::vector<float> first = product.result(linear, x, few);
    CHECK(same_bits(all.data(), first.data(), few * kOut));
    x.fill(0, (few - 1) * size_t{kIn}, 99, 100);
    x.fill(few * size_t{kIn}, (many - few) * size_t{kIn}, 98, 100);
    const std::vector<float> others = product.result(linear, x, many);
    CHECK(same_bits(all.data() + (few - 1) * kOut, others.data() + (few - 1) * kOut, kOut));
    CHECK(!same_bits(all.data(), others.data(), kOut));
  }
}

// Products with a small kernel between them, as in a step.
struct Chain {
  static constexpr int kWidth = 1024, kLayers = 6;

  CudaLinear linear{0};
  std::vector<std::unique_ptr<Product>> products;
  DeviceBuffer<__nv_bfloat16> x;
  int num_rows;

  explicit Chain(int rows) : x(rows * size_t{kWidth}), num_rows(rows) {
    for (int layer = 0; layer < kLayers; ++layer)
      products.push_back(std::make_unique<Product>(linear, layer % 2 == 0 ? 2 * kWidth : kWidth, kWidth, 10 + layer));
  }
  // `waits`: each kernel ends before the next is launched. All products share one buffer of parts.
  void run(cudaStream_t stream, bool waits) {
    Product& memory = *products.front();
    for (auto& product : products) {
      const LinearSum sum =
          linear.run(product->id, x.data(), num_rows, memory.parts.data(), memory.values.data(), stream);
      if (waits) cuda::check(cudaStreamSynchronize(stream), "chain");
      fold(sum, nullptr, x.data(), kWidth, stream);
      if (waits) cuda::check(cudaStreamSynchronize(stream), "chain");
    }
  }
  void set(const Matrix& input) {
    cuda::check(cudaMemcpy(x.data(), input.data(), x.bytes(), cudaMemcpyDeviceToDevice), "input");
    cuda::check(cudaDeviceSynchronize(), "input");
  }
  std::vector<uint16_t> bits() const {
    std::vector<uint16_t> values(x.size());
    cuda::check(cudaMemcpy(values.data(), x.data(), x.bytes(), cudaMemcpyDeviceToHost), "result");
    return values;
  }
};

TEST(small_graph_of_chained_products_equals_the_plain_order) {
  if (!has_gpu()) return;
  for (int rows : {1, 20, 64, 128}) {
    Chain chain(rows);
    const cuda::Stream stream;
    std::vector<Matrix> inputs;
    std::vector<std::vector<uint16_t>> expected;
    for (unsigned seed : {1u, 2u}) {
      inputs.emplace_back(rows, Chain::kWidth, seed, 1.f);
      chain.set(inputs.back());
      chain.run(stream.get(), true);
      expected.push_back(chain.bits());
    }
    CHECK(expected[0] != expected[1]);
    const cuda::Graph graph(stream, [&] { chain.run(stream.get(), false); });
    for (int replay = 0; replay < 20; ++replay) {
      chain.set(inputs[replay % 2]);
      graph.launch(stream);
      stream.synchronize();
      CHECK(chain.bits() == expected[replay % 2]);
    }
  }
}

TEST(small_two_streams_at_once) {
  if (!has_gpu()) return;
  Chain first(20), second(50);
  const Matrix a(20, Chain::kWidth, 1, 1), b(50, Chain::kWidth, 2, 1);
  const cuda::Stream stream_a, stream_b;
  first.set(a);
  first.run(stream_a.get(), true);
  second.set(b);
  second.run(stream_b.get(), true);
  const std::vector<uint16_t> expected_a = first.bits(), expected_b = second.bits();
  for (int round = 0; round < 10; ++round) {
    first.set(a);
    second.set(b);
    first.run(stream_a.get(), false);
    second.run(stream_b.get(), false);
    stream_a.synchronize();
    stream_b.synchronize();
    CHECK(first.bits() == expected_a);
    CHECK(second.bits() == expected_b);
  }
}

TEST(small_weights_it_cannot_take_are_refused) {
  if (!has_gpu()) return;
  CudaLinear linear(0);
  const Matrix weight(64, 72, 1, 1);
  CHECK_ERROR(linear.add({weight.data(), 64, 70}), ErrorCode::kBadArgument);
  CHECK_ERROR(linear.add({weight.data(), 63, 72}), ErrorCode::kBadArgument);
  CHECK_EQ(linear.add({weight.data(), 63, 72}, LinearResult::kFloats), 0);
}

}  // namespace
}  // namespace deftree
