#include "attention/cuda/packed_plan.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <string>
#include <type_traits>

#include "attention/cuda/params_cuda.h"
#include "common/error.h"

namespace deftree::attention {
namespace {

// Plans with more items are prefills, to which nothing is appended in place.
constexpr size_t kMaxSpareItems = 1024;

uint64_t low_bits(int count) { return count >= 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1; }

// `count` <= 64 bits of `words` from bit `begin` on.
uint64_t read_bits(const uint64_t* words, int begin, int count) {
  const int word = begin / 64, shift = begin % 64;
  uint64_t bits = words[word] >> shift;
  if (shift + count > 64) bits |= words[word + 1] << (64 - shift);
  return bits & low_bits(count);
}

class Packer {
 public:
  Packer(const Plan& plan, const AttentionShape& shape, PackedPlan& packed)
      : plan_(plan), group_size_(shape.group_size()), num_kv_heads_(shape.num_kv_heads), packed_(packed) {
    packed.items.clear();
    packed.tiles.clear();
    packed.mask_words.clear();
    packed.merges.clear();
    packed.num_rows_read = 0;
  }

  void add_items() {
    for (const WorkItem& item : plan_.items) add_item(item);
    for (const PackedItem& item : packed_.items) packed_.num_rows_read += int64_t{item.num_tiles} * kTileLen;
  }

  void add_merges() {
    for (int32_t q = 0; q < plan_.counters.num_queries; ++q) {
      const int32_t begin = plan_.merge_indptr[q], end = plan_.merge_indptr[q + 1];
      if (begin == end) continue;
      PackedMerge merge{q, end - begin, begin, 0, {}};
      const int32_t num_first = std::min(end - begin, PackedMerge::kFirstSlots);
      std::copy_n(plan_.merge_slots.begin() + begin, num_first, merge.first_slots);
      packed_.merges.push_back(merge);
    }
    for (int32_t q : plan_.empty_queries) packed_.merges.push_back({q, 0, 0, 0, {}});
  }

  // Largest first, each to the bin with the least so far (Graham's LPT rule).
  void fill_bins(int num_bins) {
    const size_t num_tasks = packed_.items.size() * num_kv_heads_;
    std::vector<int32_t>& order = packed_.order;
    order.resize(num_tasks);
    for (size_t i = 0; i < num_tasks; ++i) order[i] = static_cast<int32_t>(i);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return cost(a) > cost(b); });

    struct Bin {
      int64_t cost;
      int32_t index;
      bool operator<(const Bin& other) const { return cost != other.cost ? cost > other.cost : index > other.index; }
    };
    std::vector<Bin> heap;
    for (int32_t b = 0; b < num_bins; ++b) heap.push_back({0, b});
    std::make_heap(heap.begin(), heap.end());
    packed_.bin_of_task.resize(num_tasks);
    for (int32_t i : order) {
      std::pop_heap(heap.begin(), heap.end());
      packed_.bin_of_task[i] = heap.back().index;
      heap.back().cost += cost(i);
      std::push_heap(heap.begin(), heap.end());
    }
    std::stable_sort(order.begin(), order.end(),
                     [&](int32_t a, int32_t b) { return packed_.bin_of_task[a] < packed_.bin_of_task[b]; });

    packed_.items_by_bin.clear();
    for (int32_t i : order) {
      packed_.items_by_bin.push_back(packed_.items[i / num_kv_heads_]);
      packed_.items_by_bin.back().kv_head = i % num_kv_heads_;
    }
    packed_.bins.assign(num_bins, {});
    for (size_t i = 0; i < num_tasks;) {
      PackedBin& bin = packed_.bins[packed_.bin_of_task[order[i]]];
      bin.first = packed_.items_by_bin[i];
      bin.next_begin = static_cast<int32_t>(i + 1);
      const int32_t index = packed_.bin_of_task[order[i]];
      while (i < num_tasks && packed_.bin_of_task[order[i]] == index) ++i;
      bin.next_end = static_cast<int32_t>(i);
    }
  }

  void write(int num_bins) {
    PackedPlanHeader header{};
    header.num_bins = num_bins;
    header.num_items = static_cast<int32_t>(packed_.items_by_bin.size());
    header.num_merges = static_cast<int32_t>(packed_.merges.size());
    header.max_rows = plan_.max_group_len * group_size_;
    packed_.bytes.resize(sizeof(header));
    append(packed_.bins);
    header.items = append(packed_.items_by_bin);
    header.tiles = append(packed_.tiles);
    header.group_queries = append(plan_.group_queries);
    header.merges = append(packed_.merges);
    header.merge_slots = append(plan_.merge_slots);
    header.mask_words = append(packed_.mask_words);
    std::memcpy(packed_.bytes.data(), &header, sizeof(header));
  }

 private:
  int64_t cost(int32_t task) const {
    const PackedItem& item = packed_.items[task / num_kv_heads_];
    return packed_item_cost(item.num_tiles, item.num_queries * group_size_);
  }

