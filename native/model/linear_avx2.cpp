// Kernels with AVX2, FMA and F16C: half a panel (8 outputs) by up to four rows.
//
// vpmaddubsw adds two u8 x s8 products into an int16 lane and saturates, so how many products may be summed there
// depends on the largest code: 8 pairs of codes up to 15 (8 * 2 * 15 * 127 = 30480), 4 pairs up to 31, 2 up to 63.
// Wider codes are taken as signed values and multiplied as |w| * sign(w) x: one pair is at most 2 * 128 * 127 = 32512.
#include "model/linear_kernels.h"
#include "model/linear_tiles.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <bit>
#include <limits>

namespace deftree {
namespace {

constexpr int kHalf = 8;

__m256 load_f16(const uint16_t* src) { return _mm256_cvtph_ps(_mm_load_si128(reinterpret_cast<const __m128i*>(src))); }

__m256i load_bytes(const void* src) { return _mm256_loadu_si256(static_cast<const __m256i*>(src)); }

__m256i broadcast4(const int8_t* src) {
  int32_t bytes;
  __builtin_memcpy(&bytes, src, sizeof bytes);
  return _mm256_set1_epi32(bytes);
}

void store_lanes(float* dst, __m256 value, int lanes) {
  if (lanes >= kHalf) {
    _mm256_storeu_ps(dst, value);
    return;
  }
  alignas(32) float all[kHalf];
  _mm256_store_ps(all, value);
  std::copy_n(all, std::max(lanes, 0), dst);
}

int32_t horizontal_sum(__m256i v) {
  __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1)));
}

uint32_t horizontal_max(__m256i v) {
  __m128i most = _mm_max_epu32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  most = _mm_max_epu32(most, _mm_shuffle_epi32(most, 0x4e));
  return static_cast<uint32_t>(_mm_cvtsi128_si32(_mm_max_epu32(most, _mm_shuffle_epi32(most, 0xb1))));
}

void quantize_row(const PackedMatrix& m, const Activations& a, int row, int start_factor) {
  const float* x = a.x + static_cast<size_t>(row) * a.ldx;
  int8_t* codes = a.codes + static_cast<size_t>(row) * m.num_blocks * kBlock;
  float* scales = a.scales + static_cast<size_t>(row) * m.num_blocks;
  int32_t* starts = a.starts + static_cast<size_t>(row) * m.groups_per_row();
  float* sums = a.sums + static_cast<size_t>(row) * m.groups_per_row();
  const __m256i magnitude_bits = _mm256_set1_epi32(0x7fffffff);
  // Undoes the 128-bit halves' interleaving of the two packs below.
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  for (int b = 0; b < m.num_blocks; ++b, codes += kBlock) {
    alignas(32) float padded[kBlock] = {};
    const float* block = x + b * kBlock;
    if (m.in_features - b * kBlock < kBlock) {
      std::copy_n(block, m.in_features - b * kBlock, padded);
      block = padded;
    }
    __m256 values[4];
    __m256i most = _mm256_setzero_si256();
    for (int i = 0; i < 4; ++i) {
      values[i] = _mm256_loadu_ps(block + i * kHalf);
      // Compared as integers, so that NaN is above infinity.
      most = _mm256_max_epu32(most, _mm256_and_si256(_mm256_castps_si256(values[i]), magnitude_bits));
    }
    const uint32_t largest = horizontal_max(most);
    const float absmax = std::bit_cast<float>(largest);
    const bool finite = largest < 0x7f800000u;
    const float inverse = finite && absmax > kLeastAbsmax ? 127.0f / absmax : 0.0f;
    const float scale = !finite ? std::numeric_limits<float>::quiet_NaN() : inverse == 0.0f ? 0.0f : absmax / 127.0f;
    scales[b] = scale;
    const __m256i keep = _mm256_set1_epi32(finite ? -1 : 0);
    __m256i ints[4];
    for (int i = 0; i < 4; ++i) {
      ints[i] = _mm256_and_si256(keep, _mm256_cvtps_epi32(_mm256_mul_ps(values[i], _mm256_set1_ps(inverse))));
    }
    const __m256i bytes =
        _mm256_packs_epi16(_mm256_packs_epi32(ints[0], ints[1]), _mm256_packs_epi32(ints[2], ints[3]));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes), _mm256_permutevar8x32_epi32(bytes, order));
    const __m256i sum_low = _mm256_add_epi32(ints[0], ints[1]), sum_high = _mm256_add_epi32(ints[2], ints[3]);
    if (m.group_len == kBlock) {
      const int32_t sum = horizontal_sum(_mm256_add_epi32(sum_low, sum_high));
      *starts++ = start_factor * sum;
      *sums++ = scale * static_cast<float>(sum);
    } else {
      for (const __m256i group : {sum_low, sum_high}) {
        const int32_t sum = horizontal_sum(group);
        *starts++ = start_factor * sum;
        *sums++ = scale * static_cast<float>(sum);
      }
    }
  }
}

