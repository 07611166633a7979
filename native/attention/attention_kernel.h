// The tiled kernel, written once over a vector type and compiled per instruction set (attention_vec128.cpp,
// attention_avx2.cpp, attention_avx512.cpp). page_size is 16 and head_dim a multiple of 64. The layout is drawn in
// docs/tree-attention.md.
//
//   for each key block (up to 4 page spans, 64 lanes; lane = 16 * page of the block + slot):
//     for each row block (up to kRows rows that see any key of it):
//       S[row, lane]  = q[row, :] . K[:, lane]          registers: rows x kTileVecs vectors of lanes
//       P, max, sum   = online softmax in base 2         one vector exp2 per 16 / 8 lanes
//       acc[row, dim] = acc * old_weight + P . V         registers: rows x kTileVecs vectors of dims
//
// A masked key block holds only spans with the same viewers, and only these rows are computed: a flattened chunk of
// many leaves costs the arithmetic of each leaf's own queries.
//
// Everything is in an unnamed namespace and free of the standard library's inline functions, so that no code compiled
// for these instructions can be linked into a path that other machines take.
#pragma once

#include "attention/kernels.h"

namespace deftree::attention {
namespace {

constexpr int kPageSize = 16;
constexpr int kBlockPages = 4;
constexpr int kBlockLanes = kBlockPages * kPageSize;
constexpr float kLog2E = 1.44269504088896340736f;
constexpr float kLn2 = 0.693147180559945309417f;
constexpr int kSqrtHalfBits = 0x3f3504f3;  // of sqrt(1/2) as a float
constexpr float kNegInf = -__builtin_huge_valf();

inline int min_int(int a, int b) { return a < b ? a : b; }

// 2^x for x <= 0, within 2 units in the last place (attention_kernel_test); 0 below -126, exactly 1 at 0.
// x = n + f with |f| <= 1/2; the minimax polynomial of 2^f of degree 6 (Remez, relative error 1.9e-9) has constant
// term 1.
template <class S>
inline typename S::Vec exp2_nonpositive(typename S::Vec x) {
  using Vec = typename S::Vec;
  const Vec clamped = S::max(x, S::set1(-127.0f));
  const Vec n = S::round(clamped);
  const Vec f = S::sub(clamped, n);
  Vec p = S::set1(0x1.41d334p-13f);
  p = S::fma(p, f, S::set1(0x1.5f456ap-10f));
  p = S::fma(p, f, S::set1(0x1.3b2dbcp-7f));
  p = S::fma(p, f, S::set1(0x1.c6aed4p-5f));
  p = S::fma(p, f, S::set1(0x1.ebfbdap-3f));
  p = S::fma(p, f, S::set1(0x1.62e430p-1f));
  p = S::fma(p, f, S::set1(1.0f));
  return S::scale_by_pow2_or_zero(p, n);
}

// log2(x) for normal x > 0, absolute error below 1.5e-7 + half a unit in the last place of the result.
// x = 2^e m with m in [sqrt(1/2), sqrt(2)); log2(m) = 2 / ln(2) * artanh((m - 1) / (m + 1)) by its series to degree 9.
template <class S>
inline typename S::Vec log2_positive(typename S::Vec x) {
  using Vec = typename S::Vec;
  Vec e;
  const Vec m = S::split_exponent(x, e);
  const Vec s = S::div(S::sub(m, S::set1(1.0f)), S::add(m, S::set1(1.0f)));
  const Vec t = S::mul(s, s);
  constexpr float kTwoOverLn2 = 2.88539008177792681472f;
  Vec p = S::set1(kTwoOverLn2 / 9);
  p = S::fma(p, t, S::set1(kTwoOverLn2 / 7));
  p = S::fma(p, t, S::set1(kTwoOverLn2 / 5));
  p = S::fma(p, t, S::set1(kTwoOverLn2 / 3));
  p = S::fma(p, t, S::set1(kTwoOverLn2));
  return S::fma(p, s, e);
}

inline uint64_t low_ones(int n) { return n >= 64 ? ~uint64_t{0} : (uint64_t{1} << n) - 1; }

// Bits [begin, begin + len) of a mask row, len <= 64; bits before 0 are ones (the dense tokens).
inline uint64_t mask_bits(const uint64_t* words, int begin, int len) {
  if (begin < 0) {
    const int dense = min_int(-begin, len);
    const uint64_t rest = len > dense ? mask_bits(words, 0, len - dense) << dense : 0;
    return low_ones(dense) | rest;
  }
  const int offset = begin & 63;
  uint64_t bits = words[begin >> 6] >> offset;
  if (offset + len > 64) bits |= words[(begin >> 6) + 1] << (64 - offset);
  return bits & low_ones(len);
}

template <class S>
class ItemKernel {
  using Vec = typename S::Vec;
  static constexpr int kWidth = S::kWidth;
  static constexpr int kRows = S::kRows;          // rows of a register tile
  static constexpr int kTileVecs = S::kTileVecs;  // vectors of a register tile
  static constexpr int kPageVecs = kPageSize / kWidth;

