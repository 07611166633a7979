#include "engine/draft_caller.h"

#include <algorithm>

#include "engine/draft_tree.h"

namespace deftree {
namespace {

constexpr float kDefaultClaim = 0.7f;  // of a node that came without a probability

}  // namespace

int32_t CallerSource::known_len(BranchKey branch) const {
  const auto text = texts_.find(branch);
  return text == texts_.end() ? 0 : static_cast<int32_t>(text->second.tokens.size());
}

void CallerSource::extend(BranchKey branch, std::span<const int32_t> tokens, int32_t) {
  std::vector<int32_t>& text = texts_[branch].tokens;
  text.insert(text.end(), tokens.begin(), tokens.end());
}

void CallerSource::fork(BranchKey parent, BranchKey child) {
  const auto text = texts_.find(parent);
  if (text == texts_.end()) return;
  Text copy = text->second;
  copy.asked_len.reset();  // the answer will name the parent
  texts_.insert_or_assign(child, std::move(copy));
}

void CallerSource::propose(const DraftContext& context, std::vector<DraftNode>& nodes) {
  const auto it = texts_.find(context.branch);
  if (it == texts_.end()) return;
  Text& text = it->second;
  const int32_t len = static_cast<int32_t>(text.tokens.size());
  const bool is_fresh = text.answered_len == len;
  if (!text.asked_len && !is_fresh) {
    text.asked_len = len;
    requests_.push_back({context.branch, text.tokens, context.max_depth});
  }
  if (!follow(text)) return;
  best_first_.grow(-1, context, nodes, [&](int32_t parent, int32_t depth, auto push) {
    for (size_t i = 0; i < text.tree.size(); ++i) {
      const DraftNode& node = text.tree[i];
      if (node.parent == parent)
        push(node.token, node.probability, std::min(depth, kNumDraftRanks) - 1, static_cast<int32_t>(i));
    }
  });
}

// Moves the tree to the end of the text: what lies below the tokens that came since it was asked for. False when none
// does.
bool CallerSource::follow(Text& text) {
  while (!text.tree.empty() && text.answered_len < static_cast<int32_t>(text.tokens.size())) {
    const int32_t token = text.tokens[text.answered_len];
    const auto next = std::ranges::find_if(
        text.tree, [&](const DraftNode& node) { return node.parent == -1 && node.token == token; });
    if (next == text.tree.end()) {
      ++num_late_;
      text.tree.clear();
      break;
    }
    const int32_t root = static_cast<int32_t>(next - text.tree.begin());
    std::vector<int32_t> place(text.tree.size(), -1);
    std::vector<DraftNode> below;
    for (size_t i = root + 1; i < text.tree.size(); ++i) {
      DraftNode node = text.tree[i];
      if (node.parent != root && (node.parent < 0 || place[node.parent] < 0)) continue;
      place[i] = static_cast<int32_t>(below.size());
      node.parent = node.parent == root ? -1 : place[node.parent];
      below.push_back(node);
    }
    text.tree = std::move(below);
    ++text.answered_len;
  }
  return !text.tree.empty();
}

void CallerSource::withdraw(BranchKey branch) {
  const auto text = texts_.find(branch);
  if (text != texts_.end()) text->second.asked_len.reset();
}

CallerSource::Answer CallerSource::answer(const DraftCommand& command) {
  const auto it = texts_.find(command.branch);
  if (it == texts_.end() || it->second.asked_len != command.len) return Answer::kLate;
  Text& text = it->second;
  text.asked_len.reset();
  const size_t num_nodes = command.tokens.size();
  const bool has_claims = !command.probabilities.empty();
  if (command.has_failed || command.parents.size() != num_nodes ||
      (has_claims && command.probabilities.size() != num_nodes)) {
    return Answer::kRefused;
  }
  std::vector<DraftNode> tree;
  for (size_t i = 0; i < num_nodes; ++i) {
    tree.push_back({command.parents[i], command.tokens[i], has_claims ? command.probabilities[i] : kDefaultClaim, 0});
  }
  const DraftContext limits = {command.branch, 0, max_nodes_, max_nodes_, 0};
  if (!is_draft_tree(tree, limits, vocab_size_)) return Answer::kRefused;
  text.tree = std::move(tree);
  text.answered_len = command.len;
  return Answer::kTaken;
}

}  // namespace deftree
