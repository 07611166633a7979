#include "engine/speculator.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <utility>

#include "engine/draft_recycling.h"
#include "engine/draft_suffix.h"

namespace deftree {
namespace {

// Drafts must promise this much more than plain decoding: the estimates are not exact, and losing is worse than missing.
constexpr double kLeastGain = 1.05;
constexpr float kTrustDecay = 0.9f, kTrustStart = 2, kLeastTrust = 0.1f, kMostTrust = 1;
constexpr float kLeastPathProbability = 0.01f;
constexpr int32_t kMaxFailures = 4;
constexpr double kLookingShare = 0.005;  // of the step time, for looks that come to nothing
constexpr double kTimeWeight = 0.1;

size_t index(DraftSourceId source) { return static_cast<size_t>(source); }
uint32_t bit(DraftSourceId source) { return 1u << index(source); }

int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

float trust(const BranchDraft& draft) { return std::clamp(draft.drawn / draft.claimed, kLeastTrust, kMostTrust); }

}  // namespace

Speculator::Speculator(int32_t vocab_size, StepCost cost) : vocab_size_(vocab_size), cost_(std::move(cost)) {
  add_source(std::make_unique<SuffixSource>());
  add_source(std::make_unique<RecyclingSource>(vocab_size));
  auto caller = std::make_unique<CallerSource>(vocab_size, kMaxDraftTokens);
  caller_ = caller.get();
  add_source(std::move(caller));
}

SpeculationStats Speculator::stats() const {
  SpeculationStats stats = stats_;
  stats.late_drafts += caller_->num_late();
  return stats;
}

void Speculator::answer(const DraftCommand& command) {
  const CallerSource::Answer answer = caller_->answer(command);
  stats_.late_drafts += answer == CallerSource::Answer::kLate;
  stats_.refused_drafts += answer == CallerSource::Answer::kRefused;
}

void Speculator::add_source(std::unique_ptr<DraftSource> source) { sources_.push_back(std::move(source)); }

void Speculator::extend(BranchKey branch, std::span<const int32_t> tokens, int32_t len) {
  for (const auto& source : sources_) {
    // A source that does not know what came before is told when it is asked to draft.
    if (source->known_len(branch) + static_cast<int64_t>(tokens.size()) == len) source->extend(branch, tokens, len);
  }
}

void Speculator::fork(BranchKey parent, BranchKey child) {
  for (const auto& source : sources_) source->fork(parent, child);
}

void Speculator::forget(BranchKey branch) {
  for (const auto& source : sources_) source->forget(branch);
}

void Speculator::observe(int32_t token, std::span<const TokenLogprob> successors) {
  if (successors.empty()) return;
  for (const auto& source : sources_) source->observe(token, successors);
}

void Speculator::begin_step(int32_t num_rows, int32_t num_tokens) {
  ++step_;
  num_proposals_ = 0;
  looks_.clear();
  source_ns_.fill(0);
  credits_.fill(0);
  expected_.reset();
  find_ns_ = 0;
  num_rows_ = num_rows;
  num_tokens_ = num_tokens;
  due_sources_ = 0;
  for (const auto& source : sources_) {
    if (num_tokens > 0 && ledgers_[index(source->id())].is_due()) due_sources_ |= bit(source->id());
  }
  // A row pays when it adds a larger share to the step's tokens than to its time. Half of that is looked at, since the
  // statistics may turn out better.
  const double least_worth = num_tokens * cost_.least_row_share(std::max(1, num_rows)) / 2;
  least_path_probability_ = std::max(kLeastPathProbability, static_cast<float>(least_worth));
}

void Speculator::want(BranchDraft& draft, const SpeculationParams& params, BranchKey branch, int32_t last_token,
                      int32_t len, int32_t max_depth, FunctionRef<std::vector<int32_t>()> path) {
  if (draft.wait > 0) {
    --draft.wait;
    return;
  }
  const bool always = params.mode == SpeculationMode::kAlways;
  draft.asked = 0;
  for (const auto& source : sources_) draft.asked |= bit(source->id()) & params.sources;
  if (!always) draft.asked &= due_sources_;
  if (draft.asked == 0) return;
  draft.looked_step = step_;
  draft.proposal = -1;
  looks_.push_back({&draft, params,
                    {branch, last_token, params.max_draft_tokens, max_depth,
                     always ? kLeastPathProbability : least_path_probability_,
                     always ? 0 : cost_.ns(std::max(1, num_rows_)) / num_tokens_, len}});
  std::vector<int32_t> text;
  for (const auto& source : sources_) {
    if ((draft.asked & bit(source->id())) == 0) continue;
    const int32_t known = source->known_len(branch);
    if (known >= len) continue;
    if (text.empty()) text = path();
    source->extend(branch, std::span(text).subspan(known), len);
  }
}

void Speculator::find(FunctionRef<void(BranchKey, std::vector<DraftCandidate>&)> cut) {
  if (looks_.empty()) return;
  const int64_t start = now_ns();
  for (size_t i = 0; i < looks_.size(); ++i) {
    if (proposals_.size() <= i) proposals_.emplace_back();
    proposals_[i].candidates.clear();
  }
  for (const auto& source : sources_) ask(*source);
  for (size_t i = 0; i < looks_.size(); ++i) {
    Proposal& proposal = proposals_[i];
    if (!proposal.candidates.empty()) cut(looks_[i].context.branch, proposal.candidates);
    if (proposal.candidates.empty()) {
      look_again_later(*looks_[i].draft, Outcome::kNotWorthIt);
      continue;
    }
    rank(looks_[i], proposal);
    looks_[i].draft->proposal = num_proposals_;
    if (static_cast<int32_t>(i) != num_proposals_) std::swap(proposal, proposals_[num_proposals_]);
    ++num_proposals_;
  }
  find_ns_ = static_cast<double>(now_ns() - start);
  const double look_ns = find_ns_ / static_cast<double>(looks_.size());
  // A lost time slice counts for little.
  look_ns_ += look_ns_ == 0 ? look_ns : (std::min(look_ns, 4 * look_ns_) - look_ns_) * kTimeWeight;
}

// Adds what the source has for the branches that it is asked for to their candidates.
void Speculator::ask(DraftSource& source) {
  contexts_.clear();
  asking_.clear();
  for (size_t i = 0; i < looks_.size(); ++i) {
    if ((looks_[i].draft->asked & bit(source.id())) == 0) continue;
    contexts_.push_back(looks_[i].context);
    asking_.push_back(static_cast<int32_t>(i));
  }
  if (asking_.empty()) return;
  if (trees_.size() < asking_.size()) trees_.resize(asking_.size());
  for (size_t i = 0; i < asking_.size(); ++i) trees_[i].clear();
  const int64_t start = now_ns();
  bool has_failed = false;
  try {
    source.propose_all(contexts_, std::span(trees_).first(asking_.size()));
  } catch (const std::exception&) {
    has_failed = true;
    ++stats_.refused_drafts;
  }
  for (size_t i = 0; i < asking_.size() && !has_failed; ++i) {
    if (is_draft_tree(trees_[i], contexts_[i], vocab_size_)) {
      merge_draft(source.id(), trees_[i], proposals_[asking_[i]].candidates);
    } else {
      ++stats_.refused_drafts;
    }
  }
  const int64_t ns = now_ns() - start;
  source_ns_[index(source.id())] += static_cast<double>(ns);
  stats_.sources[index(source.id())].ns += ns;
}

void Speculator::rank(const Look& look, Proposal& proposal) {
  rank_candidates(statistics_, trust(*look.draft), proposal.candidates);
  if (proposal.candidates.size() > static_cast<size_t>(look.params.max_draft_tokens)) {
    proposal.candidates.resize(look.params.max_draft_tokens);
  }
  proposal.branch = look.draft;
  proposal.always = look.params.mode == SpeculationMode::kAlways;
  proposal.num_chosen = 0;
  proposal.tokens.assign(1, look.context.last_token);
  proposal.parents.assign(1, -1);
  proposal.candidate_row.assign(proposal.candidates.size(), -1);
}

void Speculator::choose(int32_t max_drafts) {
  choosing_.clear();
  int32_t num_rows = num_rows_;
  for (int32_t i = 0; i < num_proposals_; ++i) {
    Proposal& proposal = proposals_[i];
    if (!proposal.always) {
      choosing_.push_back(i);
      continue;
    }
    proposal.num_chosen = std::min(max_drafts, static_cast<int32_t>(proposal.candidates.size()));
    max_drafts -= proposal.num_chosen;
    num_rows += proposal.num_chosen;
  }
  path_probabilities_.resize(choosing_.size());
  counts_.resize(choosing_.size());
  for (size_t i = 0; i < choosing_.size(); ++i) {
    path_probabilities_[i].clear();
    for (const DraftCandidate& c : proposals_[choosing_[i]].candidates) {
      path_probabilities_[i].push_back(c.path_probability);
    }
  }
  const double drafting_ns = look_ns_ * static_cast<double>(looks_.size());
  const double bias = bias_.value();
  DraftBudget budget = {num_rows, num_tokens_, max_drafts, drafting_ns, kLeastGain / bias};
  const auto is_chosen = [&] {
    choose_draft_trees(path_probabilities_, cost_, budget, counts_);
    return std::ranges::any_of(counts_, [](int32_t count) { return count > 0; });
  };
  bool drafts = is_chosen();
  if (!drafts && bias < 1) {
    budget.least_gain = kLeastGain;
    drafts = is_chosen() && bias_.begins_anew();
    if (!drafts) std::ranges::fill(counts_, 0);
  }
  double expected_tokens = num_tokens_;
  for (size_t i = 0; i < choosing_.size(); ++i) {
    proposals_[choosing_[i]].num_chosen = counts_[i];
    for (int32_t j = 0; j < counts_[i]; ++j) expected_tokens += path_probabilities_[i][j];
    num_rows += counts_[i];
  }
  if (drafts && choosing_.size() == static_cast<size_t>(num_proposals_)) {
    expected_ = {expected_tokens, 0, cost_.ns(num_rows) + drafting_ns, 0};
  }
  for (int32_t i = 0; i < num_proposals_; ++i) {
    if (proposals_[i].num_chosen > 0) lay_out_rows(proposals_[i]);
  }
}

// Depth first, the likeliest child first: an accepted path that is the likeliest one then lies in the first slots, and
// its KV stays where it is.
void Speculator::lay_out_rows(Proposal& proposal) {
  const std::vector<DraftCandidate>& candidates = proposal.candidates;
  stack_.assign(1, -1);
  while (!stack_.empty()) {
    const int32_t at = stack_.back();
    stack_.pop_back();
    int32_t row = 0;
    if (at >= 0) {
      const int32_t parent = candidates[at].parent;
      row = static_cast<int32_t>(proposal.tokens.size());
      proposal.tokens.push_back(candidates[at].token);
      proposal.parents.push_back(parent < 0 ? 0 : proposal.candidate_row[parent]);
      proposal.candidate_row[at] = row;
    }
    for (int32_t child = proposal.num_chosen - 1; child > at; --child) {
      if (candidates[child].parent == at) stack_.push_back(child);
    }
  }
}

void Speculator::drop(int32_t index, bool for_pages) {
  Proposal& proposal = proposals_[index];
  if (proposal.num_chosen > 0 && for_pages) ++stats_.dropped_drafts;
  proposal.num_chosen = 0;
  proposal.tokens.resize(1);
  proposal.parents.resize(1);
  std::ranges::fill(proposal.candidate_row, -1);
}

Speculator::Rows Speculator::rows(int32_t proposal) const {
  return {proposals_[proposal].tokens, proposals_[proposal].parents};
}

void Speculator::learn(int32_t index, std::span<const int32_t> path, std::span<const int32_t> drawn) {
  Proposal& proposal = proposals_[index];
  BranchDraft& draft = *proposal.branch;
  draft.proposal = -1;
  const auto is_accepted = [&](int32_t row) { return std::ranges::find(path, row) != path.end(); };
  for (size_t i = 0; i < proposal.candidates.size(); ++i) {
    const DraftCandidate& candidate = proposal.candidates[i];
    const int32_t parent_row = candidate.parent < 0 ? 0 : proposal.candidate_row[candidate.parent];
    const int32_t row = proposal.candidate_row[i];
    if (row >= 0) count_row(candidate, is_accepted(row));
    if (parent_row < 0 || !is_accepted(parent_row)) continue;
    const bool was_drawn = drawn[parent_row] == candidate.token;
    for (int source = 0; source < kNumDraftSources; ++source) {
      const DraftClaim& claim = candidate.claims[source];
      if (claim.probability == 0) continue;
      statistics_.observe(static_cast<DraftSourceId>(source), claim.rank, claim.probability, was_drawn);
    }
    const float keep = 1 - (1 - kTrustDecay) * candidate.probability;
    draft.claimed = draft.claimed * keep + candidate.probability;
    draft.drawn = draft.drawn * keep + (was_drawn ? 1 : 0);
  }
  if (proposal.num_chosen == 0) return look_again_later(draft, Outcome::kNotWorthIt);
  if (verify_step_ != step_) ++stats_.verify_steps;
  verify_step_ = step_;
  ++stats_.draft_trees;
  stats_.drafted_tokens += proposal.num_chosen;
  stats_.accepted_draft_tokens += static_cast<int64_t>(path.size()) - 1;
  look_again_later(draft, path.size() > 1 ? Outcome::kAccepted : Outcome::kRejected);
}

void Speculator::count_row(const DraftCandidate& candidate, bool accepted) {
  const auto num_claims = std::ranges::count_if(candidate.claims, [](const DraftClaim& c) { return c.probability > 0; });
  for (size_t source = 0; source < kNumDraftSources; ++source) {
    const DraftClaim& claim = candidate.claims[source];
    if (claim.probability == 0) continue;
    DraftSourceStats& stats = stats_.sources[source];
    ++stats.ranks[claim.rank].drafted_tokens;
    stats.ranks[claim.rank].accepted_tokens += accepted;
    if (accepted) credits_[source] += 1.0 / static_cast<double>(num_claims);
  }
}

void Speculator::end_step(const StepEnd& end) {
  for (const auto& source : sources_) {
    if (!source->wants_successors() || end.successors_ns == 0) continue;
    source_ns_[index(source->id())] += end.successors_ns;
    stats_.sources[index(source->id())].ns += static_cast<int64_t>(end.successors_ns);
  }
  if (!looks_.empty()) look_ns_ += end.successors_ns / static_cast<double>(looks_.size()) * kTimeWeight;
  if (end.is_decode_step) {
    if (expected_) {
      expected_->tokens = static_cast<double>(end.num_tokens);
      expected_->ns = end.ns;
      bias_.observe(*expected_);
    }
    cost_.observe(end.num_rows, end.ns - find_ns_ - end.successors_ns);
  }
  if (!cost_.known() || num_tokens_ == 0) return;
  const double plain_ns = cost_.ns(std::max(1, num_rows_));
  uint32_t asked = 0;
  for (const Look& look : looks_) asked |= look.draft->asked;
  for (size_t source = 0; source < kNumDraftSources; ++source) {
    if ((asked >> source & 1) == 0) continue;
    ledgers_[source].observe(source_ns_[source], credits_[source] * plain_ns / num_tokens_, plain_ns);
  }
}

bool Speculator::wants_successors(const BranchDraft& draft) const {
  if (!has_looked(draft)) return false;
  return std::ranges::any_of(sources_, [&](const auto& source) {
    return source->wants_successors() && (draft.asked & bit(source->id())) != 0;
  });
}

bool Speculator::wants_hidden(const SpeculationParams& params) const {
  return params.mode != SpeculationMode::kOff && std::ranges::any_of(sources_, [&](const auto& source) {
           return source->wants_hidden() && (params.sources & bit(source->id())) != 0;
         });
}

void Speculator::see_hidden(BranchKey branch, int32_t len, std::span<const float> hidden) {
  for (const auto& source : sources_) {
    if (source->wants_hidden()) source->see_hidden(branch, len, hidden);
  }
}

// So many steps that all branches' looks in turn take up their share of the time and no more.
int32_t Speculator::longest_wait() const {
  if (!cost_.known()) return 1 << kMaxFailures;
  const double affordable = kLookingShare * cost_.ns(std::max(1, num_rows_));
  return static_cast<int32_t>(std::min(look_ns_ * num_tokens_ / affordable, 100.0));
}

// After 1, 2, 3, 4 and more failures in a row a branch waits 0, 2, 6, 14 steps. A look that comes to nothing costs only
// its own time, so it waits no longer than that is worth; and since what it found is compared with the tokens that plain
// decoding draws, the statistics recover without failed drafts.
void Speculator::look_again_later(BranchDraft& draft, Outcome outcome) {
  draft.failures = outcome == Outcome::kAccepted ? 0 : std::min(draft.failures + 1, kMaxFailures);
  draft.wait = outcome == Outcome::kAccepted ? 0 : (1 << draft.failures) - 2;
  if (outcome == Outcome::kNotWorthIt) draft.wait = std::min(draft.wait, longest_wait());
}

}  // namespace deftree