  // Spans in one page that follow each other share its rows.
  void add_item(const WorkItem& item) {
    const int32_t num_queries = item.query_end - item.query_begin;
    const int32_t tile_begin = static_cast<int32_t>(packed_.tiles.size());
    int32_t num_pages = 0, last_page = -1;
    int32_t token = 0;
    for (int32_t s = item.span_begin; s < item.span_end; ++s) {
      const PageSpan span = plan_.spans[s];
      const uint64_t rows = low_bits(span.len()) << span.begin;
      const int32_t last_shift = (num_pages - 1) % kTilePages * kCudaPageSize;
      const bool same = span.page == last_page && ((packed_.tiles.back().valid >> last_shift) & rows) == 0;
      if (!same) {
        if (num_pages % kTilePages == 0) {
          end_tile(tile_begin, num_queries);
          packed_.tiles.push_back({{-1, -1, -1, -1}, 0, -1, kAllParts});
        }
        packed_.tiles.back().page[num_pages % kTilePages] = span.page;
        last_page = span.page;
        ++num_pages;
      }
      const int32_t shift = (num_pages - 1) % kTilePages * kCudaPageSize;
      KvTile& tile = packed_.tiles.back();
      if (token + span.len() > item.dense_len) add_masked_span(item, tile, token, span, shift);
      else if (tile.mask_begin >= 0) add_for_all(tile, num_queries, rows << shift);
      tile.valid |= rows << shift;
      if (plan_.span_is_fresh[s]) tile.flags |= kTileFresh;
      token += span.len();
    }
    end_tile(tile_begin, num_queries);
    packed_.items.push_back({tile_begin, static_cast<int32_t>(packed_.tiles.size()) - tile_begin, item.query_begin,
                             num_queries, item.partial_begin, 0, {}});
    if (plan_.items.size() <= kMaxSpareItems) packed_.tiles.push_back({{-1, -1, -1, -1}, 0, -1, kAllParts});
  }

  void add_for_all(const KvTile& tile, int32_t num_queries, uint64_t rows) {
    for (int32_t i = 0; i < num_queries; ++i) packed_.mask_words[tile.mask_begin + i] |= rows;
  }

  void add_masked_span(const WorkItem& item, KvTile& tile, int32_t token, const PageSpan& span, int32_t shift) {
    const int32_t num_queries = item.query_end - item.query_begin;
    if (tile.mask_begin < 0) {
      tile.mask_begin = static_cast<int32_t>(packed_.mask_words.size());
      packed_.mask_words.resize(packed_.mask_words.size() + (num_queries + 1) / 2 * 2, tile.valid);
    }
    const int32_t dense = std::clamp(item.dense_len - token, 0, span.len());
    for (int32_t i = 0; i < num_queries; ++i) {
      const uint64_t* words = plan_.mask_words.data() + item.mask_begin + static_cast<int64_t>(i) * item.mask_stride;
      uint64_t bits = low_bits(dense);
      if (dense < span.len()) bits |= read_bits(words, token + dense - item.dense_len, span.len() - dense) << dense;
      packed_.mask_words[tile.mask_begin + i] |= bits << (span.begin + shift);
    }
  }

  // A tile whose rows all queries see needs no mask after all.
  void end_tile(int32_t tile_begin, int32_t num_queries) {
    if (static_cast<int32_t>(packed_.tiles.size()) == tile_begin || packed_.tiles.back().mask_begin < 0) return;
    KvTile& tile = packed_.tiles.back();
    const auto begin = packed_.mask_words.begin() + tile.mask_begin;
    if (std::all_of(begin, begin + num_queries, [&](uint64_t word) { return word == tile.valid; })) {
      packed_.mask_words.erase(begin, packed_.mask_words.end());
      tile.mask_begin = -1;
      return;
    }
    const int part_len = std::max(kPartRows / group_size_, 1);
    if (num_queries <= part_len) return;
    tile.flags &= ~kAllParts;
    for (int32_t i = 0; i < num_queries; ++i) {
      if (begin[i] != 0) tile.flags |= 1 << std::min(i / part_len, kNumParts - 1);
    }
  }

  template <class T>
  uint32_t append(const std::vector<T>& values) {
    static_assert(std::is_trivially_copyable_v<T>);
    const size_t begin = (packed_.bytes.size() + 31) / 32 * 32;
    if (begin > std::numeric_limits<uint32_t>::max())
      throw Error(ErrorCode::kBadArgument, "attention plan: more than 4 GiB of tiles and masks for the GPU");
    packed_.bytes.resize(begin + values.size() * sizeof(T));
    if (!values.empty()) std::memcpy(packed_.bytes.data() + begin, values.data(), values.size() * sizeof(T));
    return static_cast<uint32_t>(begin);
  }

  const Plan& plan_;
  const int group_size_, num_kv_heads_;
  PackedPlan& packed_;
};

}  // namespace

int64_t packed_item_cost(int num_tiles, int num_rows) {
  constexpr int64_t kPartCost = 8, kItemCost = 24;
  return num_tiles * kPartCost * ((num_rows + kPartRows - 1) / kPartRows) + kItemCost;
}

void pack_plan(const Plan& plan, const AttentionShape& shape, int num_bins, PackedPlan& packed) {
  if (shape.page_size != kCudaPageSize)
    throw Error(ErrorCode::kBadArgument, "attention on the GPU takes pages of 16 slots, not of " +
                                             std::to_string(shape.page_size));
  Packer packer(plan, shape, packed);
  packer.add_items();
  packer.add_merges();
  packer.fill_bins(num_bins);
  packer.write(num_bins);
}

}  // namespace deftree::attention
