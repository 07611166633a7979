// Kernels with AVX-512 F/BW/VL/DQ/VNNI. vpdpbusd adds four u8 x s8 products to an int32 lane without saturation, so the
// integer part is exact; each block then joins the float sum with one product of scales and one fused multiply-add.
#include "model/linear_kernels.h"
#include "model/linear_tiles.h"

#if defined(__x86_64__)
#if defined(__GNUC__) && !defined(__clang__)
// GCC 12 takes the deliberately undefined pass-through operand inside its own intrinsics for an uninitialised variable.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>

#include <bit>
#include <limits>

namespace deftree {
namespace {

__mmask16 lane_mask(const PackedMatrix& m, int panel) { return static_cast<__mmask16>((1u << m.lanes(panel)) - 1u); }

__m512 load_f16(const uint16_t* src) {
  return _mm512_cvtph_ps(_mm256_load_si256(reinterpret_cast<const __m256i*>(src)));
}

__m512i broadcast4(const int8_t* src) {
  int32_t bytes;
  __builtin_memcpy(&bytes, src, sizeof bytes);
  return _mm512_set1_epi32(bytes);
}

void quantize_row(const PackedMatrix& m, const Activations& a, int row, int start_factor) {
  const float* x = a.x + static_cast<size_t>(row) * a.ldx;
  int8_t* codes = a.codes + static_cast<size_t>(row) * m.num_blocks * kBlock;
  float* scales = a.scales + static_cast<size_t>(row) * m.num_blocks;
  int32_t* starts = a.starts + static_cast<size_t>(row) * m.groups_per_row();
  float* sums = a.sums + static_cast<size_t>(row) * m.groups_per_row();
  const __m512i magnitude_bits = _mm512_set1_epi32(0x7fffffff);
  for (int b = 0; b < m.num_blocks; ++b, codes += kBlock) {
    const int left = m.in_features - b * kBlock;
    const __mmask32 mask = left >= kBlock ? ~__mmask32{0} : (__mmask32{1} << left) - 1;
    const __m512 low = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), x + b * kBlock);
    const __m512 high = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask >> 16), x + b * kBlock + 16);
    // Compared as integers, so that NaN is above infinity.
    const uint32_t largest = _mm512_reduce_max_epu32(
        _mm512_max_epu32(_mm512_and_epi32(_mm512_castps_si512(low), magnitude_bits),
                         _mm512_and_epi32(_mm512_castps_si512(high), magnitude_bits)));
    const float absmax = std::bit_cast<float>(largest);
    const bool finite = largest < 0x7f800000u;
    const float inverse = finite && absmax > kLeastAbsmax ? 127.0f / absmax : 0.0f;
    const float scale = !finite ? std::numeric_limits<float>::quiet_NaN() : inverse == 0.0f ? 0.0f : absmax / 127.0f;
    scales[b] = scale;
    const __mmask16 keep = finite ? 0xffff : 0;
    const __m512i codes_low = _mm512_maskz_cvtps_epi32(keep, _mm512_mul_ps(low, _mm512_set1_ps(inverse)));
    const __m512i codes_high = _mm512_maskz_cvtps_epi32(keep, _mm512_mul_ps(high, _mm512_set1_ps(inverse)));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes), _mm512_cvtepi32_epi8(codes_low));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + 16), _mm512_cvtepi32_epi8(codes_high));
    if (m.group_len == kBlock) {
      const int32_t sum = _mm512_reduce_add_epi32(_mm512_add_epi32(codes_low, codes_high));
      *starts++ = start_factor * sum;
      *sums++ = scale * static_cast<float>(sum);
    } else {
      for (const __m512i group : {codes_low, codes_high}) {
        const int32_t sum = _mm512_reduce_add_epi32(group);
        *starts++ = start_factor * sum;
        *sums++ = scale * static_cast<float>(sum);
      }
    }
  }
}

// R rows of x through P neighbouring panels. Each output has two sums, of even and odd inputs.
template <int R, int P>
void f32_tile(const PackedMatrix& m, int panel, const float* x, int ldx, float* y, int ldy) {
  const size_t panel_len = static_cast<size_t>(m.in_features) * kPanel;
  const float* w = reinterpret_cast<const float*>(m.weights) + panel * panel_len;
  __m512 even[R][P], odd[R][P];
  for (int r = 0; r < R; ++r) {
    for (int p = 0; p < P; ++p) even[r][p] = odd[r][p] = _mm512_setzero_ps();
  }
  int k = 0;
  for (; k + 2 <= m.in_features; k += 2, w += 2 * kPanel) {
    DEFTREE_UNROLL for (int p = 0; p < P; ++p) {
      const __m512 w0 = _mm512_loadu_ps(w + p * panel_len), w1 = _mm512_loadu_ps(w + p * panel_len + kPanel);
      DEFTREE_UNROLL for (int r = 0; r < R; ++r) {
        even[r][p] = _mm512_fmadd_ps(w0, _mm512_set1_ps(x[static_cast<size_t>(r) * ldx + k]), even[r][p]);
        odd[r][p] = _mm512_fmadd_ps(w1, _mm512_set1_ps(x[static_cast<size_t>(r) * ldx + k + 1]), odd[r][p]);
      }
    }
  }
  if (k < m.in_features) {
    for (int p = 0; p < P; ++p) {
      const __m512 w0 = _mm512_loadu_ps(w + p * panel_len);
      for (int r = 0; r < R; ++r) {
        even[r][p] = _mm512_fmadd_ps(w0, _mm512_set1_ps(x[static_cast<size_t>(r) * ldx + k]), even[r][p]);
      }
    }
  }
  for (int p = 0; p < P; ++p) {
    for (int r = 0; r < R; ++r) {
      _mm512_mask_storeu_ps(y + static_cast<size_t>(r) * ldy + (panel + p) * kPanel, lane_mask(m, panel + p),
                            _mm512_add_ps(even[r][p], odd[r][p]));
    }
  }
}

