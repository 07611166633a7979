// Drafts of the program that owns the branches: it is asked for a guess while the engine goes on, and what it answers
// is used in the first step that begins after that, if the text still follows it.
#pragma once

#include <cstdint>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#include "engine/command.h"
#include "engine/draft_best_first.h"
#include "engine/draft_source.h"

namespace deftree {

// One request of a branch is open at a time. An answer is a tree that begins at the text of the request; by the time it
// is used the text may have gone some way along it, and the tree below that place is left.
class CallerSource final : public DraftSource {
 public:
  enum class Answer : uint8_t { kTaken, kLate, kRefused };

  CallerSource(int32_t vocab_size, int32_t max_draft_tokens) : vocab_size_(vocab_size), max_nodes_(max_draft_tokens) {}

  DraftSourceId id() const override { return DraftSourceId::kCaller; }
  int32_t known_len(BranchKey branch) const override;
  void extend(BranchKey branch, std::span<const int32_t> tokens, int32_t len) override;
  void fork(BranchKey parent, BranchKey child) override;
  void forget(BranchKey branch) override { texts_.erase(branch); }
  void propose(const DraftContext& context, std::vector<DraftNode>& nodes) override;

  // Gives up the open request of the branch.
  void withdraw(BranchKey branch);
  // kLate: the branch is gone, or its text was cut. kRefused: the program failed, or the answer is no tree.
  Answer answer(const DraftCommand& command);
  // Requests that propose() has opened since the last call.
  std::vector<DraftRequest> take_requests() { return std::exchange(requests_, {}); }
  // Answers that propose() found to be of another text than the branch's.
  int64_t num_late() const { return num_late_; }

 private:
  struct Text {
    std::vector<int32_t> tokens;
    std::optional<int32_t> asked_len;  // of the open request
    int32_t answered_len = -1;         // of `tree`
    std::vector<DraftNode> tree;
  };

  bool follow(Text& text);

  int32_t vocab_size_, max_nodes_;
  std::unordered_map<BranchKey, Text> texts_;
  std::vector<DraftRequest> requests_;
  int64_t num_late_ = 0;
  BestFirst<int32_t> best_first_;
};

}  // namespace deftree