// R rows of x through H neighbouring half-panels. Each output has two sums, of even and odd inputs.
template <bool kBf16, int R, int H>
void float_tile(const PackedMatrix& m, int half, const float* x, int ldx, float* y, int ldy) {
  const int num_pairs = m.in_features / 2;
  constexpr size_t kPairBytes = kBf16 ? 2 * kPanel * sizeof(uint16_t) : 2 * kPanel * sizeof(float);
  const std::byte* w[H];
  for (int h = 0; h < H; ++h) w[h] = m.weights + (half + h) / 2 * m.panel_bytes() + (half + h) % 2 * 32;
  const __m256i upper = _mm256_set1_epi32(static_cast<int>(0xffff0000u));

  __m256 even[R][H], odd[R][H];
  for (int r = 0; r < R; ++r) {
    for (int h = 0; h < H; ++h) even[r][h] = odd[r][h] = _mm256_setzero_ps();
  }
  for (int pair = 0; pair < num_pairs; ++pair) {
    DEFTREE_UNROLL for (int h = 0; h < H; ++h) {
      const std::byte* at = w[h] + pair * kPairBytes;
      __m256 w0, w1;
      if constexpr (kBf16) {
        const __m256i both = load_bytes(at);
        w0 = _mm256_castsi256_ps(_mm256_slli_epi32(both, 16));
        w1 = _mm256_castsi256_ps(_mm256_and_si256(both, upper));
      } else {
        w0 = _mm256_loadu_ps(reinterpret_cast<const float*>(at));
        w1 = _mm256_loadu_ps(reinterpret_cast<const float*>(at) + kPanel);
      }
      DEFTREE_UNROLL for (int r = 0; r < R; ++r) {
        const float* row = x + static_cast<size_t>(r) * ldx + 2 * pair;
        even[r][h] = _mm256_fmadd_ps(w0, _mm256_broadcast_ss(row), even[r][h]);
        odd[r][h] = _mm256_fmadd_ps(w1, _mm256_broadcast_ss(row + 1), odd[r][h]);
      }
    }
  }
  for (int h = 0; h < H; ++h) {
    const std::byte* at = w[h] + num_pairs * kPairBytes;
    for (int r = 0; r < R; ++r) {
      if (m.in_features % 2 != 0) {
        const __m256 w0 = kBf16 ? _mm256_castsi256_ps(_mm256_slli_epi32(load_bytes(at), 16))
                                : _mm256_loadu_ps(reinterpret_cast<const float*>(at));
        const float* row = x + static_cast<size_t>(r) * ldx + 2 * num_pairs;
        even[r][h] = _mm256_fmadd_ps(w0, _mm256_broadcast_ss(row), even[r][h]);
      }
      store_lanes(y + static_cast<size_t>(r) * ldy + (half + h) * kHalf, _mm256_add_ps(even[r][h], odd[r][h]),
                  m.out_features - (half + h) * kHalf);
    }
  }
}

template <bool kBf16>
void float_multiply(const PackedMatrix& m, const Activations& a, const LinearTask& task, float* y, int ldy) {
  for_row_tiles<3>(task.row_begin, task.row_end, [&]<int R>(int row) {
    const float* x = a.x + static_cast<size_t>(row) * a.ldx;
    float* dst = y + static_cast<size_t>(row) * ldy;
    int panel = task.panel_begin;
    // One row alone goes through two panels at once, to have enough independent sums in flight.
    if constexpr (R == 1) {
      for (; panel + 2 <= task.panel_end; panel += 2) float_tile<kBf16, R, 4>(m, 2 * panel, x, a.ldx, dst, ldy);
    }
    for (; panel < task.panel_end; ++panel) float_tile<kBf16, R, 2>(m, 2 * panel, x, a.ldx, dst, ldy);
  });
}

// How the codes of a matrix may be multiplied; see the top of this file. kPairs: products of how many pairs fit int16.
struct Nibbles {
  static constexpr bool kPacked = true, kSigned = false;
  static constexpr int kPairs = 8;
};
struct Codes31 {
  static constexpr bool kPacked = false, kSigned = false;
  static constexpr int kPairs = 4;
};
struct Codes63 {
  static constexpr bool kPacked = false, kSigned = false;
  static constexpr int kPairs = 2;
};
struct Codes255 {
  static constexpr bool kPacked = false, kSigned = true;
  static constexpr int kPairs = 1;
};

