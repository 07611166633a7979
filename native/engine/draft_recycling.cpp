#include "engine/draft_recycling.h"

#include <algorithm>
#include <cmath>

namespace deftree {

void RecyclingSource::observe(int32_t token, std::span<const TokenLogprob> successors) {
  if (token < 0 || token >= vocab_size_ || successors.empty()) return;
  if (table_.empty()) table_.resize(static_cast<size_t>(vocab_size_) * kNumDraftSuccessors);
  Successor* row = table_.data() + static_cast<size_t>(token) * kNumDraftSuccessors;
  for (size_t i = 0; i < kNumDraftSuccessors; ++i) {
    row[i] = i < successors.size() ? Successor{successors[i].token, std::min(std::exp(successors[i].logprob), 1.0f)}
                                   : Successor{};
  }
}

void RecyclingSource::propose(const DraftContext& context, std::vector<DraftNode>& nodes) {
  if (table_.empty()) return;
  best_first_.grow(context.last_token, context, nodes, [&](int32_t token, int32_t, auto push) {
    const Successor* row = table_.data() + static_cast<size_t>(token) * kNumDraftSuccessors;
    for (int32_t i = 0; i < kNumDraftSuccessors && row[i].token >= 0; ++i) {
      push(row[i].token, row[i].probability, i, row[i].token);
    }
  });
}

}  // namespace deftree
