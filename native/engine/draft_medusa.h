// Medusa heads (Cai et al., ICML 2024): head i guesses the token i + 2 places on from the hidden state whose logits
// gave the next one. A head is residual blocks x + SiLU(W x + b), then a lm_head of its own.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "common/thread_pool.h"
#include "engine/draft_best_first.h"
#include "engine/draft_source.h"
#include "engine/sampler.h"
#include "model/linear.h"
#include "model/model_spec.h"

namespace deftree {

// Heads as a checkpoint has them. Tensors of head h, with l residual blocks: "h.i.linear.weight" [hidden_size,
// hidden_size] and "h.i.linear.bias" [hidden_size] for each block i, and "h.l.weight" [vocab_size, hidden_size].
struct MedusaSpec {
  ModelSpec checkpoint;  // its files and tensors, and how weights are kept
  int32_t num_heads = 0, num_blocks = 0;
  int32_t hidden_size = 0, vocab_size = 0;  // of the model they belong to
};

// Runs on the CPU, for all branches of a step at once, from the hidden states that the step before left.
class MedusaSource final : public DraftSource {
 public:
  // Throws kBadModel for a tensor that is missing, of another shape, or not of a head, and kOutOfMemory.
  MedusaSource(const MedusaSpec& spec, int32_t num_threads);

  DraftSourceId id() const override { return DraftSourceId::kMedusa; }
  bool wants_hidden() const override { return true; }
  void see_hidden(BranchKey branch, int32_t len, std::span<const float> hidden) override;
  void fork(BranchKey parent, BranchKey child) override;
  void forget(BranchKey branch) override { states_.erase(branch); }
  void propose(const DraftContext& context, std::vector<DraftNode>& nodes) override;
  void propose_all(std::span<const DraftContext> contexts, std::span<std::vector<DraftNode>> nodes) override;

 private:
  struct Block {
    LinearWeight weight;
    std::vector<float> bias;
  };
  struct Head {
    std::vector<Block> blocks;
    LinearWeight lm_head;
  };
  struct State {
    int32_t len;  // of the text whose last token was drawn from this state
    std::vector<float> hidden;
  };

  void run_head(const Head& head, int num_rows);

  int32_t hidden_size_, vocab_size_;
  ThreadPool pool_;
  std::vector<Head> heads_;
  std::unordered_map<BranchKey, State> states_;

  // Of the current call.
  std::vector<int32_t> drafting_;                               // contexts whose state is known
  std::vector<float> hidden_;                                   // [drafting, hidden_size]
  std::vector<float> x_, y_;                                    // [drafting, hidden_size]
  std::vector<float> logits_;                                   // [drafting, vocab_size]
  std::vector<std::vector<std::vector<TokenLogprob>>> levels_;  // [drafting][head] likeliest tokens
  LinearWorkspace workspace_;
  SamplerScratch scratch_;
  SampledToken sampled_;
  BestFirst<int32_t> best_first_;
};

}  // namespace deftree