// As f32_tile; a 32-bit lane holds an even and an odd input's weight, each a shift or a mask away from a float.
template <int R, int P>
void bf16_tile(const PackedMatrix& m, int panel, const float* x, int ldx, float* y, int ldy) {
  const int num_pairs = (m.in_features + 1) / 2;
  const size_t panel_len = static_cast<size_t>(num_pairs) * kPanel;
  const uint32_t* w = reinterpret_cast<const uint32_t*>(m.weights) + panel * panel_len;
  const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  __m512 even[R][P], odd[R][P];
  for (int r = 0; r < R; ++r) {
    for (int p = 0; p < P; ++p) even[r][p] = odd[r][p] = _mm512_setzero_ps();
  }
  for (int pair = 0; pair < m.in_features / 2; ++pair, w += kPanel) {
    DEFTREE_UNROLL for (int p = 0; p < P; ++p) {
      const __m512i both = _mm512_loadu_si512(w + p * panel_len);
      const __m512 w0 = _mm512_castsi512_ps(_mm512_slli_epi32(both, 16));
      const __m512 w1 = _mm512_castsi512_ps(_mm512_and_epi32(both, upper));
      DEFTREE_UNROLL for (int r = 0; r < R; ++r) {
        even[r][p] = _mm512_fmadd_ps(w0, _mm512_set1_ps(x[static_cast<size_t>(r) * ldx + 2 * pair]), even[r][p]);
        odd[r][p] = _mm512_fmadd_ps(w1, _mm512_set1_ps(x[static_cast<size_t>(r) * ldx + 2 * pair + 1]), odd[r][p]);
      }
    }
  }
  if (m.in_features % 2 != 0) {
    for (int p = 0; p < P; ++p) {
      const __m512 w0 = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(w + p * panel_len), 16));
      for (int r = 0; r < R; ++r) {
        even[r][p] = _mm512_fmadd_ps(w0, _mm512_set1_ps(x[static_cast<size_t>(r) * ldx + m.in_features - 1]), even[r][p]);
      }
    }
  }
  for (int p = 0; p < P; ++p) {
    for (int r = 0; r < R; ++r) {
      _mm512_mask_storeu_ps(y + static_cast<size_t>(r) * ldy + (panel + p) * kPanel, lane_mask(m, panel + p),
                            _mm512_add_ps(even[r][p], odd[r][p]));
    }
  }
}

