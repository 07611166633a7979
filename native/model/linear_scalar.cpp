// The portable kernels: one row of x and one panel of 16 outputs at a time, in loops over the 16 lanes that compilers
// turn into whatever vectors the target has. One row at a time also makes rows independent by construction.
#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "model/linear_kernels.h"

namespace deftree {
namespace {

// Adding and taking away 1.5 * 2^23 rounds |value| < 2^22 to the nearest even integer.
float round_to_even(float value) {
  constexpr float kMagic = 12582912.0f;
  return (value + kMagic) - kMagic;
}

void quantize_row(const PackedMatrix& m, const Activations& a, int row, int start_factor) {
  const float* x = a.x + static_cast<size_t>(row) * a.ldx;
  int8_t* codes = a.codes + static_cast<size_t>(row) * m.num_blocks * kBlock;
  float* scales = a.scales + static_cast<size_t>(row) * m.num_blocks;
  int32_t* starts = a.starts + static_cast<size_t>(row) * m.groups_per_row();
  float* sums = a.sums + static_cast<size_t>(row) * m.groups_per_row();
  for (int b = 0; b < m.num_blocks; ++b, codes += kBlock) {
    float values[kBlock] = {};
    std::copy_n(x + b * kBlock, std::min(kBlock, m.in_features - b * kBlock), values);
    // Compared as integers, so that NaN is above infinity.
    uint32_t largest = 0;
    for (int k = 0; k < kBlock; ++k) largest = std::max(largest, std::bit_cast<uint32_t>(values[k]) & 0x7fffffffu);
    const float absmax = std::bit_cast<float>(largest);
    const bool finite = largest < 0x7f800000u;
    const float inverse = finite && absmax > kLeastAbsmax ? 127.0f / absmax : 0.0f;
    scales[b] = !finite ? std::numeric_limits<float>::quiet_NaN() : inverse == 0.0f ? 0.0f : absmax / 127.0f;
    for (int k = 0; k < kBlock; ++k) {
      codes[k] = finite ? static_cast<int8_t>(static_cast<int32_t>(round_to_even(values[k] * inverse))) : int8_t{0};
    }
    for (int begin = 0; begin < kBlock; begin += m.group_len) {
      int32_t sum = 0;
      for (int k = 0; k < m.group_len; ++k) sum += codes[begin + k];
      *starts++ = start_factor * sum;
      *sums++ = scales[b] * static_cast<float>(sum);
    }
  }
}

// dst: [16]
void f32_panel(const PackedMatrix& m, int panel, const float* x, float* dst) {
  const float* w = reinterpret_cast<const float*>(m.weights + panel * m.panel_bytes());
  float even[kPanel] = {}, odd[kPanel] = {};
  for (int k = 0; k < m.in_features; ++k, w += kPanel) {
    float* sum = k % 2 == 0 ? even : odd;
    for (int lane = 0; lane < kPanel; ++lane) sum[lane] += w[lane] * x[k];
  }
  for (int lane = 0; lane < kPanel; ++lane) dst[lane] = even[lane] + odd[lane];
}

void bf16_panel(const PackedMatrix& m, int panel, const float* x, float* dst) {
  const int num_pairs = (m.in_features + 1) / 2;
  const auto* w = reinterpret_cast<const uint16_t*>(m.weights + panel * m.panel_bytes());
  float even[kPanel] = {}, odd[kPanel] = {};
  for (int pair = 0; pair < num_pairs; ++pair, w += 2 * kPanel) {
    const float x0 = x[2 * pair], x1 = 2 * pair + 1 < m.in_features ? x[2 * pair + 1] : 0.0f;
    for (int lane = 0; lane < kPanel; ++lane) {
      even[lane] += bf16_to_f32(w[2 * lane]) * x0;
      odd[lane] += bf16_to_f32(w[2 * lane + 1]) * x1;
    }
  }
  for (int lane = 0; lane < kPanel; ++lane) dst[lane] = even[lane] + odd[lane];
}

// sums[lane] += the dot products of four inputs. w: [16, 4]; x: [4].
void dot4(const uint8_t* w, const int8_t* x, int32_t* sums) {
  int32_t products[4 * kPanel];
  int16_t repeated[4 * kPanel];
  for (int i = 0; i < 4 * kPanel; ++i) repeated[i] = x[i % 4];
  for (int i = 0; i < 4 * kPanel; ++i) products[i] = static_cast<int16_t>(w[i]) * repeated[i];
  for (int lane = 0; lane < kPanel; ++lane) {
    sums[lane] += products[4 * lane] + products[4 * lane + 1] + products[4 * lane + 2] + products[4 * lane + 3];
  }
}

void unpack_nibbles(const uint8_t* src, uint8_t* dst) {
  for (int i = 0; i < 256; ++i) {
    dst[i] = src[i] & 15;
    dst[i + 256] = src[i] >> 4;
  }
}

void integer_panel(const PackedMatrix& m, int panel, const Activations& a, int row, float* dst) {
  const bool nibbles = m.format == WeightFormat::kI4;
  const int block_bytes = nibbles ? 256 : 512;
  const int groups = m.groups_per_row();
  const size_t first_group = static_cast<size_t>(panel) * groups * kPanel;
  const auto* w = reinterpret_cast<const uint8_t*>(m.weights + panel * m.panel_bytes());
  const uint16_t* scales = m.scales + first_group;
  const uint16_t* mins = m.has_min ? m.mins + first_group : nullptr;
  const int8_t* codes = a.codes + static_cast<size_t>(row) * m.num_blocks * kBlock;
  const float* x_scales = a.scales + static_cast<size_t>(row) * m.num_blocks;
  const int32_t* starts = a.starts + static_cast<size_t>(row) * groups;
  const float* sums = a.sums + static_cast<size_t>(row) * groups;

  float total[kPanel] = {};
  uint8_t unpacked[512];
  for (int b = 0; b < m.num_blocks; ++b, w += block_bytes) {
    if (nibbles) unpack_nibbles(w, unpacked);
    const uint8_t* block = nibbles ? unpacked : w;
    for (int begin = 0; begin < kBlock; begin += m.group_len) {
      int32_t dot[kPanel];
      std::fill_n(dot, kPanel, *starts++);
      for (int k = begin; k < begin + m.group_len; k += 4, codes += 4) dot4(block + k * kPanel, codes, dot);
      for (int lane = 0; lane < kPanel; ++lane) {
        total[lane] += static_cast<float>(dot[lane]) * (f16_to_f32(scales[lane]) * x_scales[b]);
      }
      scales += kPanel;
      if (mins != nullptr) {
        for (int lane = 0; lane < kPanel; ++lane) total[lane] += f16_to_f32(mins[lane]) * *sums;
        mins += kPanel;
      }
      ++sums;
    }
  }
  for (int lane = 0; lane < kPanel; ++lane) dst[lane] = total[lane] * m.unit[panel * kPanel + lane];
}

void multiply(const PackedMatrix& m, const Activations& a, const LinearTask& task, float* y, int ldy) {
  for (int panel = task.panel_begin; panel < task.panel_end; ++panel) {
    for (int row = task.row_begin; row < task.row_end; ++row) {
      const float* x = a.x + static_cast<size_t>(row) * a.ldx;
      float out[kPanel];
      switch (m.format) {
        case WeightFormat::kF32: f32_panel(m, panel, x, out); break;
        case WeightFormat::kBf16: bf16_panel(m, panel, x, out); break;
        case WeightFormat::kI8:
        case WeightFormat::kI4: integer_panel(m, panel, a, row, out); break;
      }
      std::copy_n(out, m.lanes(panel), y + static_cast<size_t>(row) * ldy + panel * kPanel);
    }
  }
}

}  // namespace

const LinearKernels kLinearScalar{"scalar", 0, quantize_row, nullptr, multiply};

}  // namespace deftree