  struct BlockPage {
    const void* k;   // [head_dim, kPageSize] of the KV type
    const void* v;   // [kPageSize, head_dim]
    int begin, end;  // slots of the span
  };
  struct Block {
    BlockPage pages[kBlockPages];
    int num_pages = 0;
  };
  // The rows of a tile: pointers, so that rows need not be neighbours.
  struct Rows {
    const float* q[kRows];
    float* acc[kRows];
    float* sum[kRows];
    float* max[kRows];
    uint64_t lanes[kRows];
  };

 public:
  static size_t scratch_bytes(const AttentionShape& shape, int max_group_len) {
    const size_t rows = static_cast<size_t>(max_group_len) * shape.group_size();
    const size_t floats = rows * (2 * shape.head_dim + kWidth + 2) + 2 * kBlockLanes * shape.head_dim;
    return floats * sizeof(float) + max_group_len * sizeof(uint64_t) + rows * sizeof(int32_t) + 9 * 64;
  }

  explicit ItemKernel(const ItemTask& task)
      : task_(task),
        head_dim_(task.head_dim()),
        group_size_(task.params->shape.group_size()),
        num_rows_(task.num_rows()),
        half_(task.params->kv.type == KvType::kF16) {
    std::byte* next = task.scratch;
    auto take = [&next](size_t bytes) {
      std::byte* taken = next;
      next += (bytes + 63) / 64 * 64;
      return taken;
    };
    const size_t rows = num_rows_, row_bytes = rows * head_dim_ * sizeof(float);
    q_ = reinterpret_cast<float*>(take(row_bytes));
    acc_ = reinterpret_cast<float*>(take(row_bytes));
    k_floats_ = reinterpret_cast<float*>(take(kBlockLanes * head_dim_ * sizeof(float)));
    v_floats_ = reinterpret_cast<float*>(take(kBlockLanes * head_dim_ * sizeof(float)));
    sum_ = reinterpret_cast<float*>(take(rows * kWidth * sizeof(float)));
    max_ = reinterpret_cast<float*>(take(rows * sizeof(float)));
    lse_ = reinterpret_cast<float*>(take(rows * sizeof(float)));
    viewers_ = reinterpret_cast<uint64_t*>(take(task.group_len() * sizeof(uint64_t)));
    rows_ = reinterpret_cast<int32_t*>(take(rows * sizeof(int32_t)));
  }

  void run() {
    load_rows();
    const WorkItem& item = *task_.item;
    int token = 0, span = 0;
    while (span < task_.num_spans()) {
      Block block;
      if (token + task_.spans()[span].len() <= item.dense_len) {
        const uint64_t lanes = gather_dense(block, span, token);
        for (int i = 0; i < num_rows_; ++i) rows_[i] = i;
        attend_block(block, num_rows_, [lanes](int) { return lanes; });
      } else {
        gather_masked(block, span, token);
        int count = 0;
        for (int i = 0; i < task_.group_len(); ++i) {
          if (viewers_[i] == 0) continue;
          for (int g = 0; g < group_size_; ++g) rows_[count++] = i * group_size_ + g;
        }
        attend_block(block, count, [this](int row) { return viewers_[row / group_size_]; });
      }
    }
    store_rows();
  }

