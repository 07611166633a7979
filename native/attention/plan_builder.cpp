#include "attention/plan_builder.h"

#include <algorithm>
#include <limits>

#include "attention/partition.h"

namespace deftree::attention {
namespace {

void set_bits(uint64_t* words, int32_t begin, int32_t end) {
  while (begin < end) {
    const int32_t offset = begin & 63;
    const int32_t count = std::min(64 - offset, end - begin);
    const uint64_t ones = count == 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1;
    words[begin >> 6] |= ones << offset;
    begin += count;
  }
}

}  // namespace

PlanBuilder::PlanBuilder(const TreeSnapshot& tree, const AttentionShape& shape, const PlanDevice& device, Plan& plan)
    : tree_(tree), shape_(shape), device_(device), plan_(plan) {
  int64_t num_tokens = 0;
  for (int32_t len : tree.node_len) num_tokens += len;
  const int rows = choose_group_rows(num_tokens, tree.num_queries() * shape.group_size(), shape.num_kv_heads, device);
  const int step = device.row_step > 1 ? std::min(device.row_step, rows) : rows;
  max_tile_len_ = std::max(rows / step * (step / shape.group_size()), 1);
  plan.spans.clear();
  plan.span_is_fresh.clear();
  plan.group_queries.clear();
  plan.mask_words.clear();
  plan.items.clear();
  plan.empty_queries.clear();
  plan.scratch.tiles.clear();
  plan.scratch.pieces.clear();
  plan.counters = {};
  measure_queries();
}

void PlanBuilder::measure_queries() {
  PlanScratch& s = plan_.scratch;
  s.path_len.resize(tree_.num_nodes());
  s.num_keys.resize(tree_.num_queries());
  s.query_node.resize(tree_.num_queries());
  for (int32_t node = 0; node < tree_.num_nodes(); ++node) {
    const int32_t parent = tree_.parent[node];
    const int32_t above = parent < 0 ? 0 : s.path_len[parent];
    s.path_len[node] = above + tree_.node_len[node];
    const int32_t begin = tree_.query_indptr[node], end = tree_.query_indptr[node + 1];
    if (tree_.mask[node] == NodeMask::kTree) s.draft_depth.resize(end - begin);
    for (int32_t q = begin; q < end; ++q) {
      s.query_node[q] = node;
      const int32_t j = q - begin;
      switch (tree_.mask[node]) {
        case NodeMask::kNone:
          s.num_keys[q] = s.path_len[node];
          break;
        case NodeMask::kCausal:
          s.num_keys[q] = above + j + 1;
          break;
        case NodeMask::kTree: {
          const int32_t up = tree_.tree_parent[tree_.tree_parent_indptr[node] + j];
          s.draft_depth[j] = up < 0 ? 1 : s.draft_depth[up] + 1;
          s.num_keys[q] = above + s.draft_depth[j];
          break;
        }
      }
      plan_.counters.kv_tokens_unshared += s.num_keys[q];
      if (s.num_keys[q] == 0) plan_.empty_queries.push_back(q);
    }
  }
}

int32_t PlanBuilder::shared_len(int32_t query) const {
  const PlanScratch& s = plan_.scratch;
  const int32_t before = s.query_node[query - 1], node = s.query_node[query];
  if (before == node) {
    const int32_t own = tree_.mask[node] == NodeMask::kNone ? tree_.node_len[node] : query - tree_.query_indptr[node];
    return s.path_len[node] - tree_.node_len[node] + own;
  }
  // In preorder an ancestor of `node` that does not come after `before` contains it.
  int32_t common = tree_.parent[node];
  while (common > before) common = tree_.parent[common];
  return common < 0 ? 0 : s.path_len[common];
}

void PlanBuilder::add_piece(PlanScratch::Tile& tile, int32_t node) {
  const QueryRange range = subtree_queries(node);
  const int32_t begin = std::max(range.begin, tile.query_begin), end = std::min(range.end, tile.query_end);
  int32_t len = tree_.node_len[node];
  if (tree_.mask[node] != NodeMask::kNone && end > begin) len = end - range.begin;  // later tokens see no one here
  if (len == 0) return;
  const int num_readers = std::max((range.end - range.begin + max_tile_len_ - 1) / max_tile_len_, 1);
  const int64_t cost = token_cost(std::max(end - begin, 0) * shape_.group_size(), device_, num_readers);
  plan_.scratch.pieces.push_back({node, len, cost});
  tile.cost += len * cost;
}

void PlanBuilder::add_tile(int32_t query_begin, int32_t query_end) {
  PlanScratch& s = plan_.scratch;
  const int32_t first = s.query_node[query_begin], last = s.query_node[query_end - 1];
  PlanScratch::Tile tile{query_begin, query_end, static_cast<int32_t>(s.pieces.size()), 0, 0};
  for (int32_t node = first; node >= 0; node = tree_.parent[node]) add_piece(tile, node);
  std::reverse(s.pieces.begin() + tile.piece_begin, s.pieces.end());
  // What follows `first` in preorder up to `last` is on a path to a query of the tile, or on no path at all.
  for (int32_t node = first + 1; node <= last; ++node) {
    const QueryRange range = subtree_queries(node);
    if (range.begin < range.end) add_piece(tile, node);
  }
  tile.piece_end = static_cast<int32_t>(s.pieces.size());
  s.tiles.push_back(tile);
}

void PlanBuilder::add_tile_over_all(int32_t query_begin, int32_t query_end) {
  PlanScratch& s = plan_.scratch;
  PlanScratch::Tile tile{query_begin, query_end, static_cast<int32_t>(s.pieces.size()), 0, 0};
  for (int32_t node = 0; node < tree_.num_nodes(); ++node) {
    if (tree_.node_len[node] > 0) s.pieces.push_back({node, tree_.node_len[node], 1});
  }
  tile.piece_end = static_cast<int32_t>(s.pieces.size());
  s.tiles.push_back(tile);
}

int64_t PlanBuilder::num_tokens(const PlanScratch::Tile& tile) const {
  int64_t sum = 0;
  for (int32_t i = tile.piece_begin; i < tile.piece_end; ++i) sum += plan_.scratch.pieces[i].len;
  return sum;
}

int64_t PlanBuilder::target_cost() const {
  PartitionLoad load;
  for (const PlanScratch::Tile& tile : plan_.scratch.tiles) {
    load.cost += tile.cost;
    load.num_rows += padded_rows((tile.query_end - tile.query_begin) * shape_.group_size(), device_);
    load.num_tiles += 1;
    load.max_items += num_chunks(tile.cost, 1, num_tokens(tile), device_.min_chunk_len);
  }
  if (device_.enough_tasks > 0 &&
      static_cast<int64_t>(load.num_tiles) * shape_.num_kv_heads >= device_.enough_tasks * int64_t{device_.num_processors})
    return 4 * load.cost;
  const int32_t num_items = choose_num_items(load, shape_.num_kv_heads, device_);
  return std::max<int64_t>(load.cost / std::max(num_items, 1), 1);
}

void PlanBuilder::write_chunks(const PlanScratch::Tile& tile, int32_t piece_begin, int32_t piece_end, int chunks,
                               bool dense_mask) {
  PlanScratch& s = plan_.scratch;
  int64_t cost = 0, tokens_left = 0;
  for (int32_t i = piece_begin; i < piece_end; ++i) {
    cost += s.pieces[i].len * s.pieces[i].token_cost;
    tokens_left += s.pieces[i].len;
  }

  s.chunk.clear();
  int32_t span_begin = static_cast<int32_t>(plan_.spans.size());
  int64_t spent = 0, spent_before = 0, chunk_len = 0, next_cut = 1;
  for (int32_t i = piece_begin; i < piece_end; ++i) {
    const PlanScratch::Piece piece = s.pieces[i];
    const PageSpan* source = tree_.spans.data() + tree_.span_indptr[piece.node];
    const bool decodes = tree_.query_indptr[piece.node] < tree_.query_indptr[piece.node + 1];
    for (int32_t token = 0; token < piece.len;) {
      PageSpan span = *source++;
      const int32_t len = std::min(span.len(), piece.len - token);
      span.end = static_cast<int16_t>(span.begin + len);
      plan_.spans.push_back(span);
      if (token == 0 || s.chunk.empty()) s.chunk.push_back({piece.node, token, token});
      token += len;
      plan_.span_is_fresh.push_back(tree_.mask[piece.node] != NodeMask::kNone ||
                                    (decodes && token == tree_.node_len[piece.node]));
      s.chunk.back().end = token;
      chunk_len += len;
      tokens_left -= len;
      const int64_t span_cost = len * piece.token_cost;
      spent += span_cost;

      // A cut goes to the page boundary nearest to its even place; the next span is taken to cost as much as this one.
      const bool due = next_cut < chunks && (2 * spent + span_cost) * chunks >= 2 * cost * next_cut;
      const bool aligned = (static_cast<int32_t>(plan_.spans.size()) - span_begin) % device_.chunk_align == 0;
      if (due && aligned && chunk_len >= device_.min_chunk_len && tokens_left >= device_.min_chunk_len) {
        write_item(tile, span_begin, spent - spent_before, dense_mask);
        s.chunk.clear();
        spent_before = spent;
        span_begin = static_cast<int32_t>(plan_.spans.size());
        chunk_len = 0;
        next_cut = std::max(next_cut + 1, spent * chunks / cost + 1);
      }
    }
  }
  if (!s.chunk.empty()) write_item(tile, span_begin, spent - spent_before, dense_mask);
}

void PlanBuilder::write_item(const PlanScratch::Tile& tile, int32_t span_begin, int64_t cost, bool dense_mask) {
  WorkItem item{};
  item.cost = static_cast<int32_t>(std::min<int64_t>(cost, std::numeric_limits<int32_t>::max()));
  item.span_begin = span_begin;
  item.span_end = static_cast<int32_t>(plan_.spans.size());
  for (const PlanScratch::ChunkPiece& piece : plan_.scratch.chunk) item.kv_len += piece.end - piece.begin;
  item.query_begin = static_cast<int32_t>(plan_.group_queries.size());
  write_group(tile);
  item.query_end = static_cast<int32_t>(plan_.group_queries.size());
  if (item.query_begin == item.query_end) return;

  const std::span<const int32_t> group(plan_.group_queries.data() + item.query_begin,
                                       item.query_end - item.query_begin);
  item.dense_len = dense_mask ? 0 : dense_len(group);
  item.mask_begin = -1;
  item.mask_stride = (item.kv_len - item.dense_len + 63) / 64;
  if (item.dense_len < item.kv_len) write_mask(item);
  plan_.items.push_back(item);
}

bool PlanBuilder::sees_draft_token(int32_t node, int32_t token, int32_t begin, int32_t end) const {
  const int32_t* parent = tree_.tree_parent.data() + tree_.tree_parent_indptr[node];
  for (int32_t t = token; t >= begin; t = parent[t]) {
    if (t < end) return true;
  }
  return false;
}

// The tile's queries that see any token of the chunk, ascending. In preorder the queries of each further piece either
// are in already, as those of a node below an earlier piece, or follow.
void PlanBuilder::write_group(const PlanScratch::Tile& tile) {
  int32_t covered = tile.query_begin;
  for (const PlanScratch::ChunkPiece& piece : plan_.scratch.chunk) {
    const QueryRange range = subtree_queries(piece.node);
    const int32_t end = std::min(range.end, tile.query_end);
    int32_t q = std::max(range.begin, covered);
    if (tree_.mask[piece.node] == NodeMask::kCausal) q = std::max(q, range.begin + piece.begin);
    for (; q < end; ++q) {
      const bool sees = tree_.mask[piece.node] != NodeMask::kTree ||
                        sees_draft_token(piece.node, q - range.begin, piece.begin, piece.end);
      if (sees) plan_.group_queries.push_back(q);
    }
    covered = std::max(covered, end);
  }
}

int32_t PlanBuilder::dense_len(std::span<const int32_t> group) const {
  int32_t len = 0;
  for (const PlanScratch::ChunkPiece& piece : plan_.scratch.chunk) {
    const QueryRange range = subtree_queries(piece.node);
    if (group.front() < range.begin || group.back() >= range.end) break;
    if (tree_.mask[piece.node] == NodeMask::kTree) break;
    int32_t end = piece.end;
    if (tree_.mask[piece.node] == NodeMask::kCausal)
      end = std::clamp(group.front() - range.begin + 1, piece.begin, piece.end);
    len += end - piece.begin;
  }
  return len;
}

void PlanBuilder::write_mask(WorkItem& item) {
  item.mask_begin = static_cast<int32_t>(plan_.mask_words.size());
  const int32_t group_len = item.query_end - item.query_begin;
  plan_.mask_words.resize(plan_.mask_words.size() + static_cast<size_t>(group_len) * item.mask_stride, 0);
  const int32_t* group = plan_.group_queries.data() + item.query_begin;

  int32_t chunk_pos = 0;
  for (const PlanScratch::ChunkPiece& piece : plan_.scratch.chunk) {
    const int32_t dense = std::clamp(item.dense_len - chunk_pos, 0, piece.end - piece.begin);
    const int32_t begin = piece.begin + dense;               // first masked token, of the node
    const int32_t bit = chunk_pos + dense - item.dense_len;  // and its bit
    chunk_pos += piece.end - piece.begin;
    if (begin == piece.end) continue;

    const QueryRange range = subtree_queries(piece.node);
    for (const int32_t* q = std::lower_bound(group, group + group_len, range.begin);
         q < group + group_len && *q < range.end; ++q) {
      uint64_t* words = plan_.mask_words.data() + item.mask_begin + (q - group) * item.mask_stride;
      const int32_t token = *q - range.begin;
      switch (tree_.mask[piece.node]) {
        case NodeMask::kNone:
          set_bits(words, bit, bit + piece.end - begin);
          break;
        case NodeMask::kCausal:
          set_bits(words, bit, bit + std::min(piece.end, token + 1) - begin);
          break;
        case NodeMask::kTree: {
          const int32_t* parent = tree_.tree_parent.data() + tree_.tree_parent_indptr[piece.node];
          for (int32_t t = token; t >= begin; t = parent[t]) {
            if (t < piece.end) set_bits(words, bit + t - begin, bit + t - begin + 1);
          }
          break;
        }
      }
    }
  }
}

void PlanBuilder::finish() {
  std::sort(plan_.items.begin(), plan_.items.end(), [](const WorkItem& a, const WorkItem& b) {
    return a.cost != b.cost ? a.cost > b.cost : a.span_begin < b.span_begin;
  });
  number_partials();

  PlanCounters& counters = plan_.counters;
  plan_.max_group_len = 0;
  for (const WorkItem& item : plan_.items) {
    counters.kv_tokens_read += item.kv_len;
    plan_.max_group_len = std::max(plan_.max_group_len, item.query_end - item.query_begin);
  }
  counters.mask_bytes = static_cast<int64_t>(plan_.mask_words.size() * sizeof(uint64_t));
  counters.partial_states = static_cast<int64_t>(plan_.num_partials) * shape_.num_qo_heads;
  counters.num_items = static_cast<int32_t>(plan_.items.size());
  counters.num_queries = tree_.num_queries();
}

// An item whose queries are in no other item writes their output itself; the others get a partial slot per query.
void PlanBuilder::number_partials() {
  const int32_t num_queries = tree_.num_queries();
  std::vector<int32_t>& num_items = plan_.scratch.num_items;
  num_items.assign(num_queries, 0);
  for (const WorkItem& item : plan_.items) {
    for (int32_t i = item.query_begin; i < item.query_end; ++i) ++num_items[plan_.group_queries[i]];
  }

  plan_.num_partials = 0;
  plan_.merge_indptr.assign(num_queries + 1, 0);
  for (WorkItem& item : plan_.items) {
    const int32_t* group = plan_.group_queries.data();
    const bool direct =
        std::all_of(group + item.query_begin, group + item.query_end, [&](int32_t q) { return num_items[q] == 1; });
    item.partial_begin = direct ? -1 : plan_.num_partials;
    if (direct) continue;
    plan_.num_partials += item.query_end - item.query_begin;
    for (int32_t i = item.query_begin; i < item.query_end; ++i) ++plan_.merge_indptr[group[i] + 1];
  }
  for (int32_t q = 0; q < num_queries; ++q) plan_.merge_indptr[q + 1] += plan_.merge_indptr[q];

  plan_.merge_slots.resize(plan_.num_partials);
  std::vector<int32_t>& next = num_items;
  std::copy(plan_.merge_indptr.begin(), plan_.merge_indptr.end() - 1, next.begin());
  for (const WorkItem& item : plan_.items) {
    if (item.partial_begin < 0) continue;
    for (int32_t i = item.query_begin; i < item.query_end; ++i)
      plan_.merge_slots[next[plan_.group_queries[i]]++] = item.partial_begin + (i - item.query_begin);
  }
}

}  // namespace deftree::attention
