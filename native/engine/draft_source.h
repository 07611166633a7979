// Where draft tokens come from: one small interface for all sources. A source guesses; verification decides
// (speculation.h), so a bad source costs time and never changes a token.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "engine/sampler.h"

namespace deftree {

using BranchKey = uint32_t;

// Bits of SpeculationParams::sources are 1 << id.
enum class DraftSourceId : uint8_t {
  kSuffix,     // what followed the same text earlier, in any branch
  kRecycling,  // the likeliest successors of a token when it was last decoded
  kModel,      // a smaller model with the same vocabulary
  kMedusa,     // heads on the target's last hidden state
  kCaller,     // whatever the program that owns the branch thinks comes next
};
inline constexpr int kNumDraftSources = 5;
inline constexpr uint32_t kAllDraftSources = (1u << kNumDraftSources) - 1;

inline constexpr std::array<const char*, kNumDraftSources> kDraftSourceNames = {"suffix", "recycling", "model", "medusa",
                                                                                "custom"};
inline const char* draft_source_name(DraftSourceId id) { return kDraftSourceNames[static_cast<size_t>(id)]; }

// A source sorts its guesses into ranks, each with acceptance statistics of its own: match length, place among the
// successors, whatever tells good guesses from bad.
inline constexpr int kNumDraftRanks = 16;

// Likeliest successors that a decoded row reports to the sources.
inline constexpr int kNumDraftSuccessors = 8;

struct DraftNode {
  int32_t parent;     // an earlier node of the list; -1: the branch's last token
  int32_t token;
  float probability;  // claimed: that the target draws this token once the parent is reached, in (0, 1]
  int32_t rank;       // [0, kNumDraftRanks)
};

// What is wanted of a source for one branch in one step.
struct DraftContext {
  BranchKey branch;
  int32_t last_token;
  int32_t max_nodes;      // at least 1
  int32_t max_depth;      // of a node, children of the last token having 1; at least 1
  float min_probability;  // a node whose claims multiply to less along its path cannot pay
  double token_ns = 0;    // what a token takes without drafts; 0: time does not count
  int32_t len = 0;        // tokens of the branch's text
};

// Sources are called on the engine's thread, between two steps' forward passes. What throws std::exception in propose(),
// and a list that is no tree, is dropped and counted.
class DraftSource {
 public:
  virtual ~DraftSource() = default;
  virtual DraftSourceId id() const = 0;

  // Text. Tokens of the branch's path that the source has been given; a source that needs no text says so.
  static constexpr int32_t kNeedsNoText = std::numeric_limits<int32_t>::max();
  virtual int32_t known_len(BranchKey) const { return kNeedsNoText; }
  // The path has `len` tokens now. `tokens` are its last ones: those after known_len(), or all when that is 0.
  virtual void extend(BranchKey, std::span<const int32_t> /*tokens*/, int32_t /*len*/) {}
  // `child` has `parent`'s text.
  virtual void fork(BranchKey /*parent*/, BranchKey /*child*/) {}
  // The branch is gone, or was shortened: known_len() is 0 from here on. What was learnt of its text may stay.
  virtual void forget(BranchKey) {}

  // True: in steps whose drafts it is asked for, each drawn row tells it the likeliest tokens after its own.
  virtual bool wants_successors() const { return false; }
  // `successors`: the likeliest tokens after `token`, in this place, largest first.
  virtual void observe(int32_t /*token*/, std::span<const TokenLogprob> /*successors*/) {}

  // True: it is given the hidden states that the tokens of drafting branches are drawn from.
  virtual bool wants_hidden() const { return false; }
  // The state after the last norm whose logits gave the last of the branch's `len` tokens: [hidden_size].
  virtual void see_hidden(BranchKey, int32_t /*len*/, std::span<const float> /*hidden*/) {}

  // Adds to `nodes` (empty on entry) a tree of at most max_nodes nodes.
  virtual void propose(const DraftContext& context, std::vector<DraftNode>& nodes) = 0;
  // The same for all branches of a step at once: nodes[i] is for contexts[i].
  virtual void propose_all(std::span<const DraftContext> contexts, std::span<std::vector<DraftNode>> nodes) {
    for (size_t i = 0; i < contexts.size(); ++i) propose(contexts[i], nodes[i]);
  }
};

}  // namespace deftree