 private:
  void load_rows() {
    const Vec scale = S::set1(task_.params->sm_scale * kLog2E);
    const int query_size = group_size_ * head_dim_;
    for (int i = 0; i < task_.group_len(); ++i) {
      const float* q = task_.params->q + task_.query_row(i) * head_dim_;
      for (int d = 0; d < query_size; d += kWidth) {
        S::store(q_ + i * query_size + d, S::mul(S::load(q + d), scale));
        S::store(acc_ + i * query_size + d, S::zero());
      }
    }
    for (int row = 0; row < num_rows_; ++row) {
      S::store(sum_ + row * kWidth, S::zero());
      max_[row] = kNegInf;
    }
  }

  void add_page(Block& block, const PageSpan& span) const {
    const AttentionShape& shape = task_.params->shape;
    const size_t offset = (static_cast<size_t>(span.page) * shape.num_kv_heads + task_.kv_head) * head_dim_ * kPageSize;
    const size_t bytes = offset * (half_ ? sizeof(uint16_t) : sizeof(float));
    block.pages[block.num_pages++] = {static_cast<const std::byte*>(task_.params->kv.k) + bytes,
                                      static_cast<const std::byte*>(task_.params->kv.v) + bytes, span.begin, span.end};
  }

  // Takes spans as long as all their tokens are dense. Returns the lanes that hold keys.
  uint64_t gather_dense(Block& block, int& span, int& token) const {
    uint64_t lanes = 0;
    while (block.num_pages < kBlockPages && span < task_.num_spans()) {
      const PageSpan& s = task_.spans()[span];
      if (token + s.len() > task_.item->dense_len) break;
      lanes |= low_ones(s.len()) << (block.num_pages * kPageSize + s.begin);
      add_page(block, s);
      token += s.len();
      ++span;
    }
    return lanes;
  }

  // Takes the next span and those after it with the same viewers; sets viewers_[query] to the lanes it sees.
  void gather_masked(Block& block, int& span, int& token) {
    const int group_len = task_.group_len();
    for (int i = 0; i < group_len; ++i) viewers_[i] = 0;
    while (block.num_pages < kBlockPages && span < task_.num_spans()) {
      const PageSpan& s = task_.spans()[span];
      const int bit = token - task_.item->dense_len;
      if (block.num_pages > 0 && !same_viewers(bit, s.len())) break;
      const int lane = block.num_pages * kPageSize + s.begin;
      for (int i = 0; i < group_len; ++i) viewers_[i] |= mask_bits(task_.mask_of(i), bit, s.len()) << lane;
      add_page(block, s);
      token += s.len();
      ++span;
    }
  }

  bool same_viewers(int bit, int len) const {
    for (int i = 0; i < task_.group_len(); ++i) {
      if ((mask_bits(task_.mask_of(i), bit, len) != 0) != (viewers_[i] != 0)) return false;
    }
    return true;
  }

  // Attends the first `count` rows of rows_ to the block; lanes_of(row): the lanes that the row sees.
  template <class LanesOf>
  void attend_block(Block& block, int count, LanesOf lanes_of) {
    int num_tiles = (count + kRows - 1) / kRows;
    // Rows that follow one another would convert the same halves again; a single tile converts while it loads.
    const bool convert = half_ && num_tiles > 1;
    if (convert) convert_block(block);
    const bool halves = half_ && !convert;

    const int32_t* next = rows_;
    for (int left = count; left > 0; --num_tiles) {
      const int tile_rows = (left + num_tiles - 1) / num_tiles;
      Rows rows;
      for (int r = 0; r < tile_rows; ++r) {
        const int row = next[r];
        rows.q[r] = q_ + static_cast<size_t>(row) * head_dim_;
        rows.acc[r] = acc_ + static_cast<size_t>(row) * head_dim_;
        rows.sum[r] = sum_ + static_cast<size_t>(row) * kWidth;
        rows.max[r] = max_ + row;
        rows.lanes[r] = lanes_of(row);
      }
      if (halves)
        attend_tile_of<uint16_t>(block, rows, tile_rows);
      else
        attend_tile_of<float>(block, rows, tile_rows);
      next += tile_rows;
      left -= tile_rows;
    }
  }