// R rows of x through half a panel.
template <class Codes, int kGroupLen, int R>
void integer_tile(const PackedMatrix& m, int half, const Activations& a, int row, float* y, int ldy) {
  constexpr int kGroups = kBlock / kGroupLen;
  constexpr int kBlockBytes = Codes::kPacked ? 256 : 512;
  constexpr int kQuads = kGroupLen / 4;
  static_assert(!Codes::kPacked || kGroups == 1);
  const size_t num_blocks = static_cast<size_t>(m.num_blocks);
  const size_t groups = num_blocks * kGroups;
  const size_t panel = static_cast<size_t>(half / 2);
  const size_t first_lane = panel * groups * kPanel + half % 2 * kHalf;
  const std::byte* w = m.weights + panel * m.panel_bytes() + half % 2 * 32;
  const uint16_t* scales = m.scales + first_lane;
  const uint16_t* mins = m.has_min ? m.mins + first_lane : nullptr;
  const int8_t* codes = a.codes + row * num_blocks * kBlock;
  const float* x_scales = a.scales + row * num_blocks;
  const int32_t* starts = a.starts + row * groups;
  const float* sums = a.sums + row * groups;
  const __m256i ones = _mm256_set1_epi16(1);
  const __m256i low_nibbles = _mm256_set1_epi8(15);
  const __m256i sign_bits = _mm256_set1_epi8(static_cast<char>(0x80));

  __m256 total[R];
  for (int r = 0; r < R; ++r) total[r] = _mm256_setzero_ps();
  for (size_t b = 0; b < num_blocks; ++b, w += kBlockBytes) {
    for (int g = 0; g < kGroups; ++g) {
      const size_t group = b * kGroups + g;
      __m256i dot[R];
      for (int r = 0; r < R; ++r) dot[r] = _mm256_set1_epi32(starts[r * groups + group]);
      DEFTREE_UNROLL for (int first = 0; first < kQuads; first += Codes::kPairs) {
        __m256i pairs[R];
        for (int r = 0; r < R; ++r) pairs[r] = _mm256_setzero_si256();
        DEFTREE_UNROLL for (int i = 0; i < Codes::kPairs; ++i) {
          const int quad = g * kQuads + first + i;
          __m256i weights;
          if constexpr (Codes::kPacked) {
            const __m256i both = load_bytes(w + 64 * (quad % 4));
            weights = _mm256_and_si256(quad < 4 ? both : _mm256_srli_epi16(both, 4), low_nibbles);
          } else {
            weights = load_bytes(w + 64 * quad);
          }
          __m256i signs = weights;
          if constexpr (Codes::kSigned) {
            signs = _mm256_xor_si256(weights, sign_bits);
            weights = _mm256_abs_epi8(signs);
          }
          DEFTREE_UNROLL for (int r = 0; r < R; ++r) {
            __m256i inputs = broadcast4(codes + (r * num_blocks + b) * kBlock + 4 * quad);
            if constexpr (Codes::kSigned) inputs = _mm256_sign_epi8(inputs, signs);
            pairs[r] = _mm256_add_epi16(pairs[r], _mm256_maddubs_epi16(weights, inputs));
          }
        }
        for (int r = 0; r < R; ++r) dot[r] = _mm256_add_epi32(dot[r], _mm256_madd_epi16(pairs[r], ones));
      }
      const __m256 scale = load_f16(scales + group * kPanel);
      const __m256 min = mins != nullptr ? load_f16(mins + group * kPanel) : _mm256_setzero_ps();
      DEFTREE_UNROLL for (int r = 0; r < R; ++r) {
        const __m256 both_scales = _mm256_mul_ps(scale, _mm256_broadcast_ss(x_scales + r * num_blocks + b));
        total[r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot[r]), both_scales, total[r]);
        if (mins != nullptr) total[r] = _mm256_fmadd_ps(min, _mm256_broadcast_ss(sums + r * groups + group), total[r]);
      }
    }
  }
  const __m256 unit = _mm256_loadu_ps(m.unit + half * kHalf);
  for (int r = 0; r < R; ++r) {
    store_lanes(y + static_cast<size_t>(r) * ldy + half * kHalf, _mm256_mul_ps(total[r], unit),
                m.out_features - half * kHalf);
  }
}

template <class Codes, int kGroupLen>
void integer_multiply(const PackedMatrix& m, const Activations& a, const LinearTask& task, float* y, int ldy) {
  for (int panel = task.panel_begin; panel < task.panel_end; ++panel) {
    for_row_tiles<4>(task.row_begin, task.row_end, [&]<int R>(int row) {
      for (const int half : {2 * panel, 2 * panel + 1}) {
        integer_tile<Codes, kGroupLen, R>(m, half, a, row, y + static_cast<size_t>(row) * ldy, ldy);
      }
    });
  }
}

void multiply(const PackedMatrix& m, const Activations& a, const LinearTask& task, float* y, int ldy) {
  switch (m.format) {
    case WeightFormat::kF32: return float_multiply<false>(m, a, task, y, ldy);
    case WeightFormat::kBf16: return float_multiply<true>(m, a, task, y, ldy);
    case WeightFormat::kI4: return integer_multiply<Nibbles, 32>(m, a, task, y, ldy);
    case WeightFormat::kI8:
      if (m.group_len == 16) {
        return m.wide_codes() ? integer_multiply<Codes255, 16>(m, a, task, y, ldy)
                              : integer_multiply<Codes63, 16>(m, a, task, y, ldy);
      }
      if (m.wide_codes()) return integer_multiply<Codes255, 32>(m, a, task, y, ldy);
      return m.max_code > 31 ? integer_multiply<Codes63, 32>(m, a, task, y, ldy)
                             : integer_multiply<Codes31, 32>(m, a, task, y, ldy);
  }
}

}  // namespace

const LinearKernels kLinearAvx2{"avx2", 128, quantize_row, nullptr, multiply};

}  // namespace deftree
#endif
