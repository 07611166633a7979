#include <algorithm>
#include <string>

#include "cache/tree_cache_impl.h"
#include "common/error.h"

namespace deftree {
namespace {

using Mark = SnapshotScratch::Mark;
using Item = SnapshotScratch::Item;

void clear(StepSnapshot& out, int32_t page_size, size_t num_steps) {
  TreeSnapshot& tree = out.tree;
  tree.page_size = page_size;
  tree.parent.clear();
  tree.subtree_end.clear();
  tree.node_len.clear();
  tree.mask.clear();
  tree.span_indptr.clear();
  tree.spans.clear();
  tree.query_indptr.clear();
  tree.tree_parent_indptr.clear();
  tree.tree_parent.clear();
  out.queries.clear();
  out.first_query.assign(num_steps, -1);
}

// The row of a new node, to which spans and queries can be added until the next one opens.
int32_t open_node(TreeSnapshot& tree, int32_t parent, size_t num_queries) {
  tree.parent.push_back(parent);
  tree.node_len.push_back(0);
  tree.mask.push_back(NodeMask::kNone);
  tree.span_indptr.push_back(static_cast<int32_t>(tree.spans.size()));
  tree.query_indptr.push_back(static_cast<int32_t>(num_queries));
  tree.tree_parent_indptr.push_back(static_cast<int32_t>(tree.tree_parent.size()));
  return static_cast<int32_t>(tree.parent.size()) - 1;
}

void add_tokens(TreeSnapshot& tree, const std::vector<PageSpan>& spans, int32_t num_tokens) {
  auto span = spans.begin();
  if (static_cast<int32_t>(tree.spans.size()) > tree.span_indptr.back() && span != spans.end() &&
      tree.spans.back().page == span->page && tree.spans.back().end == span->begin) {
    tree.spans.back().end = span++->end;
  }
  tree.spans.insert(tree.spans.end(), span, spans.end());
  tree.node_len.back() += num_tokens;
}

void close(StepSnapshot& out) {
  TreeSnapshot& tree = out.tree;
  const int32_t num_nodes = tree.num_nodes();
  tree.span_indptr.push_back(static_cast<int32_t>(tree.spans.size()));
  tree.query_indptr.push_back(static_cast<int32_t>(out.queries.size()));
  tree.tree_parent_indptr.push_back(static_cast<int32_t>(tree.tree_parent.size()));
  tree.subtree_end.resize(num_nodes);
  for (int32_t row = 0; row < num_nodes; ++row) tree.subtree_end[row] = row + 1;
  for (int32_t row = num_nodes - 1; row > 0; --row) {
    if (const int32_t parent = tree.parent[row]; parent >= 0)
      tree.subtree_end[parent] = std::max(tree.subtree_end[parent], tree.subtree_end[row]);
  }
}

void check_step(const StepBranch& step, const Branch& branch, bool seen_before) {
  std::string problem;
  if (seen_before) {
    problem = "stands in the step twice";
  } else if (step.num_fresh != branch.num_fresh()) {
    problem = "has " + std::to_string(branch.num_fresh()) + " fresh tokens, but the step names " +
              std::to_string(step.num_fresh);
  } else if (branch.tip == kForestRoot && !branch.has_fresh()) {
    problem = "is empty: it has no last token to run again";
  } else {
    return;
  }
  throw Error(ErrorCode::kBadArgument, "Branch " + std::to_string(step.branch) + " " + problem + ".",
              {{"branch", step.branch}, {"num_fresh", branch.num_fresh()}});
}

}  // namespace

// Marks the nodes on the paths of the step and links them downwards; the walk up from a tip ends where an earlier one
// came by, so the cost is that of the nodes in the snapshot.
void TreeCache::Impl::mark_paths(std::span<const StepBranch> steps) {
  const uint64_t stamp = ++scratch.stamp;
  scratch.marks.resize(nodes.size());
  scratch.next_step.assign(steps.size(), -1);
  scratch.branches.clear();

  const auto touch = [&](NodeId id) {
    Mark& mark = scratch.marks[id];
    const bool first = mark.stamp != stamp;
    if (first) mark = {stamp, -1, -1, -1, -1, -1};
    return first;
  };
  touch(kForestRoot);
  for (int32_t s = 0; s < static_cast<int32_t>(steps.size()); ++s) {
    const Branch& branch = find(steps[s].branch);
    check_step(steps[s], branch, branch.snapshot_stamp == stamp);
    branch.snapshot_stamp = stamp;
    scratch.branches.push_back(&branch);

    NodeId id = branch.tip;
    bool first = touch(id);
    Mark& tip = scratch.marks[id];
    (tip.first_step < 0 ? tip.first_step : scratch.next_step[tip.last_step]) = s;
    tip.last_step = s;
    while (first && id != kForestRoot) {
      const NodeId parent_id = nodes[id].parent;
      first = touch(parent_id);
      Mark& parent = scratch.marks[parent_id];
      (parent.first_child < 0 ? parent.first_child : scratch.marks[parent.last_child].next_sibling) = id;
      parent.last_child = id;
      id = parent_id;
    }
  }
}

void TreeCache::Impl::snapshot(std::span<const StepBranch> steps, StepSnapshot& out) {
  mark_paths(steps);
  clear(out, ledger.page_size(), steps.size());
  TreeSnapshot& tree = out.tree;
  std::vector<Item>& stack = scratch.stack;
  stack.clear();

  const auto push_children = [&](NodeId id, int32_t row) {
    const size_t bottom = stack.size();
    const Mark& mark = scratch.marks[id];
    for (int32_t s = mark.first_step; s >= 0; s = scratch.next_step[s])
      if (steps[s].num_fresh > 0) stack.push_back({true, s, row});
    for (NodeId child = mark.first_child; child >= 0; child = scratch.marks[child].next_sibling)
      stack.push_back({false, child, row});
    std::reverse(stack.begin() + bottom, stack.end());
  };
  const auto add_fresh = [&](int32_t s) {
    const Branch& branch = *scratch.branches[s];
    const int32_t committed = committed_len(branch);
    out.first_query[s] = static_cast<int32_t>(out.queries.size());
    add_tokens(tree, branch.fresh_spans, branch.num_fresh());
    int32_t j = 0;
    for (const PageSpan& span : branch.fresh_spans) {
      for (int32_t offset = span.begin; offset < span.end; ++offset, ++j) {
        const int32_t depth = branch.has_draft() ? branch.draft_depths[j] : j;
        out.queries.push_back({s, committed + depth, span.page * ledger.page_size() + offset, branch.fresh_tokens[j]});
      }
    }
    if (j < 2) return;
    tree.mask.back() = branch.has_draft() ? NodeMask::kTree : NodeMask::kCausal;
    tree.tree_parent.insert(tree.tree_parent.end(), branch.draft_parents.begin(), branch.draft_parents.end());
  };

  push_children(kForestRoot, -1);
  while (!stack.empty()) {
    const Item item = stack.back();
    stack.pop_back();
    const int32_t row = open_node(tree, item.parent_row, out.queries.size());
    if (item.is_fresh) {
      add_fresh(item.index);
      continue;
    }
    for (NodeId id = item.index;;) {
      const Node& node = nodes[id];
      const Mark& mark = scratch.marks[id];
      add_tokens(tree, node.spans, node.len());

      bool tip_query = false;
      int32_t num_fresh_leaves = 0;
      for (int32_t s = mark.first_step; s >= 0; s = scratch.next_step[s]) {
        if (steps[s].num_fresh > 0) {
          ++num_fresh_leaves;
          continue;
        }
        if (!tip_query) out.queries.push_back({s, node.end() - 1, -1, node.tokens.back()});
        tip_query = true;
        out.first_query[s] = static_cast<int32_t>(out.queries.size()) - 1;
      }
      const bool no_child = mark.first_child < 0;
      const bool one_child = !no_child && mark.first_child == mark.last_child;
      if (!tip_query && num_fresh_leaves == 0 && one_child) {
        id = mark.first_child;
        continue;
      }
      if (!tip_query && num_fresh_leaves == 1 && no_child && steps[mark.first_step].num_fresh == 1) {
        add_fresh(mark.first_step);
      } else {
        push_children(id, row);
      }
      break;
    }
  }
  close(out);
}

}  // namespace deftree
