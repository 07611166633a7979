// AMX tiles: 16 rows of x by one panel of 16 outputs, for int8 and bfloat16. F32 goes to the AVX-512 kernels.
//
// Integer products: a tile holds one group's dot products of all 16 x 16 pairs, exact, and joins the float sums by the
// same operations in the same order as in linear_avx512.cpp. Results are equal bit for bit, so tasks with fewer than 16
// rows left go there.
// bfloat16: x is rounded as in linear_avx512bf16.cpp. The tile's sum order is its own, so every row takes this path,
// whatever the row count; a tile with fewer rows computes each of them alike.
#include "model/linear_kernels.h"
#include "model/linear_tiles.h"

#if defined(__x86_64__)
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // as in linear_avx512.cpp
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>

#include <algorithm>

namespace deftree {
namespace {

constexpr int kTileRows = 16;

// The operand of ldtilecfg.
struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  void set(int tile, int num_rows, int bytes) {
    rows[tile] = static_cast<uint8_t>(num_rows);
    row_bytes[tile] = static_cast<uint16_t>(bytes);
  }
};

// Loads a configuration for its lifetime; without one the CPU need not save tiles when threads switch.
class TileScope {
 public:
  explicit TileScope(const TileConfig& config) { _tile_loadconfig(&config); }
  ~TileScope() { _tile_release(); }
  TileScope(const TileScope&) = delete;
  TileScope& operator=(const TileScope&) = delete;
};

__m512 load_f16(const uint16_t* src) {
  return _mm512_cvtph_ps(_mm256_load_si256(reinterpret_cast<const __m256i*>(src)));
}

__mmask16 lane_mask(const PackedMatrix& m, int panel) { return static_cast<__mmask16>((1u << m.lanes(panel)) - 1u); }

// dst: [8, 16, 4], the layout of kI8.
void unpack_nibbles(const std::byte* src, uint8_t* dst) {
  const __m512i low_nibbles = _mm512_set1_epi8(15);
  for (int j = 0; j < 4; ++j) {
    const __m512i both = _mm512_load_si512(src + 64 * j);
    _mm512_store_si512(dst + 64 * j, _mm512_and_si512(both, low_nibbles));
    _mm512_store_si512(dst + 256 + 64 * j, _mm512_and_si512(_mm512_srli_epi16(both, 4), low_nibbles));
  }
}

// 16 rows of x through one panel. Tiles: 0 dot products, 1 x, 2 weights.
template <bool kNibbles, bool kHasMin, int kGroupLen>
void integer_tile(const PackedMatrix& m, int panel, const Activations& a, int row, float* y, int ldy) {
  constexpr int kGroups = kBlock / kGroupLen;
  constexpr int kBlockBytes = kNibbles ? 256 : 512;
  const size_t num_blocks = static_cast<size_t>(m.num_blocks);
  const size_t groups = num_blocks * kGroups;
  const std::byte* w = m.weights + panel * m.panel_bytes();
  const uint16_t* scales = m.scales + panel * groups * kPanel;
  const uint16_t* mins = kHasMin ? m.mins + panel * groups * kPanel : nullptr;
  const int8_t* codes = a.codes + row * num_blocks * kBlock;
  const float* x_scales = a.scales + row * num_blocks;
  const int32_t* starts = a.starts + row * groups;
  const float* sums = a.sums + row * groups;
  alignas(64) uint8_t unpacked[512];
  alignas(64) int32_t dots[kTileRows][kPanel];

  __m512 total[kTileRows];
  for (__m512& sum : total) sum = _mm512_setzero_ps();
  for (size_t b = 0; b < num_blocks; ++b, w += kBlockBytes) {
    if constexpr (kNibbles) unpack_nibbles(w, unpacked);
    const void* block = kNibbles ? static_cast<const void*>(unpacked) : w;
    for (int g = 0; g < kGroups; ++g) {
      const size_t group = b * kGroups + g;
      _tile_zero(0);
      _tile_loadd(1, codes + b * kBlock + g * kGroupLen, num_blocks * kBlock);
      _tile_loadd(2, static_cast<const uint8_t*>(block) + g * kGroupLen * kPanel, 64);
      _tile_dpbsud(0, 1, 2);
      _tile_stored(0, dots, 64);
      const __m512 scale = load_f16(scales + group * kPanel);
      const __m512 min = kHasMin ? load_f16(mins + group * kPanel) : _mm512_setzero_ps();
      _Pragma("GCC unroll 16") for (int r = 0; r < kTileRows; ++r) {
        __m512i dot = _mm512_load_si512(dots[r]);
        if (!kHasMin) dot = _mm512_add_epi32(dot, _mm512_set1_epi32(starts[r * groups + group]));
        const __m512 both_scales = _mm512_mul_ps(scale, _mm512_set1_ps(x_scales[r * num_blocks + b]));
        total[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), both_scales, total[r]);
        if (kHasMin) total[r] = _mm512_fmadd_ps(min, _mm512_set1_ps(sums[r * groups + group]), total[r]);
      }
    }
  }
  const __m512 unit = _mm512_loadu_ps(m.unit + panel * kPanel);
  for (int r = 0; r < kTileRows; ++r) {
    _mm512_mask_storeu_ps(y + (static_cast<size_t>(row) + r) * ldy + panel * kPanel, lane_mask(m, panel),
                          _mm512_mul_ps(total[r], unit));
  }
}

