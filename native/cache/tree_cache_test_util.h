// Helpers of this folder's tests. ShadowKv stands in for the KV tensors: a slot's content is a hash of the token and of
// everything before it on its path, as real KV depends on the whole prefix. A wrong slot on a path, or one that was
// overwritten, shows at once.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <set>
#include <span>
#include <vector>

#include "cache/tree_cache.h"
#include "common/test.h"

namespace deftree::test {

using Tokens = std::vector<int32_t>;

inline Tokens range(int32_t first, int32_t count) {
  Tokens tokens(count);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

// A branch with committed tokens.
inline BranchId grown(TreeCache& cache, const Tokens& tokens) {
  const BranchId branch = cache.create();
  cache.append(branch, tokens);
  cache.commit(branch);
  cache.check_invariants();
  return branch;
}

inline void grow(TreeCache& cache, BranchId branch, const Tokens& tokens) {
  cache.append(branch, tokens);
  cache.commit(branch);
  cache.check_invariants();
}

inline int32_t pages_in_use(const TreeCache& cache) { return cache.stats().num_pages - cache.stats().num_free_pages; }

using Key = uint64_t;

inline Key extend_key(Key prefix, int32_t token) {
  Key key = (prefix ^ static_cast<Key>(token + 1)) * 0x9E3779B97F4A7C15u;
  return key ^ (key >> 29);
}

inline constexpr Key kEmptyKey = 0x5DEECE66Du;

// The keys of tokens[0..i] for each i.
inline std::vector<Key> keys_of(std::span<const int32_t> tokens) {
  std::vector<Key> keys;
  Key key = kEmptyKey;
  for (const int32_t token : tokens) keys.push_back(key = extend_key(key, token));
  return keys;
}

inline int node_of_query(const TreeSnapshot& tree, int query) {
  const auto after = std::upper_bound(tree.query_indptr.begin(), tree.query_indptr.end(), query);
  return static_cast<int>(after - tree.query_indptr.begin()) - 1;
}

// The slots that a query sees, from the root on: what the header of tree_snapshot.h promises, read literally.
inline std::vector<int32_t> visible_slots(const TreeSnapshot& tree, int query) {
  const int node = node_of_query(tree, query);
  std::vector<int> path;
  for (int i = node; i >= 0; i = tree.parent[i]) path.insert(path.begin(), i);
  std::vector<int32_t> slots;
  for (const int i : path) {
    std::vector<int32_t> own;
    for (int s = tree.span_indptr[i]; s < tree.span_indptr[i + 1]; ++s)
      for (int offset = tree.spans[s].begin; offset < tree.spans[s].end; ++offset)
        own.push_back(tree.spans[s].page * tree.page_size + offset);
    const int j = query - tree.query_indptr[node];
    if (i == node && tree.mask[i] == NodeMask::kCausal) own.resize(j + 1);
    if (i == node && tree.mask[i] == NodeMask::kTree) {
      std::vector<int32_t> seen;
      for (int t = j; t >= 0; t = tree.tree_parent[tree.tree_parent_indptr[i] + t]) seen.insert(seen.begin(), own[t]);
      own = seen;
    }
    slots.insert(slots.end(), own.begin(), own.end());
  }
  return slots;
}

// Nothing in the snapshot is there for nothing: each leaf has a query, and no chain could be one node.
inline void check_minimal(const TreeSnapshot& tree) {
  std::vector<int> children(tree.num_nodes(), 0);
  for (const int parent : tree.parent)
    if (parent >= 0) ++children[parent];
  for (int node = 0; node < tree.num_nodes(); ++node) {
    const bool queried = tree.query_indptr[node] < tree.query_indptr[node + 1];
    CHECK(queried || children[node] > 0);
    if (children[node] == 1 && !queried) CHECK(tree.mask[node + 1] != NodeMask::kNone);
    for (int s = tree.span_indptr[node] + 1; s < tree.span_indptr[node + 1]; ++s)
      CHECK(tree.spans[s - 1].page != tree.spans[s].page || tree.spans[s - 1].end != tree.spans[s].begin);
  }
}

class ShadowKv {
 public:
  explicit ShadowKv(int32_t num_slots) : keys_(num_slots, 0) {}
  Key operator[](int32_t slot) const { return keys_[slot]; }

  // The step's write: each fresh query's key goes to its slot. Keys come from what the query sees, in order.
  void write(const StepSnapshot& step) {
    std::set<int32_t> written;
    for (size_t row = 0; row < step.queries.size(); ++row) {
      const SnapshotQuery& query = step.queries[row];
      if (query.slot < 0) continue;
      CHECK(written.insert(query.slot).second);
      const std::vector<int32_t> seen = visible_slots(step.tree, static_cast<int>(row));
      CHECK_EQ(seen.back(), query.slot);
      const Key prefix = seen.size() == 1 ? kEmptyKey : keys_[seen[seen.size() - 2]];
      keys_[query.slot] = extend_key(prefix, query.token);
    }
  }

  void copy(std::span<const SlotCopy> copies) {
    for (const SlotCopy& copy : copies)
      for (int32_t i = 0; i < copy.len; ++i) keys_[copy.to_slot + i] = keys_[copy.from_slot + i];
  }

 private:
  std::vector<Key> keys_;  // [slots]
};

}  // namespace deftree::test
