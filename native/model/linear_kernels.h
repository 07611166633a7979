// Inside of linear.h: the packed matrix, the quantised activations, and the kernel sets that multiply them.
//
// Output features lie in panels of 16, one per lane of an AVX-512 register; input features in blocks of 32.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "model/linear.h"

namespace deftree {

inline constexpr int kPanel = 16;
inline constexpr int kBlock = 32;
// A block of x without a larger magnitude counts as zero: its inverse scale would overflow.
inline constexpr float kLeastAbsmax = 1e-30f;

// 64-byte aligned bytes. The constructor throws kOutOfMemory with the bytes wanted.
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(size_t size);
  ~AlignedBuffer();
  AlignedBuffer(AlignedBuffer&& other) noexcept;
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept;

  std::byte* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// Weights as the kernels read them. P = num_panels, B = num_blocks, G = groups per row (B, or 2 B with group_len 16).
// A weight of kI8 and kI4 is unit[output] * (scale * (code - zero) + min).
struct PackedMatrix {
  WeightFormat format;
  int out_features, in_features;
  int num_panels, num_blocks;
  int group_len;   // 32 or 16
  int zero;        // 0 with has_min
  int max_code;
  bool has_min;

  // kF32: float [P, in_features, 16]
  // kBf16: uint16_t [P, B * 16, 16, 2], zero beyond in_features
  // kI8: uint8_t [P, B, 8, 16, 4]: four neighbouring inputs of an output lie together, as vpdpbusd wants them
  // kI4: uint8_t [P, B, 4, 16, 4]: low nibbles are the first 16 inputs of the block, high nibbles the last 16
  const std::byte* weights;
  const uint16_t* scales;  // f16 [P, G, 16]
  const uint16_t* mins;    // f16 [P, G, 16], with has_min
  // float [P, 16]: a power of two that brings the row's largest scale or minimum near the top of f16's range, so that
  // f16 loses nothing of scales that were f16 (Q4_0 to Q8_0) and at most 2^-12 relative of the others.
  const float* unit;

  // Codes too wide for kernels that multiply signed bytes or sum in 16 bits.
  bool wide_codes() const { return max_code > 63; }
  size_t panel_bytes() const {
    switch (format) {
      case WeightFormat::kF32: return static_cast<size_t>(in_features) * kPanel * sizeof(float);
      case WeightFormat::kBf16: return static_cast<size_t>(num_blocks) * kBlock * kPanel * sizeof(uint16_t);
      case WeightFormat::kI8: return static_cast<size_t>(num_blocks) * kBlock * kPanel;
      case WeightFormat::kI4: return static_cast<size_t>(num_blocks) * kBlock * kPanel / 2;
    }
    return 0;
  }
  int groups_per_row() const { return num_blocks * (kBlock / group_len); }
  int lanes(int panel) const { return out_features - panel * kPanel < kPanel ? out_features - panel * kPanel : kPanel; }
};

struct LinearWeight::Impl {
  PackedMatrix matrix{};
  AlignedBuffer buffer;
};

// The rows of one call. Float formats read x, or bf16 in kernel sets that round rows; kI8 and kI4 read the quantised
// form: x = scale * code per block of 32, code in [-127, 127].
struct Activations {
  const float* x;  // [rows, ldx]
  int ldx;
  uint16_t* bf16;   // [rows, num_blocks * 32], zero beyond in_features
  int8_t* codes;    // [rows, num_blocks * 32], zero beyond in_features
  float* scales;    // [rows, num_blocks]
  int32_t* starts;  // [rows, groups]: start_factor * sum of the group's codes, where the integer dot product begins
  float* sums;      // [rows, groups]: scale * sum of the group's codes, the factor of the weights' minimum
};

// A part of y: rows [row_begin, row_end) x panels [panel_begin, panel_end).
struct LinearTask {
  int row_begin, row_end, panel_begin, panel_end;
};

struct LinearKernels {
  std::string_view name;  // "scalar", "avx2", "avx512" ...
  // The integer dot product takes code - signed_offset (0 or 128) in place of wide codes.
  int signed_offset;
  // Fills row `row` of the quantised form. start_factor: see Activations::starts.
  void (*quantize_row)(const PackedMatrix& matrix, const Activations& activations, int row, int start_factor);
  // Fills row `row` of Activations::bf16, for kBf16. nullptr: the set multiplies x as it is.
  void (*round_row)(const PackedMatrix& matrix, const Activations& activations, int row);
  // y: [rows, ldy], whole matrix; writes the task's part.
  void (*multiply)(const PackedMatrix& matrix, const Activations& activations, const LinearTask& task, float* y,
                   int ldy);
};

// The set that linear() uses, and all that this CPU can run (for tests and benchmarks).
const LinearKernels& linear_kernels();
std::span<const LinearKernels* const> available_linear_kernels();

void linear_with(const LinearKernels& kernels, const LinearWeight& weight, const float* x, int ldx, float* y, int ldy,
                 int num_rows, LinearWorkspace& workspace, ThreadPool& pool);

extern const LinearKernels kLinearScalar;
#if defined(__x86_64__)
extern const LinearKernels kLinearAvx2;
extern const LinearKernels kLinearAvx512;
extern const LinearKernels kLinearAvx512Bf16;
extern const LinearKernels kLinearAmx;
#endif

}  // namespace deftree