  void convert_block(Block& block) {
    for (int p = 0; p < block.num_pages; ++p) {
      BlockPage& page = block.pages[p];
      const uint16_t* k = static_cast<const uint16_t*>(page.k);
      const uint16_t* v = static_cast<const uint16_t*>(page.v);
      float* k_to = k_floats_ + static_cast<size_t>(p) * kPageSize * head_dim_;
      float* v_to = v_floats_ + static_cast<size_t>(p) * kPageSize * head_dim_;
      for (int i = 0; i < kPageSize * head_dim_; i += kWidth) S::store(k_to + i, S::load(k + i));
      for (int i = page.begin * head_dim_; i < page.end * head_dim_; i += kWidth) S::store(v_to + i, S::load(v + i));
      page.k = k_to;
      page.v = v_to;
    }
  }

  template <class T>
  void attend_tile_of(const Block& block, const Rows& rows, int tile_rows) {
    static_assert(kRows == 6);
    switch (tile_rows) {
      case 1:
        attend_tile<1, T>(block, rows);
        break;
      case 2:
        attend_tile<2, T>(block, rows);
        break;
      case 3:
        attend_tile<3, T>(block, rows);
        break;
      case 4:
        attend_tile<4, T>(block, rows);
        break;
      case 5:
        attend_tile<5, T>(block, rows);
        break;
      default:
        attend_tile<6, T>(block, rows);
        break;
    }
  }

  template <int kNumRows, class T>
  void attend_tile(const Block& block, const Rows& rows) {
    alignas(64) float p[kNumRows * kBlockLanes];
    alignas(64) float old_weight[kWidth > kRows ? kWidth : 2 * kWidth];
    compute_scores<kNumRows, T>(block, rows, p);
    softmax<kNumRows>(block.num_pages * kPageVecs, rows, p, old_weight);
    for (int d = 0; d < head_dim_; d += kTileVecs * kWidth) add_values<kNumRows, T>(block, rows, p, old_weight, d);
  }

  template <int kNumRows, class T>
  void compute_scores(const Block& block, const Rows& rows, float* p) {
    if constexpr (kTileVecs <= kPageVecs) {
      for (int page = 0; page < block.num_pages; ++page) {
        for (int v = 0; v < kPageVecs; v += kTileVecs) {
          const T* k[kTileVecs];
          for (int i = 0; i < kTileVecs; ++i) k[i] = static_cast<const T*>(block.pages[page].k) + (v + i) * kWidth;
          score_tile<kNumRows, kTileVecs, T>(k, rows, p + page * kPageSize + v * kWidth);
        }
      }
    } else {
      static_assert(kPageVecs == 1 && kTileVecs == kBlockPages);
      const T* k[kBlockPages];
      for (int page = 0; page < block.num_pages; ++page) k[page] = static_cast<const T*>(block.pages[page].k);
      switch (block.num_pages) {
        case 1:
          score_tile<kNumRows, 1, T>(k, rows, p);
          break;
        case 2:
          score_tile<kNumRows, 2, T>(k, rows, p);
          break;
        case 3:
          score_tile<kNumRows, 3, T>(k, rows, p);
          break;
        default:
          score_tile<kNumRows, 4, T>(k, rows, p);
          break;
      }
    }
  }

