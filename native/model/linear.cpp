#include "model/linear.h"

#include <algorithm>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "common/error.h"
#include "model/linear_kernels.h"

namespace deftree {
namespace {

// Up to this many values of x the calling thread quantises or rounds alone: a parallel region costs more.
constexpr int64_t kSerialValues = 16384;
// Rows of x that stay near the core while the weights of a task stream by.
constexpr int kTaskRows = 64;
// Least work of a task in multiply-adds, so that handing it out costs little.
constexpr int64_t kMinTaskMacs = 65536;
constexpr int kTasksPerThread = 4;

size_t round_up_64(size_t bytes) { return (bytes + 63) / 64 * 64; }

struct Grid {
  int row_blocks, panel_groups, panels_per_group;
};

Grid split(const PackedMatrix& matrix, int num_rows, int num_threads) {
  const int row_blocks = (num_rows + kTaskRows - 1) / kTaskRows;
  const int64_t panel_macs = int64_t{kPanel} * matrix.in_features * std::min(num_rows, kTaskRows);
  const int wanted_groups = std::max(1, (num_threads * kTasksPerThread + row_blocks - 1) / row_blocks);
  const int64_t panels = std::max<int64_t>({1, (matrix.num_panels + wanted_groups - 1) / wanted_groups,
                                            kMinTaskMacs / std::max<int64_t>(1, panel_macs)});
  const int panels_per_group = static_cast<int>(std::min<int64_t>(panels, matrix.num_panels));
  return {row_blocks, (matrix.num_panels + panels_per_group - 1) / panels_per_group, panels_per_group};
}

}  // namespace

AlignedBuffer::AlignedBuffer(size_t size)
    : data_(static_cast<std::byte*>(::operator new(size, std::align_val_t{64}, std::nothrow))), size_(size) {
  if (data_ == nullptr) {
    throw Error(ErrorCode::kOutOfMemory, "out of memory: " + std::to_string(size) + " bytes wanted",
                {{"wanted_bytes", static_cast<double>(size)}});
  }
}

AlignedBuffer::~AlignedBuffer() {
  if (data_ != nullptr) ::operator delete(data_, std::align_val_t{64});
}

AlignedBuffer::AlignedBuffer(AlignedBuffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

AlignedBuffer& AlignedBuffer::operator=(AlignedBuffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

struct LinearWorkspace::Impl {
  AlignedBuffer buffer;

  std::byte* reserve(size_t bytes) {
    if (buffer.size() < bytes) buffer = AlignedBuffer(bytes);
    return buffer.data();
  }

  // Room for `rows` rows as `matrix` wants them.
  Activations rounded(const PackedMatrix& matrix, int rows) {
    Activations a{};
    a.bf16 = reinterpret_cast<uint16_t*>(reserve(static_cast<size_t>(rows) * matrix.num_blocks * kBlock * 2));
    return a;
  }
  Activations quantized(const PackedMatrix& matrix, int rows) {
    const size_t groups = static_cast<size_t>(rows) * matrix.groups_per_row();
    const size_t blocks = static_cast<size_t>(rows) * matrix.num_blocks;
    const size_t codes_bytes = round_up_64(blocks * kBlock);
    const size_t scales_bytes = round_up_64(blocks * sizeof(float));
    const size_t groups_bytes = round_up_64(groups * sizeof(float));
    Activations a{};
    std::byte* at = reserve(codes_bytes + scales_bytes + 2 * groups_bytes);
    a.codes = reinterpret_cast<int8_t*>(at);
    a.scales = reinterpret_cast<float*>(at += codes_bytes);
    a.starts = reinterpret_cast<int32_t*>(at += scales_bytes);
    a.sums = reinterpret_cast<float*>(at += groups_bytes);
    return a;
  }
};

LinearWorkspace::LinearWorkspace() : impl_(std::make_unique<Impl>()) {}
LinearWorkspace::~LinearWorkspace() = default;

std::span<const LinearKernels* const> available_linear_kernels() {
  static const std::vector<const LinearKernels*> all = [] {
    std::vector<const LinearKernels*> sets{&kLinearScalar};
#if defined(__x86_64__)
    const CpuLevel level = best_cpu_level(cpu_features());
    if (level >= CpuLevel::kAvx2) sets.push_back(&kLinearAvx2);
    if (level >= CpuLevel::kAvx512) sets.push_back(&kLinearAvx512);
    if (level >= CpuLevel::kAvx512 && cpu_features().avx512bf16) sets.push_back(&kLinearAvx512Bf16);
    if (level >= CpuLevel::kAmx) sets.push_back(&kLinearAmx);
#endif
    return sets;
  }();
  return all;
}

const LinearKernels& linear_kernels() {
  static const LinearKernels& best = [&]() -> const LinearKernels& {
#if defined(__x86_64__)
    if (cpu_level() >= CpuLevel::kAmx) return kLinearAmx;
    if (cpu_level() >= CpuLevel::kAvx512) return cpu_features().avx512bf16 ? kLinearAvx512Bf16 : kLinearAvx512;
    if (cpu_level() >= CpuLevel::kAvx2) return kLinearAvx2;
#endif
    return kLinearScalar;
  }();
  return best;
}

void linear_with(const LinearKernels& kernels, const LinearWeight& weight, const float* x, int ldx, float* y, int ldy,
                 int num_rows, LinearWorkspace& workspace, ThreadPool& pool) {
  const PackedMatrix& matrix = weight.impl().matrix;
  if (num_rows <= 0 || matrix.num_panels == 0) return;

  const bool integer = matrix.format == WeightFormat::kI8 || matrix.format == WeightFormat::kI4;
  const bool rounded = matrix.format == WeightFormat::kBf16 && kernels.round_row != nullptr;
  Activations activations = integer   ? workspace.impl().quantized(matrix, num_rows)
                            : rounded ? workspace.impl().rounded(matrix, num_rows)
                                      : Activations{};
  activations.x = x;
  activations.ldx = ldx;
  if (integer || rounded) {
    const int start_factor = (matrix.wide_codes() ? kernels.signed_offset : 0) - matrix.zero;
    const auto prepare = [&](int row, int) {
      integer ? kernels.quantize_row(matrix, activations, row, start_factor)
              : kernels.round_row(matrix, activations, row);
    };
    if (int64_t{num_rows} * matrix.in_features <= kSerialValues) {
      for (int row = 0; row < num_rows; ++row) prepare(row, 0);
    } else {
      pool.run(num_rows, prepare);
    }
  }

  const Grid grid = split(matrix, num_rows, pool.num_threads());
  pool.run(grid.row_blocks * grid.panel_groups, [&](int task, int) {
    const int row_begin = task / grid.panel_groups * kTaskRows;
    const int panel_begin = task % grid.panel_groups * grid.panels_per_group;
    kernels.multiply(matrix, activations,
                     {row_begin, std::min(row_begin + kTaskRows, num_rows), panel_begin,
                      std::min(panel_begin + grid.panels_per_group, matrix.num_panels)},
                     y, ldy);
  });
}

void linear(const LinearWeight& weight, const float* x, int ldx, float* y, int ldy, int num_rows,
            LinearWorkspace& workspace, ThreadPool& pool) {
  linear_with(linear_kernels(), weight, x, ldx, y, ldy, num_rows, workspace, pool);
}

void linear_reference(const LinearWeight& weight, const float* x, int ldx, float* y, int ldy, int num_rows) {
  const int in_features = weight.in_features();
  std::vector<float> w(static_cast<size_t>(in_features));
  for (int n = 0; n < weight.out_features(); ++n) {
    weight.dequantize_row(n, w.data());
    for (int r = 0; r < num_rows; ++r) {
      const float* row = x + static_cast<size_t>(r) * ldx;
      double sum = 0;
      for (int k = 0; k < in_features; ++k) sum += static_cast<double>(w[k]) * row[k];
      y[static_cast<size_t>(r) * ldy + n] = static_cast<float>(sum);
    }
  }
}

}  // namespace deftree
