// For tests: a draft source that knows each branch's text and asks a function what to draft.
#pragma once

#include <functional>
#include <map>
#include <utility>
#include <vector>

#include "common/test.h"
#include "engine/draft_source.h"

namespace deftree::test {

class GuessingSource final : public DraftSource {
 public:
  using Guess = std::function<void(const DraftContext&, const std::vector<int32_t>& path, std::vector<DraftNode>&)>;

  explicit GuessingSource(Guess guess) : guess_(std::move(guess)) {}

  DraftSourceId id() const override { return DraftSourceId::kCaller; }
  int32_t known_len(BranchKey branch) const override {
    const auto text = texts_.find(branch);
    return text == texts_.end() ? 0 : static_cast<int32_t>(text->second.size());
  }
  void extend(BranchKey branch, std::span<const int32_t> tokens, int32_t len) override {
    std::vector<int32_t>& text = texts_[branch];
    text.insert(text.end(), tokens.begin(), tokens.end());
    CHECK_EQ(static_cast<int32_t>(text.size()), len);
  }
  void fork(BranchKey parent, BranchKey child) override {
    if (texts_.contains(parent)) texts_[child] = texts_[parent];
  }
  void forget(BranchKey branch) override { texts_.erase(branch); }
  void propose(const DraftContext& context, std::vector<DraftNode>& nodes) override {
    CHECK_EQ(texts_[context.branch].back(), context.last_token);
    guess_(context, texts_[context.branch], nodes);
  }

 private:
  Guess guess_;
  std::map<BranchKey, std::vector<int32_t>> texts_;
};

}  // namespace deftree::test