  // p[r * kBlockLanes + v * kWidth ...] = q[r] . k[v]; k[v]: kWidth lanes of each dimension, kPageSize apart.
  template <int kNumRows, int kNumVecs, class T>
  void score_tile(const T* const* k, const Rows& rows, float* p) const {
    Vec s[kNumRows][kNumVecs];
    for (int r = 0; r < kNumRows; ++r)
      for (int v = 0; v < kNumVecs; ++v) s[r][v] = S::zero();
    for (int d = 0; d < head_dim_; ++d) {
      Vec key[kNumVecs];
      for (int v = 0; v < kNumVecs; ++v) key[v] = S::load(k[v] + static_cast<size_t>(d) * kPageSize);
      for (int r = 0; r < kNumRows; ++r) {
        const Vec q = S::set1(rows.q[r][d]);
        for (int v = 0; v < kNumVecs; ++v) s[r][v] = S::fma(q, key[v], s[r][v]);
      }
    }
    for (int r = 0; r < kNumRows; ++r)
      for (int v = 0; v < kNumVecs; ++v) S::store(p + r * kBlockLanes + v * kWidth, s[r][v]);
  }

  // Turns scores into weights relative to the new maximum and writes the weight of what each row has so far. Every row
  // sees at least one lane. Lanes it does not see may hold anything, NaN included, until they are selected away.
  template <int kNumRows>
  void softmax(int num_vecs, const Rows& rows, float* p, float* old_weight) const {
    alignas(64) float old_max[kWidth > kRows ? kWidth : 2 * kWidth] = {};
    alignas(64) float new_max[kWidth > kRows ? kWidth : 2 * kWidth] = {};
    for (int r = 0; r < kNumRows; ++r) {
      Vec largest = S::set1(kNegInf);
      for (int v = 0; v < num_vecs; ++v) {
        float* at = p + r * kBlockLanes + v * kWidth;
        const Vec score = S::select(rows.lanes[r] >> (v * kWidth), S::load(at), S::set1(kNegInf));
        S::store(at, score);
        largest = S::max(largest, score);
      }
      const float block_max = S::reduce_max(largest);
      old_max[r] = *rows.max[r];
      new_max[r] = block_max > old_max[r] ? block_max : old_max[r];
    }
    for (int r = 0; r < kNumRows; r += kWidth)
      S::store(old_weight + r, exp2_nonpositive<S>(S::sub(S::load(old_max + r), S::load(new_max + r))));
    for (int r = 0; r < kNumRows; ++r) {
      const Vec max = S::set1(new_max[r]);
      Vec sum = S::mul(S::load(rows.sum[r]), S::set1(old_weight[r]));
      for (int v = 0; v < num_vecs; ++v) {
        float* at = p + r * kBlockLanes + v * kWidth;
        const Vec weight = exp2_nonpositive<S>(S::sub(S::load(at), max));
        S::store(at, weight);
        sum = S::add(sum, weight);
      }
      S::store(rows.sum[r], sum);
      *rows.max[r] = new_max[r];
    }
  }

  // Dimensions [dim, dim + kTileVecs * kWidth): acc[r] = acc[r] * old_weight[r] + sum over the block's keys of p * v.
  template <int kNumRows, class T>
  void add_values(const Block& block, const Rows& rows, const float* p, const float* old_weight, int dim) const {
    Vec acc[kNumRows][kTileVecs];
    for (int r = 0; r < kNumRows; ++r) {
      const Vec weight = S::set1(old_weight[r]);
      for (int i = 0; i < kTileVecs; ++i) acc[r][i] = S::mul(S::load(rows.acc[r] + dim + i * kWidth), weight);
    }
    for (int page = 0; page < block.num_pages; ++page) {
      const BlockPage& source = block.pages[page];
      const float* weights = p + page * kPageSize;
      for (int slot = source.begin; slot < source.end; ++slot) {
        const T* v = static_cast<const T*>(source.v) + static_cast<size_t>(slot) * head_dim_ + dim;
        Vec value[kTileVecs];
        for (int i = 0; i < kTileVecs; ++i) value[i] = S::load(v + i * kWidth);
        for (int r = 0; r < kNumRows; ++r) {
          const Vec weight = S::set1(weights[r * kBlockLanes + slot]);
          for (int i = 0; i < kTileVecs; ++i) acc[r][i] = S::fma(weight, value[i], acc[r][i]);
        }
      }
    }
    for (int r = 0; r < kNumRows; ++r)
      for (int i = 0; i < kTileVecs; ++i) S::store(rows.acc[r] + dim + i * kWidth, acc[r][i]);
  }

