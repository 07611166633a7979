#include "attention/cuda/packed_append.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "attention/cuda/params_cuda.h"

namespace deftree::attention {
namespace {

class Appender {
 public:
  explicit Appender(PackedPlan& packed) : packed_(packed), header_(packed.header()) {}

  // A step's new tokens go to the tiles marked as fresh by the step before, so only those are looked at.
  std::optional<int64_t> run(std::span<const AppendedToken> appended) {
    const auto page_before = [&](int32_t i) { return appended[i].previous_slot / kCudaPageSize; };
    std::vector<int32_t>& by_page = packed_.appended_by_page;
    by_page.resize(appended.size());
    std::iota(by_page.begin(), by_page.end(), 0);
    std::ranges::sort(by_page, {}, page_before);

    packed_.append_places.clear();
    for (int32_t i = 0; i < static_cast<int32_t>(packed_.items.size()); ++i) {
      const PackedItem& item = packed_.items[i];
      for (int32_t t = item.tile_begin; t < item.tile_begin + item.num_tiles; ++t) {
        KvTile& tile = tiles()[t];
        if ((tile.flags & kTileFresh) == 0) continue;
        tile.flags &= ~kTileFresh;
        for (int32_t p = 0; p < kTilePages && tile.page[p] >= 0; ++p) {
          for (const int32_t token : std::ranges::equal_range(by_page, tile.page[p], {}, page_before)) {
            const int32_t row = p * kCudaPageSize + appended[token].previous_slot % kCudaPageSize;
            if (tile.valid >> row & 1) packed_.append_places.push_back({i, t, row, token});
          }
        }
      }
    }
    for (const AppendPlace& place : packed_.append_places) {
      if (!add(packed_.items[place.item], place.tile, place.row, appended[place.appended])) return std::nullopt;
    }
    return static_cast<int64_t>(packed_.append_places.size());
  }

 private:
  KvTile* tiles() { return reinterpret_cast<KvTile*>(packed_.bytes.data() + header_.tiles); }
  uint64_t* mask_words() { return reinterpret_cast<uint64_t*>(packed_.bytes.data() + header_.mask_words); }

  bool add(PackedItem& item, int32_t from_tile, int32_t from_row, const AppendedToken& token) {
    const int32_t page = token.slot / kCudaPageSize, offset = token.slot % kCudaPageSize;
    int32_t tile = from_tile, position = from_row / kCudaPageSize;
    if (page != token.previous_slot / kCudaPageSize && !find_page(item, page, tile, position)) return false;
    const int32_t row = position * kCudaPageSize + offset;
    show(item, from_tile, from_row, tile, row);
    tiles()[tile].valid |= uint64_t{1} << row;
    tiles()[tile].flags |= kTileFresh;
    return true;
  }

  // A place for a page that the item does not hold yet: the first free one of its last tile, or of the tile behind.
  bool find_page(PackedItem& item, int32_t page, int32_t& tile, int32_t& position) {
    const auto first_free = [&] {
      const int32_t* pages = tiles()[tile].page;
      return static_cast<int32_t>(std::find(pages, pages + kTilePages, -1) - pages);
    };
    tile = item.tile_begin + item.num_tiles - 1;
    position = first_free();
    if (position == kTilePages) {
      const int32_t end = item.tile_begin + item.num_tiles;
      if (end >= packed_.num_tiles() || tiles()[end].valid != 0 || tiles()[end].page[0] != -1) return false;
      lengthen(item);
      tile = end;
      position = 0;
    }
    tiles()[tile].page[position] = page;
    return true;
  }

  // The item stands once for each KV head, the first of a bin in the bin.
  void lengthen(PackedItem& item) {
    const int32_t tile_begin = item.tile_begin;
    ++item.num_tiles;
    auto* items = reinterpret_cast<PackedItem*>(packed_.bytes.data() + header_.items);
    for (int32_t i = 0; i < header_.num_items; ++i) {
      if (items[i].tile_begin == tile_begin) items[i].num_tiles = item.num_tiles;
    }
    auto* bins = reinterpret_cast<PackedBin*>(packed_.bytes.data() + sizeof(PackedPlanHeader));
    for (int32_t b = 0; b < header_.num_bins; ++b) {
      PackedItem& first = bins[b].first;
      if (first.num_tiles > 0 && first.tile_begin == tile_begin) first.num_tiles = item.num_tiles;
    }
  }

  // Lets the queries that see row `from_row` of `from_tile` see row `row` of `tile`, and no others.
  void show(const PackedItem& item, int32_t from_tile, int32_t from_row, int32_t tile, int32_t row) {
    const auto sees = [&](int32_t query) {
      const KvTile& from = tiles()[from_tile];
      return from.mask_begin < 0 || (mask_words()[from.mask_begin + query] >> from_row & 1) != 0;
    };
    bool all = true;
    for (int32_t i = 0; i < item.num_queries; ++i) all = all && sees(i);
    if (tiles()[tile].mask_begin < 0) {
      if (all) return;
      add_mask(tile, item.num_queries);
    }
    const int32_t mask_begin = tiles()[tile].mask_begin;
    for (int32_t i = 0; i < item.num_queries; ++i) {
      if (sees(i)) mask_words()[mask_begin + i] |= uint64_t{1} << row;
    }
    tiles()[tile].flags |= kAllParts;
  }

  // Mask words stand last, so that more can follow.
  void add_mask(int32_t tile, int32_t num_queries) {
    const size_t words = (num_queries + 1) / 2 * 2;
    const size_t begin = (packed_.bytes.size() - header_.mask_words) / sizeof(uint64_t);
    packed_.bytes.resize(packed_.bytes.size() + words * sizeof(uint64_t));
    KvTile& masked = tiles()[tile];
    masked.mask_begin = static_cast<int32_t>(begin);
    std::fill_n(mask_words() + begin, words, masked.valid);
  }

  PackedPlan& packed_;
  const PackedPlanHeader header_;
};

}  // namespace

std::optional<int64_t> append_to_packed_plan(PackedPlan& packed, std::span<const AppendedToken> appended) {
  return Appender(packed).run(appended);
}

}  // namespace deftree::attention
