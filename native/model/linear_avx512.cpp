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

#include <limits>

namespace deftree {
namespace {

__mmask16 lane_mask(const PackedMatrix& m, int panel) { return static_cast<__mmask16>((1u << m.lanes(panel)) - 1u); }

__m512 load_f16(const uint16_t* src) {
  return _mm512_cvtph_ps(_mm256_load_si256(reinterpret_cast<const __m256i*>(src)));
}

void prefetch(const void* line) { _mm_prefetch(static_cast<const char*>(line), _MM_HINT_T0); }

__m512i broadcast4(const int8_t* src) {
  int32_t bytes;
  __builtin_memcpy(&bytes, src, sizeof bytes);
  return _mm512_set1_epi32(bytes);
}

// Sums or maxima of each 128-bit lane's four numbers, in all four places.
template <class Combine>
__m512i reduce_lanes(__m512i v, Combine combine) {
  v = combine(v, _mm512_shuffle_epi32(v, _MM_PERM_BADC));
  return combine(v, _mm512_shuffle_epi32(v, _MM_PERM_CDAB));
}

// Codes and scales of up to four blocks at once, so that each 128-bit lane reduces one block.
void quantize_row(const PackedMatrix& m, const Activations& a, int row, int start_factor) {
  const float* x = a.x + static_cast<size_t>(row) * a.ldx;
  int8_t* codes = a.codes + static_cast<size_t>(row) * m.num_blocks * kBlock;
  float* scales = a.scales + static_cast<size_t>(row) * m.num_blocks;
  int32_t* starts = a.starts + static_cast<size_t>(row) * m.groups_per_row();
  float* sums = a.sums + static_cast<size_t>(row) * m.groups_per_row();
  const auto max = [](__m512i p, __m512i q) { return _mm512_max_epu32(p, q); };
  const auto add = [](__m512i p, __m512i q) { return _mm512_add_epi32(p, q); };
  const __m512i magnitude_bits = _mm512_set1_epi32(0x7fffffff);
  const __m512i first_of_lane = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28);
  const __m512i transpose = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);

