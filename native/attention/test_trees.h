// Trees for tests and benchmarks: the named families of the literature, and random ones with every feature.
#pragma once

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "attention/tree_snapshot_builder.h"

namespace deftree::attention {

inline std::string tree_name(const char* family, const std::vector<int>& sizes) {
  std::string name = family;
  for (size_t i = 0; i < sizes.size(); ++i) {
    name += i == 0 ? ":" : ",";
    name += std::to_string(sizes[i]);
  }
  return name;
}

// Few-shot / best-of-n: one prefix, `width` branches.
inline NamedTree star_tree(int prefix_len, int width, int branch_len) {
  NamedTree t{tree_name("star", {prefix_len, width, branch_len}), {{-1, prefix_len}}, {}};
  for (int i = 0; i < width; ++i) {
    t.nodes.push_back({0, branch_len});
    t.queries.push_back(i + 1);
  }
  return t;
}

// Level i has widths[i] nodes of lens[i] tokens, spread evenly below the level above; a query at each last-level node.
inline NamedTree level_tree(const std::vector<int>& widths, const std::vector<int>& lens) {
  NamedTree t{"levels", {}, {}};
  std::vector<int> sizes;
  int above = 0, above_begin = -1;
  for (size_t level = 0; level < widths.size(); ++level) {
    const int begin = static_cast<int>(t.nodes.size());
    sizes.insert(sizes.end(), {widths[level], lens[level]});
    for (int i = 0; i < widths[level]; ++i) {
      const int parent = level == 0 ? -1 : above_begin + i * above / widths[level];
      t.nodes.push_back({parent, lens[level]});
      if (level + 1 == widths.size()) t.queries.push_back(begin + i);
    }
    above = widths[level];
    above_begin = begin;
  }
  t.name = tree_name("levels", sizes);
  return t;
}

// A prefix and `len` fresh tokens in a chain: chunked prefill.
inline NamedTree prefill_tree(int prefix_len, int len) {
  return {tree_name("prefill", {prefix_len, len}), {{-1, prefix_len}, {0, len, NodeMask::kCausal}}, {}};
}

// A prefix and a draft tree of `len` tokens in which token j hangs below token (j - 1) / arity.
inline NamedTree draft_tree(int prefix_len, int len, int arity) {
  NamedTree t{tree_name("draft", {prefix_len, len, arity}), {{-1, prefix_len}, {0, len, NodeMask::kTree}}, {}};
  for (int j = 0; j < len; ++j) t.nodes[1].tree_parent.push_back(j == 0 ? -1 : (j - 1) / arity);
  return t;
}

// Several roots (some empty), inner-node queries, several queries at a node, masked leaves of both kinds.
inline NamedTree random_tree(std::mt19937& random, int max_nodes) {
  auto pick = [&](int low, int high) { return std::uniform_int_distribution<int>(low, high)(random); };
  NamedTree t{"random", {}, {}};
  const int num_nodes = pick(1, max_nodes);
  for (int i = 0; i < num_nodes; ++i) {
    int parent = pick(0, 4) == 0 ? -1 : pick(0, std::max(i, 1) - 1);
    if (i == 0) parent = -1;
    while (parent >= 0 && t.nodes[parent].mask != NodeMask::kNone) parent = t.nodes[parent].parent;
    SnapshotNode node{parent, pick(1, pick(0, 2) == 0 ? 120 : 30)};
    if (parent < 0 && pick(0, 4) == 0) node.len = 0;
    if (node.len > 0) node.mask = static_cast<NodeMask>(std::max(0, pick(-4, 2)));
    if (node.mask == NodeMask::kTree) {
      for (int j = 0; j < node.len; ++j) node.tree_parent.push_back(pick(0, 5) == 0 ? -1 : pick(0, std::max(j, 1) - 1));
      node.tree_parent[0] = -1;
    }
    if (node.mask == NodeMask::kNone) {
      for (int count = pick(0, 5) - 3; count > 0; --count) t.queries.push_back(i);
    }
    t.nodes.push_back(std::move(node));
  }
  return t;
}

// Moves the snapshot's tokens to random pages: nodes begin anywhere in a page, often in the one the node before ended
// in, and page ids are shuffled. Returns the number of pages, a few of them unused.
inline int scatter_pages(TreeSnapshot& tree, std::mt19937& random) {
  auto pick = [&](int low, int high) { return std::uniform_int_distribution<int>(low, high)(random); };
  const int num_pages = 4 + place_tokens(tree, [&](int, int64_t end) {
    if (pick(0, 2) != 0) return end;
    return (end / tree.page_size + 1) * tree.page_size + pick(0, tree.page_size - 1);
  });
  std::vector<int32_t> shuffled(num_pages);
  for (int i = 0; i < num_pages; ++i) shuffled[i] = i;
  std::shuffle(shuffled.begin(), shuffled.end(), random);
  for (PageSpan& span : tree.spans) span.page = shuffled[span.page];
  return num_pages;
}

}  // namespace deftree::attention
