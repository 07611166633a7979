// Drafts by a smaller model with the target's vocabulary (speculative sampling, Leviathan et al., ICML 2023; Chen et
// al., arXiv 2302.01318), which has a forest of its own: its branches fork and end with the target's.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "attention/plan.h"
#include "cache/tree_cache.h"
#include "engine/backend.h"
#include "engine/draft_best_first.h"
#include "engine/draft_source.h"

namespace deftree {

struct DraftModelOptions {
  int32_t num_pages = 0, page_size = 16;
  int32_t vocab_size = 0, context_len = 0;
  int32_t max_step_tokens = 256;
};

// A tree is the draft model's likeliest path, with the next likely tokens beside each of its tokens as leaves. All
// branches of a step are drafted together: first their text is brought up to date, then one forward pass a level, until
// the next token is not likely enough to be worth a pass. What the target accepts of a path keeps its KV.
class DraftModelSource final : public DraftSource {
 public:
  // `cancel` ends a forward pass early.
  DraftModelSource(const DraftModelOptions& options, std::unique_ptr<Backend> backend, const std::atomic<bool>& cancel);

  DraftSourceId id() const override { return DraftSourceId::kModel; }
  int32_t known_len(BranchKey branch) const override;
  void extend(BranchKey branch, std::span<const int32_t> tokens, int32_t len) override;
  void fork(BranchKey parent, BranchKey child) override;
  void forget(BranchKey branch) override;
  void propose(const DraftContext& context, std::vector<DraftNode>& nodes) override;
  // Branches that the draft model's pages or context have no room for get no nodes.
  void propose_all(std::span<const DraftContext> contexts, std::span<std::vector<DraftNode>> nodes) override;

  // No fresh tokens, and the cache's lengths are those of the texts. Throws kInternal.
  void check_invariants() const;

 private:
  // The draft model's view of a branch: text, of which the last tokens may not have been run, or a path beyond its end
  // that has.
  struct Place {
    BranchId cache_id;
    int32_t len;                                    // of the text
    std::vector<int32_t> pending;                   // its tokens without KV
    std::vector<int32_t> ahead;                     // drafted tokens after its end, with KV
    std::vector<std::vector<TokenLogprob>> levels;  // likeliest tokens after the text and its first tokens ahead
  };
  struct Row {
    Place* place;
    int32_t num_tokens;  // 0: the last token again, for its logits
    bool wants_logits;
  };
  // The end of a branch's path in this step.
  struct Growing {
    const DraftContext* context;
    Place* place;
    float path_probability;
    bool goes_on;
  };

  void catch_up();
  void draft_level(int32_t depth);
  bool append(Place& place, std::span<const int32_t> tokens);
  void run(std::span<const Row> rows);
  void drop_ahead(Place& place);
  bool make_room();

  DraftModelOptions options_;
  std::unique_ptr<Backend> backend_;
  const std::atomic<bool>& cancel_;
  TreeCache cache_;
  std::unordered_map<BranchKey, Place> places_;
  double pass_ns_ = 0;  // decayed mean of a level's forward pass

  // Of the current call.
  std::vector<Growing> growing_;
  std::vector<Row> rows_;
  std::vector<StepBranch> step_branches_;
  StepSnapshot snapshot_;
  StepBatch batch_;
  attention::Plan plan_;
  std::vector<SampleRequest> sample_requests_;
  std::vector<SampledToken> sample_results_;
  BestFirst<int32_t> best_first_;
};

}  // namespace deftree