  for (int b = 0; b < m.num_blocks; b += 4) {
    const int left = m.in_features - b * kBlock;
    const int blocks = m.num_blocks - b < 4 ? m.num_blocks - b : 4;
    __m512 values[8];
    DEFTREE_UNROLL for (int i = 0; i < 8; ++i) {
      const int lanes = left - i * kPanel;
      const auto mask = static_cast<__mmask16>(lanes >= kPanel ? 0xffff : lanes > 0 ? (1 << lanes) - 1 : 0);
      values[i] = _mm512_maskz_loadu_ps(mask, x + b * kBlock + i * kPanel);
    }
    // Compared as integers, so that NaN is above infinity. Two rounds of lane shuffles leave block i in lane i.
    __m512i most[4];
    DEFTREE_UNROLL for (int i = 0; i < 4; ++i) {
      most[i] = max(_mm512_and_epi32(_mm512_castps_si512(values[2 * i]), magnitude_bits),
                    _mm512_and_epi32(_mm512_castps_si512(values[2 * i + 1]), magnitude_bits));
    }
    const auto halve = [&](__m512i p, __m512i q) {
      return max(_mm512_shuffle_i32x4(p, q, 0x88), _mm512_shuffle_i32x4(p, q, 0xdd));
    };
    const __m512i largest = reduce_lanes(halve(halve(most[0], most[1]), halve(most[2], most[3])), max);
    const __m128i bits = _mm512_castsi512_si128(_mm512_permutexvar_epi32(first_of_lane, largest));
    const __m128 absmax = _mm_castsi128_ps(bits);
    const __mmask8 finite = _mm_cmplt_epu32_mask(bits, _mm_set1_epi32(0x7f800000));
    const __mmask8 counted = finite & _mm_cmp_ps_mask(absmax, _mm_set1_ps(kLeastAbsmax), _CMP_GT_OQ);
    const __m128 inverse = _mm_maskz_div_ps(counted, _mm_set1_ps(127.0f), absmax);
    const __m128 scale = _mm_mask_blend_ps(finite, _mm_set1_ps(std::numeric_limits<float>::quiet_NaN()),
                                           _mm_maskz_div_ps(counted, absmax, _mm_set1_ps(127.0f)));
    const auto used = static_cast<__mmask8>((1 << blocks) - 1);
    _mm_mask_storeu_ps(scales + b, used, scale);

    __m512i group_sums[2];  // a lane each: groups of 16
    DEFTREE_UNROLL for (int pair = 0; pair < 2; ++pair) {
      __m512i ints[4];
      DEFTREE_UNROLL for (int i = 0; i < 4; ++i) {
        const int block = 2 * pair + i / 2;
        const __m512 factor = _mm512_permutexvar_ps(_mm512_set1_epi32(block), _mm512_castps128_ps512(inverse));
        const auto keep = static_cast<__mmask16>(finite >> block & 1 ? 0xffff : 0);
        ints[i] = _mm512_maskz_cvtps_epi32(keep, _mm512_mul_ps(values[4 * pair + i], factor));
      }
      const __m512i bytes = _mm512_permutexvar_epi32(
          transpose, _mm512_packs_epi16(_mm512_packs_epi32(ints[0], ints[1]), _mm512_packs_epi32(ints[2], ints[3])));
      const __mmask64 stored = blocks >= 2 * pair + 2 ? ~__mmask64{0} : blocks > 2 * pair ? 0xffffffffu : 0;
      _mm512_mask_storeu_epi8(codes + (b + 2 * pair) * kBlock, stored, bytes);
      group_sums[pair] =
          reduce_lanes(_mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(1), bytes), add);
    }
    const __m256i by_16 =
        _mm512_castsi512_si256(_mm512_permutex2var_epi32(group_sums[0], first_of_lane, group_sums[1]));
    if (m.group_len == kBlock) {
      const __m256i neighbours = _mm256_add_epi32(by_16, _mm256_shuffle_epi32(by_16, 0xb1));
      const __m128i by_32 = _mm256_castsi256_si128(
          _mm256_permutevar8x32_epi32(neighbours, _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6)));
      _mm_mask_storeu_epi32(starts + b, used, _mm_mullo_epi32(by_32, _mm_set1_epi32(start_factor)));
      _mm_mask_storeu_ps(sums + b, used, _mm_mul_ps(scale, _mm_cvtepi32_ps(by_32)));
    } else {
      const __m256i twice = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
      const __m256 scale_twice = _mm256_permutevar8x32_ps(_mm256_castps128_ps256(scale), twice);
      const auto used_twice = static_cast<__mmask8>((1 << 2 * blocks) - 1);
      _mm256_mask_storeu_epi32(starts + 2 * b, used_twice, _mm256_mullo_epi32(by_16, _mm256_set1_epi32(start_factor)));
      _mm256_mask_storeu_ps(sums + 2 * b, used_twice, _mm256_mul_ps(scale_twice, _mm256_cvtepi32_ps(by_16)));
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
      if (R > 1) prefetch(w + (P + p) * panel_len), prefetch(w + (P + p) * panel_len + kPanel);
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
  const size_t panel_len = m.panel_bytes() / sizeof(uint32_t);
  const uint32_t* w = reinterpret_cast<const uint32_t*>(m.weights) + panel * panel_len;
  const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  __m512 even[R][P], odd[R][P];
  for (int r = 0; r < R; ++r) {
    for (int p = 0; p < P; ++p) even[r][p] = odd[r][p] = _mm512_setzero_ps();
  }
  for (int pair = 0; pair < m.in_features / 2; ++pair, w += kPanel) {
    DEFTREE_UNROLL for (int p = 0; p < P; ++p) {
      const __m512i both = _mm512_loadu_si512(w + p * panel_len);
      if (R > 1) prefetch(w + (P + p) * panel_len);
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
        const float last = x[static_cast<size_t>(r) * ldx + m.in_features - 1];
        even[r][p] = _mm512_fmadd_ps(w0, _mm512_set1_ps(last), even[r][p]);
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
  const size_t panel_bytes = m.panel_bytes();
  const auto* w = reinterpret_cast<const uint8_t*>(m.weights + panel * panel_bytes);
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
    DEFTREE_UNROLL for (int j = 0; j < kBlockBytes; j += 64) prefetch(w + panel_bytes + j);
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
      DEFTREE_UNROLL for (int i = 0; i < kGroupLen / 4; ++i) {
        const int j = g * kGroupLen / 4 + i;
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

template <bool kBf16, int R, int P>
void float_tile(const PackedMatrix& m, int panel, const Activations& a, int row, float* y, int ldy) {
  const float* x = a.x + static_cast<size_t>(row) * a.ldx;
  float* dst = y + static_cast<size_t>(row) * ldy;
  kBf16 ? bf16_tile<R, P>(m, panel, x, a.ldx, dst, ldy) : f32_tile<R, P>(m, panel, x, a.ldx, dst, ldy);
}

template <bool kBf16>
void float_multiply(const PackedMatrix& m, const Activations& a, const LinearTask& task, float* y, int ldy) {
  int panel = task.panel_begin;
  // Few rows go through several panels at once, to have enough independent sums in flight.
  if (task.row_end - task.row_begin <= 4) {
    for_row_tiles<4>(task.row_begin, task.row_end, [&]<int R>(int row) {
      constexpr int P = R == 1 ? 4 : 2;
      for (; panel + P <= task.panel_end; panel += P) float_tile<kBf16, R, P>(m, panel, a, row, y, ldy);
    });
  }
  for (; panel < task.panel_end; ++panel) {
    for_row_tiles<8>(task.row_begin, task.row_end,
                     [&]<int R>(int row) { float_tile<kBf16, R, 1>(m, panel, a, row, y, ldy); });
  }
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

const LinearKernels kLinearAvx512{"avx512", 0, quantize_row, nullptr, multiply};

}  // namespace deftree
#endif