// R rows of x through one panel.
template <bool kNibbles, bool kHasMin, int kGroupLen, int R>
void integer_tile(const PackedMatrix& m, int panel, const Activations& a, int row, float* y, int ldy) {
  constexpr int kGroups = kBlock / kGroupLen;
  constexpr int kBlockBytes = kNibbles ? 256 : 512;
  const size_t num_blocks = static_cast<size_t>(m.num_blocks);
  const size_t groups = num_blocks * kGroups;
  const size_t panel_bytes = num_blocks * kBlockBytes;
  const auto* w = reinterpret_cast<const uint8_t*>(m.weights) + panel * panel_bytes;
  const uint16_t* scales = m.scales + panel * groups * kPanel;
  const uint16_t* mins = kHasMin ? m.mins + panel * groups * kPanel : nullptr;
  const int8_t* codes = a.codes + row * num_blocks * kBlock;
  const float* x_scales = a.scales + row * num_blocks;
  const int32_t* starts = a.starts + row * groups;
  const float* sums = a.sums + row * groups;
  const __m512i low_nibbles = _mm512_set1_epi8(15);

  __m512 total[R];
  for (int r = 0; r < R; ++r) total[r] = _mm512_setzero_ps();
  for (size_t b = 0; b < num_blocks; ++b, w += kBlockBytes) {
    // The next panel streams in while this one is multiplied.
    DEFTREE_UNROLL for (int j = 0; j < kBlockBytes; j += 64) {
      _mm_prefetch(reinterpret_cast<const char*>(w + panel_bytes + j), _MM_HINT_T0);
    }
    __m512i block[8];
    if constexpr (kNibbles) {
      DEFTREE_UNROLL for (int j = 0; j < 4; ++j) {
        const __m512i both = _mm512_load_si512(w + 64 * j);
        block[j] = _mm512_and_si512(both, low_nibbles);
        block[j + 4] = _mm512_and_si512(_mm512_srli_epi16(both, 4), low_nibbles);
      }
    } else {
      DEFTREE_UNROLL for (int j = 0; j < 8; ++j) block[j] = _mm512_load_si512(w + 64 * j);
    }
    DEFTREE_UNROLL for (int g = 0; g < kGroups; ++g) {
      const size_t group = b * kGroups + g;
      const __m512 scale = load_f16(scales + group * kPanel);
      const __m512 min = kHasMin ? load_f16(mins + group * kPanel) : _mm512_setzero_ps();
      __m512i dot[R];
      DEFTREE_UNROLL for (int r = 0; r < R; ++r) {
        dot[r] = kHasMin ? _mm512_setzero_si512() : _mm512_set1_epi32(starts[r * groups + group]);
      }
      // Rows innermost: R chains of vpdpbusd in flight hide its latency.
      DEFTREE_UNROLL for (int j = g * kGroupLen / 4; j < (g + 1) * kGroupLen / 4; ++j) {
        DEFTREE_UNROLL for (int r = 0; r < R; ++r) {
          dot[r] = _mm512_dpbusd_epi32(dot[r], block[j], broadcast4(codes + (r * num_blocks + b) * kBlock + 4 * j));
        }
      }
      DEFTREE_UNROLL for (int r = 0; r < R; ++r) {
        const __m512 both_scales = _mm512_mul_ps(scale, _mm512_set1_ps(x_scales[r * num_blocks + b]));
        total[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[r]), both_scales, total[r]);
        if (kHasMin) total[r] = _mm512_fmadd_ps(min, _mm512_set1_ps(sums[r * groups + group]), total[r]);
      }
    }
  }
  const __m512 unit = _mm512_loadu_ps(m.unit + panel * kPanel);
  for (int r = 0; r < R; ++r) {
    _mm512_mask_storeu_ps(y + static_cast<size_t>(r) * ldy + panel * kPanel, lane_mask(m, panel),
                          _mm512_mul_ps(total[r], unit));
  }
}

template <bool kNibbles, bool kHasMin, int kGroupLen>
void integer_multiply(const PackedMatrix& m, const Activations& a, const LinearTask& task, float* y, int ldy) {
  for (int panel = task.panel_begin; panel < task.panel_end; ++panel) {
    for_row_tiles<8>(task.row_begin, task.row_end, [&]<int R>(int row) {
      integer_tile<kNibbles, kHasMin, kGroupLen, R>(m, panel, a, row, y + static_cast<size_t>(row) * ldy, ldy);
    });
  }
}

// Few rows go through several panels at once, to have enough independent sums in flight.
constexpr int panels_at_once(int rows) { return rows == 1 ? 4 : rows <= 4 ? 2 : 1; }

template <bool kBf16>
void float_multiply(const PackedMatrix& m, const Activations& a, const LinearTask& task, float* y, int ldy) {
  for_row_tiles<8>(task.row_begin, task.row_end, [&]<int R>(int row) {
    const float* x = a.x + static_cast<size_t>(row) * a.ldx;
    float* dst = y + static_cast<size_t>(row) * ldy;
    constexpr int P = panels_at_once(R);
    int panel = task.panel_begin;
    for (; panel + P <= task.panel_end; panel += P) {
      kBf16 ? bf16_tile<R, P>(m, panel, x, a.ldx, dst, ldy) : f32_tile<R, P>(m, panel, x, a.ldx, dst, ldy);
    }
    for (; panel < task.panel_end; ++panel) {
      kBf16 ? bf16_tile<R, 1>(m, panel, x, a.ldx, dst, ldy) : f32_tile<R, 1>(m, panel, x, a.ldx, dst, ldy);
    }
  });
}

void multiply(const PackedMatrix& m, const Activations& a, const LinearTask& task, float* y, int ldy) {
  switch (m.format) {
    case WeightFormat::kF32: return float_multiply<false>(m, a, task, y, ldy);
    case WeightFormat::kBf16: return float_multiply<true>(m, a, task, y, ldy);
    case WeightFormat::kI4:
      return m.has_min ? integer_multiply<true, true, 32>(m, a, task, y, ldy)
                       : integer_multiply<true, false, 32>(m, a, task, y, ldy);
    case WeightFormat::kI8:
      if (m.group_len == 16) {
        return m.has_min ? integer_multiply<false, true, 16>(m, a, task, y, ldy)
                         : integer_multiply<false, false, 16>(m, a, task, y, ldy);
      }
      return m.has_min ? integer_multiply<false, true, 32>(m, a, task, y, ldy)
                       : integer_multiply<false, false, 32>(m, a, task, y, ldy);
  }
}

}  // namespace

const LinearKernels kLinearAvx512{"avx512", 0, quantize_row, multiply};

}  // namespace deftree
#endif