template <bool kNibbles, bool kHasMin, int kGroupLen>
void integer_multiply(const PackedMatrix& m, const Activations& a, const LinearTask& task, float* y, int ldy) {
  const int tiled_end = task.row_begin + (task.row_end - task.row_begin) / kTileRows * kTileRows;
  if (tiled_end > task.row_begin) {
    TileConfig config;
    config.set(0, kTileRows, 64);
    config.set(1, kTileRows, kGroupLen);
    config.set(2, kGroupLen / 4, 64);
    const TileScope scope(config);
    for (int panel = task.panel_begin; panel < task.panel_end; ++panel) {
      for (int row = task.row_begin; row < tiled_end; row += kTileRows) {
        integer_tile<kNibbles, kHasMin, kGroupLen>(m, panel, a, row, y, ldy);
      }
    }
  }
  if (tiled_end < task.row_end) {
    kLinearAvx512.multiply(m, a, {tiled_end, task.row_end, task.panel_begin, task.panel_end}, y, ldy);
  }
}

// Up to 16 rows of x, as the loaded configuration says, through P neighbouring panels.
// Tiles: 0 to 3 sums, 4 x, 5 and 6 weights.
template <int P>
void bf16_tile(const PackedMatrix& m, int panel, const Activations& a, int row, int rows, float* y, int ldy) {
  const size_t row_bytes = static_cast<size_t>(m.num_blocks) * kBlock * sizeof(uint16_t);
  const auto* x = reinterpret_cast<const std::byte*>(a.bf16) + row * row_bytes;
  const size_t panel_bytes = m.panel_bytes();
  const std::byte* w = m.weights + panel * panel_bytes;
  _tile_zero(0);
  if (P > 1) _tile_zero(1);
  if (P > 2) _tile_zero(2);
  if (P > 3) _tile_zero(3);
  for (int b = 0; b < m.num_blocks; ++b, x += 64, w += 1024) {
    _tile_loadd(4, x, row_bytes);
    _tile_loadd(5, w, 64);
    _tile_dpbf16ps(0, 4, 5);
    if (P > 1) {
      _tile_loadd(6, w + panel_bytes, 64);
      _tile_dpbf16ps(1, 4, 6);
    }
    if (P > 2) {
      _tile_loadd(5, w + 2 * panel_bytes, 64);
      _tile_dpbf16ps(2, 4, 5);
    }
    if (P > 3) {
      _tile_loadd(6, w + 3 * panel_bytes, 64);
      _tile_dpbf16ps(3, 4, 6);
    }
  }
  alignas(64) float sums[P][kTileRows][kPanel];
  _tile_stored(0, sums[0], 64);
  if constexpr (P > 1) _tile_stored(1, sums[1], 64);
  if constexpr (P > 2) _tile_stored(2, sums[2], 64);
  if constexpr (P > 3) _tile_stored(3, sums[3], 64);
  for (int p = 0; p < P; ++p) {
    for (int r = 0; r < rows; ++r) {
      _mm512_mask_storeu_ps(y + (static_cast<size_t>(row) + r) * ldy + (panel + p) * kPanel, lane_mask(m, panel + p),
                            _mm512_load_ps(sums[p][r]));
    }
  }
}

void bf16_multiply(const PackedMatrix& m, const Activations& a, const LinearTask& task, float* y, int ldy) {
  int row = task.row_begin;
  while (row < task.row_end) {
    // One configuration for all full tiles, one for the rest.
    const int left = task.row_end - row;
    const int rows = std::min(left, kTileRows);
    const int end = row + left / rows * rows;
    TileConfig config;
    for (const int sums : {0, 1, 2, 3}) config.set(sums, rows, 64);
    config.set(4, rows, 64);
    for (const int weights : {5, 6}) config.set(weights, 16, 64);
    const TileScope scope(config);
    int panel = task.panel_begin;
    for (; panel + 4 <= task.panel_end; panel += 4) {
      for (int r = row; r < end; r += rows) bf16_tile<4>(m, panel, a, r, rows, y, ldy);
    }
    for (; panel < task.panel_end; ++panel) {
      for (int r = row; r < end; r += rows) bf16_tile<1>(m, panel, a, r, rows, y, ldy);
    }
    row = end;
  }
}

void multiply(const PackedMatrix& m, const Activations& a, const LinearTask& task, float* y, int ldy) {
  switch (m.format) {
    case WeightFormat::kF32: return kLinearAvx512.multiply(m, a, task, y, ldy);
    case WeightFormat::kBf16: return bf16_multiply(m, a, task, y, ldy);
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

void quantize_row(const PackedMatrix& m, const Activations& a, int row, int start_factor) {
  kLinearAvx512.quantize_row(m, a, row, start_factor);
}

void round_row(const PackedMatrix& m, const Activations& a, int row) { kLinearAvx512Bf16.round_row(m, a, row); }

}  // namespace

const LinearKernels kLinearAmx{"amx", 0, quantize_row, round_row, multiply};

}  // namespace deftree
#endif