  // A row without keys (only a dense mask's group may hold one) gets O = 0 and LSE = -inf.
  void store_rows() {
    // The lane-wise sums shrink in place to one per row: no row's lanes are overwritten before they are read.
    for (int row = 0; row < num_rows_; ++row)
      sum_[row] = S::reduce_add(S::load(sum_ + static_cast<size_t>(row) * kWidth));
    for (int row = 0; row < num_rows_; row += kWidth) {
      const Vec sum = S::load(sum_ + row);
      const uint64_t any = S::positive(sum);
      const Vec lse = S::mul(S::add(S::load(max_ + row), log2_positive<S>(sum)), S::set1(kLn2));
      S::store(lse_ + row, S::select(any, lse, S::set1(kNegInf)));
      S::store(sum_ + row, S::select(any, S::div(S::set1(1.0f), sum), S::zero()));
    }

    const float* acc = acc_;
    for (int i = 0, row = 0; i < task_.group_len(); ++i) {
      float* o = task_.out_rows(i);
      float* lse = task_.direct() ? nullptr : task_.partial_lse + task_.partial_row(i);
      for (int g = 0; g < group_size_; ++g, ++row) {
        const Vec inverse = S::set1(sum_[row]);
        for (int d = 0; d < head_dim_; d += kWidth) S::store(o + d, S::mul(S::load(acc + d), inverse));
        if (lse != nullptr) lse[g] = lse_[row];
        o += head_dim_;
        acc += head_dim_;
      }
    }
  }

  const ItemTask& task_;
  const int head_dim_, group_size_, num_rows_;
  const bool half_;
  float* q_;           // [num_rows, head_dim], times sm_scale * log2(e)
  float* acc_;         // [num_rows, head_dim]
  float* k_floats_;    // [kBlockPages, head_dim, kPageSize]
  float* v_floats_;    // [kBlockPages, kPageSize, head_dim]
  float* sum_;         // [num_rows, kWidth], lane-wise sums of weights
  float* max_;         // [num_rows]
  float* lse_;         // [num_rows]
  uint64_t* viewers_;  // [group_len] lanes of the block that the query sees
  int32_t* rows_;      // [num_rows] rows that see the block
};

template <class S>
void attend_item_with(const ItemTask& task) {
  ItemKernel<S>(task).run();
}

// The same merge as AttentionState's, with all weights relative to the largest LSE from the start.
template <class S>
void merge_with(const MergeTask& task) {
  using Vec = typename S::Vec;
  constexpr int kDims = S::kTileVecs * S::kWidth;
  float max = kNegInf;
  for (int i = 0; i < task.num_slots; ++i) {
    const float lse = task.partial_lse[task.row(i)];
    max = lse > max ? lse : max;
  }
  if (max == kNegInf) max = 0;  // all empty: every weight below becomes 0
  for (int d = 0; d < task.head_dim; d += kDims) {
    Vec acc[S::kTileVecs], sum = S::zero();
    for (int v = 0; v < S::kTileVecs; ++v) acc[v] = S::zero();
    for (int i = 0; i < task.num_slots; ++i) {
      const Vec weight = exp2_nonpositive<S>(S::set1((task.partial_lse[task.row(i)] - max) * kLog2E));
      const float* o = task.partial_o + task.row(i) * task.head_dim + d;
      for (int v = 0; v < S::kTileVecs; ++v) acc[v] = S::fma(weight, S::load(o + v * S::kWidth), acc[v]);
      sum = S::add(sum, weight);
    }
    const float total = S::first(sum);
    const Vec inverse = S::set1(total > 0 ? 1 / total : 0.0f);
    for (int v = 0; v < S::kTileVecs; ++v) S::store(task.out + d + v * S::kWidth, S::mul(acc[v], inverse));
  }
}

template <class S>
void to_half_with(const float* src, uint16_t* dst, int n) {
  int i = 0;
  for (; i + S::kWidth <= n; i += S::kWidth) S::store_half(dst + i, S::load(src + i));
  for (; i < n; ++i) dst[i] = S::to_half(src[i]);
}

}  // namespace
}  // namespace deftree::attention
