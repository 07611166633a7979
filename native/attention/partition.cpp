#include "attention/partition.h"

#include <algorithm>
#include <limits>

namespace deftree::attention {

int padded_rows(int num_rows, const PlanDevice& device) {
  return (num_rows + device.row_step - 1) / device.row_step * device.row_step;
}

int64_t token_cost(int num_rows, const PlanDevice& device, int num_readers) {
  const int rows = padded_rows(num_rows, device);
  return device.reads_ahead ? std::max(device.read_cost / num_readers, rows) : device.read_cost + rows;
}

int choose_group_rows(int64_t num_tokens, int num_rows, int num_kv_heads, const PlanDevice& device) {
  if (device.row_step >= device.max_group_rows) return device.max_group_rows;
  const int64_t num_groups = (num_rows + device.max_group_rows - 1) / device.max_group_rows;
  const bool wide = num_tokens * num_groups * num_kv_heads >= int64_t{device.wide_tokens} * device.num_processors;
  return wide ? device.max_group_rows : device.row_step;
}

int32_t choose_num_items(const PartitionLoad& load, int num_kv_heads, const PlanDevice& device) {
  constexpr int kMaxTasksPerProcessor = 8;
  if (device.num_processors <= 1 || load.num_tiles == 0) return load.num_tiles;

  const double rows_per_item = static_cast<double>(load.num_rows) / load.num_tiles;
  const int32_t enough = load.num_tiles + kMaxTasksPerProcessor * device.num_processors / num_kv_heads + 1;
  int32_t best = load.num_tiles;
  double best_time = std::numeric_limits<double>::infinity();
  for (int32_t n = load.num_tiles; n <= std::min(enough, std::max(load.max_items, load.num_tiles)); ++n) {
    const double states = n == load.num_tiles ? 0 : device.state_cost * rows_per_item;
    const int64_t waves = (static_cast<int64_t>(n) * num_kv_heads + device.num_processors - 1) / device.num_processors;
    const double time = (static_cast<double>(load.cost) / n + states) * (waves + device.lateness);
    if (time < best_time) {
      best = n;
      best_time = time;
    }
  }
  return best;
}

int num_chunks(int64_t cost, int64_t target_cost, int64_t num_tokens, int min_chunk_len) {
  const int64_t wanted = (cost + target_cost / 2) / target_cost;
  const int64_t allowed = num_tokens / min_chunk_len;
  return static_cast<int>(std::max<int64_t>(std::min(wanted, allowed), 1));
}

void choose_tiles(std::span<const int32_t> reread, int max_tile_len, PlanScratch& scratch,
                  std::vector<int32_t>& tile_begin) {
  tile_begin.clear();
  const int32_t num_queries = static_cast<int32_t>(reread.size());
  if (num_queries == 0) return;

  // cost[q]: the least re-read when queries [0, q) are tiled and a tile begins at q; from[q]: where the tile before q
  // begins. `candidates` holds the possible begins, their costs ascending, as a queue with head `first`.
  std::vector<int64_t>& cost = scratch.tile_cost;
  std::vector<int32_t>& from = scratch.tile_from;
  std::vector<int32_t>& candidates = scratch.candidates;
  cost.assign(num_queries + 1, 0);
  from.assign(num_queries + 1, 0);
  candidates.clear();
  size_t first = 0;
  for (int32_t q = 1; q <= num_queries; ++q) {
    const int32_t added = q - 1;
    while (candidates.size() > first && cost[candidates.back()] > cost[added]) candidates.pop_back();
    candidates.push_back(added);
    while (candidates[first] < q - max_tile_len) ++first;
    from[q] = candidates[first];
    cost[q] = cost[from[q]] + (q < num_queries ? reread[q] : 0);
  }
  for (int32_t q = num_queries; q > 0; q = from[q]) tile_begin.push_back(from[q]);
  std::reverse(tile_begin.begin(), tile_begin.end());
}

}  // namespace deftree::attention
