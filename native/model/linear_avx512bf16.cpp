// AVX512-BF16 for kBf16: vdpbf16ps multiplies two bfloat16 pairs a lane, twice the rate of float32.
//
// x is rounded to bfloat16 first (2^-9 relative per value, as PyTorch's bfloat16 linear does); products are exact and
// summed in float32, subnormal numbers counting as zero. The other formats go to the AVX-512 kernels.
#include "model/linear_kernels.h"
#include "model/linear_tiles.h"

#if defined(__x86_64__)
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // as in linear_avx512.cpp
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>

#include <bit>

namespace deftree {
namespace {

void quantize_row(const PackedMatrix& m, const Activations& a, int row, int start_factor) {
  kLinearAvx512.quantize_row(m, a, row, start_factor);
}

void round_row(const PackedMatrix& m, const Activations& a, int row) {
  const float* x = a.x + static_cast<size_t>(row) * a.ldx;
  uint16_t* dst = a.bf16 + static_cast<size_t>(row) * m.num_blocks * kBlock;
  for (int k = 0; k < m.num_blocks * kBlock; k += kPanel) {
    const int lanes = m.in_features - k;
    const auto mask = static_cast<__mmask16>(lanes >= kPanel ? 0xffff : lanes > 0 ? (1 << lanes) - 1 : 0);
    const __m256bh rounded = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, x + k));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(dst + k), std::bit_cast<__m256i>(rounded));
  }
}

// R rows of x through P neighbouring panels.
template <int R, int P>
void bf16_tile(const PackedMatrix& m, int panel, const Activations& a, int row, float* y, int ldy) {
  const size_t row_len = static_cast<size_t>(m.num_blocks) * kBlock;
  const uint16_t* x = a.bf16 + row * row_len;
  const size_t panel_len = m.panel_bytes() / sizeof(uint32_t);
  const auto* w = reinterpret_cast<const uint32_t*>(m.weights) + panel * panel_len;
  __m512 total[R][P];
  for (int r = 0; r < R; ++r) {
    for (int p = 0; p < P; ++p) total[r][p] = _mm512_setzero_ps();
  }
  for (size_t k = 0; k < row_len; k += 2, w += kPanel) {
    DEFTREE_UNROLL for (int p = 0; p < P; ++p) {
      const auto weights = std::bit_cast<__m512bh>(_mm512_loadu_si512(w + p * panel_len));
      DEFTREE_UNROLL for (int r = 0; r < R; ++r) {
        int32_t inputs;
        __builtin_memcpy(&inputs, x + r * row_len + k, sizeof inputs);
        total[r][p] = _mm512_dpbf16_ps(total[r][p], weights, std::bit_cast<__m512bh>(_mm512_set1_epi32(inputs)));
      }
    }
  }
  for (int p = 0; p < P; ++p) {
    const auto mask = static_cast<__mmask16>((1u << m.lanes(panel + p)) - 1u);
    for (int r = 0; r < R; ++r) {
      float* dst = y + (static_cast<size_t>(row) + r) * ldy + (panel + p) * kPanel;
      _mm512_mask_storeu_ps(dst, mask, total[r][p]);
    }
  }
}

void multiply(const PackedMatrix& m, const Activations& a, const LinearTask& task, float* y, int ldy) {
  if (m.format != WeightFormat::kBf16) return kLinearAvx512.multiply(m, a, task, y, ldy);
  int panel = task.panel_begin;
  // Few rows go through several panels at once, to have enough independent sums in flight.
  if (task.row_end - task.row_begin <= 4) {
    for_row_tiles<4>(task.row_begin, task.row_end, [&]<int R>(int row) {
      constexpr int P = R <= 2 ? 4 : 2;
      for (; panel + P <= task.panel_end; panel += P) bf16_tile<R, P>(m, panel, a, row, y, ldy);
    });
  }
  for (; panel < task.panel_end; ++panel) {
    for_row_tiles<8>(task.row_begin, task.row_end, [&]<int R>(int row) { bf16_tile<R, 1>(m, panel, a, row, y, ldy); });
  }
}

}  // namespace

const LinearKernels kLinearAvx512Bf16{"avx512bf16", 0, quantize_row, round_row, multiply};

}  // namespace deftree
#endif
