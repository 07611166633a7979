// Token recycling (Luo et al., ACL 2025): each decoded row computed the likeliest successors of its token anyway; a table
// keeps the latest ones, and a draft tree is a walk through it.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/draft_best_first.h"
#include "engine/draft_source.h"

namespace deftree {

class RecyclingSource final : public DraftSource {
 public:
  // The table takes 64 bytes for each token of the vocabulary, from the first observation on.
  explicit RecyclingSource(int32_t vocab_size) : vocab_size_(vocab_size) {}

  DraftSourceId id() const override { return DraftSourceId::kRecycling; }
  bool wants_successors() const override { return true; }
  void observe(int32_t token, std::span<const TokenLogprob> successors) override;
  void propose(const DraftContext& context, std::vector<DraftNode>& nodes) override;

 private:
  struct Successor {
    int32_t token = -1;
    float probability = 0;
  };

  int32_t vocab_size_;
  std::vector<Successor> table_;  // [vocab_size, kNumDraftSuccessors], likeliest first
  BestFirst<int32_t> best_first_;
};

}  // namespace deftree
