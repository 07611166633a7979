// Draft trees in the step: found before rows are given out, run as rows of their branch, cut to the accepted path after
// the draw. A branch that does not draft, or whose draft is dropped, goes the plain way.
#include <algorithm>
#include <chrono>
#include <limits>
#include <optional>
#include <utility>

#include "engine/engine.h"

namespace deftree {
namespace {

constexpr int32_t kMeasuredRows[] = {1, 2, 4, 8, 16, 32, 64, 128};
constexpr int32_t kMeasuredPrefix = 32;
constexpr int kMeasuredRuns = 3;
// Beyond so many rows a curve is not measured further once larger trees are too dear, or the load would take too long.
constexpr int32_t kLeastMeasuredRows = 8;
constexpr double kDearest = 16, kLongestMeasureNs = 300e6;

int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// One more token of a constrained text: whether it may come, and where the text stands then; nowhere once it has ended.
struct ConstrainedStep {
  bool fits = false;
  std::optional<constraint::ConstraintState> state;
};

ConstrainedStep constrained_step(const constraint::Constraint& constraint, const DecodeCommand& command,
                                 const constraint::ConstraintState& above, int32_t token) {
  if (std::ranges::find(command.stop_tokens, token) != command.stop_tokens.end())
    return {constraint.accepts_end(above), std::nullopt};
  std::optional<constraint::ConstraintState> state = constraint.advance(above, token);
  const bool fits = state.has_value();
  if (fits && constraint.is_complete(*state)) state.reset();
  return {fits, std::move(state)};
}

}  // namespace

void Engine::draft(size_t first, int32_t num_decoding) {
  const auto wants_auto = [](const EngineBranch* branch) {
    return running<DecodeCommand>(*branch) && branch->queue.front().speculation.mode == SpeculationMode::kAuto;
  };
  if (!is_cost_measured_ && std::ranges::any_of(active_, wants_auto)) measure_step_cost();
  enter(kDraft);
  const auto decoding = [&](int32_t i) -> EngineBranch& { return *decoding_[(first + i) % decoding_.size()].branch; };
  int64_t num_prefill = 0;
  for (const Candidate& prefill : prefilling_) num_prefill += prefill.num_fresh;
  const int32_t num_left = options_.max_step_tokens - num_decoding;
  const int32_t num_rows = num_decoding + static_cast<int32_t>(std::min<int64_t>(num_prefill, num_left));
  int32_t num_tokens = 0;
  for (int32_t i = 0; i < num_decoding; ++i) num_tokens += running<DecodeCommand>(decoding(i)) != nullptr;
  speculator_.begin_step(num_rows, num_tokens);
  // A branch that waits for pages, and a prompt that fills the step, go before any draft.
  if (stats_.num_paused_branches == 0 && num_rows < options_.max_step_tokens) {
    for (int32_t i = 0; i < num_decoding; ++i) {
      if (running<DecodeCommand>(decoding(i))) want_draft(decoding(i));
    }
    speculator_.find([this](BranchKey key, std::vector<DraftCandidate>& candidates) {
      keep_to_constraint(*find(key), candidates);
    });
    if (speculator_.num_proposals() > 0) {
      speculator_.choose(options_.max_step_tokens - num_rows);
      drop_drafts_without_pages(first, num_decoding);
    }
  }
  enter(kSchedule);
}

void Engine::want_draft(EngineBranch& branch) {
  const Request& request = branch.queue.front();
  const DecodeCommand& command = std::get<DecodeCommand>(request.command);
  // A token that siblings are about to write, too, is written once for all, without a draft.
  if (request.speculation.mode == SpeculationMode::kOff || branch.pending.size() != 1 || branch.may_share) return;
  if (request.speculation.mode == SpeculationMode::kAuto && !speculator_.cost().known()) return;
  const int32_t most = std::min(command.max_tokens - request.num_decoded, options_.context_len - branch.len());
  if (most <= 1) return;
  speculator_.want(branch.draft, request.speculation, branch.key, branch.pending[0], branch.len(), most - 1, [&] {
    std::vector<int32_t> path = cache_.tokens(branch.cache_id);
    path.push_back(branch.pending[0]);
    return path;
  });
}

// Of a constrained branch, only drafts whose text stays in the language are worth a row.
void Engine::keep_to_constraint(const EngineBranch& branch, std::vector<DraftCandidate>& candidates) const {
  if (!branch.constraint) return;
  const constraint::Constraint& constraint = *branch.constraint->constraint;
  const DecodeCommand& command = std::get<DecodeCommand>(branch.queue.front().command);
  std::vector<std::optional<constraint::ConstraintState>> states(candidates.size());  // none: the text ends there
  std::vector<char> keeps(candidates.size());
  for (size_t i = 0; i < candidates.size(); ++i) {
    const int32_t parent = candidates[i].parent;
    const auto& above = parent < 0 ? std::optional(branch.constraint->state) : states[parent];
    if (!above) continue;
    ConstrainedStep step = constrained_step(constraint, command, *above, candidates[i].token);
    keeps[i] = step.fits;
    states[i] = std::move(step.state);
  }
  keep_candidates(keeps, candidates);
}

// Drafts get pages that are free now and that no row of the step can want; they evict nothing.
void Engine::drop_drafts_without_pages(size_t first, int32_t num_decoding) {
  int64_t spare = int64_t{cache_.stats().num_free_pages} - num_decoding;
  for (const Candidate& prefill : prefilling_) {
    spare -= cache_.pages_wanted(prefill.branch->cache_id, prefill.num_fresh);
  }
  for (int32_t i = 0; i < num_decoding; ++i) {
    const EngineBranch& branch = *decoding_[(first + i) % decoding_.size()].branch;
    const int32_t proposal = speculator_.proposal(branch.draft);
    if (proposal < 0) continue;
    const int32_t num_rows = static_cast<int32_t>(speculator_.rows(proposal).tokens.size());
    const int32_t pages = std::max(0, cache_.pages_wanted(branch.cache_id, num_rows) - 1);  // one is its row's own
    if (pages <= spare) {
      spare -= pages;
    } else {
      speculator_.drop(proposal, true);
    }
  }
}

bool Engine::append_draft(EngineBranch& branch) {
  const int32_t proposal = speculator_.proposal(branch.draft);
  if (proposal < 0) return false;
  const Speculator::Rows rows = speculator_.rows(proposal);
  if (rows.tokens.size() == 1) return false;
  try {
    cache_.append_draft(branch.cache_id, rows.tokens, rows.parents);
    return true;
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kKvFull) throw;
    speculator_.drop(proposal, true);
    return false;
  }
}

// Each row of each draft tree, with the position, random number and penalties that plain decoding has there.
void Engine::request_draft_draws() {
  const size_t num_plain = sample_requests_.size();
  std::vector<std::pair<size_t, size_t>> seen;  // of each draft row: begin and end in draft_seen_
  std::vector<std::optional<constraint::ConstraintState>> states;  // of a tree's rows; none: the text has ended there
  for (size_t i = 0; i < works_.size(); ++i) {
    if (!works_[i].is_draft()) continue;
    EngineBranch& branch = *works_[i].branch;
    const Request& request = branch.queue.front();
    const DecodeCommand& command = std::get<DecodeCommand>(request.command);
    const Speculator::Rows rows = speculator_.rows(works_[i].proposal);
    const bool is_penalised = command.sampling.repetition_penalty != 1.0f;
    drawings_.push_back({&branch, static_cast<int32_t>(sample_requests_.size()), works_[i].num_fresh, works_[i].proposal});
    const size_t first_row = seen.size();
    states.assign(works_[i].num_fresh, std::nullopt);
    for (int32_t row = 0; row < works_[i].num_fresh; ++row) {
      const int32_t query = snapshot_.first_query[i] + row;
      const size_t begin = draft_seen_.size();
      if (is_penalised && row == 0) {
        draft_seen_.insert(draft_seen_.end(), request.seen.begin(), request.seen.end());
      } else if (is_penalised) {
        const auto [above, above_end] = seen[first_row + rows.parents[row]];
        draft_seen_.reserve(begin + above_end - above + 1);
        draft_seen_.insert(draft_seen_.end(), draft_seen_.begin() + above, draft_seen_.begin() + above_end);
        draft_seen_.push_back(rows.tokens[row]);
      }
      seen.emplace_back(begin, draft_seen_.size());
      if (branch.constraint) states[row] = draft_state(branch, rows, row, states);
      sample_requests_.push_back({.logit_row = logit_index_[query],
                                  .params = &command.sampling,
                                  .path_hash = branch.path_hash,
                                  .position = batch_.positions[query] + 1,
                                  .seen = {},
                                  .allowed = {},
                                  .num_successors = num_successors(branch)});
      if (!states[row]) continue;
      try {
        const int32_t depth = batch_.positions[query] + 1 - branch.len();
        sample_requests_.back().allowed = allowed_tokens(branch, *states[row], num_tokens_left(branch) - depth);
      } catch (const Error& error) {
        mask_errors_.emplace_back(sample_requests_.size() - 1, error);
      }
    }
  }
  for (size_t i = 0; i < seen.size(); ++i) {
    sample_requests_[num_plain + i].seen = std::span(draft_seen_).subspan(seen[i].first, seen[i].second - seen[i].first);
  }
}

// Where the text of a constrained branch stands after the row.
std::optional<constraint::ConstraintState> Engine::draft_state(
    const EngineBranch& branch, const Speculator::Rows& rows, int32_t row,
    std::span<const std::optional<constraint::ConstraintState>> states) const {
  if (row == 0) return branch.constraint->state;
  const auto& above = states[rows.parents[row]];
  if (!above) return std::nullopt;
  const DecodeCommand& command = std::get<DecodeCommand>(branch.queue.front().command);
  return constrained_step(*branch.constraint->constraint, command, *above, rows.tokens[row]).state;
}

// Row by row along the accepted path, exactly what plain decoding does step by step; where that ends, the path ends.
void Engine::deliver_draft(const Drawing& drawing) {
  EngineBranch& branch = *drawing.branch;
  const Speculator::Rows rows = speculator_.rows(drawing.proposal);
  drawn_.clear();
  for (int32_t row = 0; row < drawing.num_rows; ++row) {
    const int32_t request = drawing.first_request + row;
    drawn_.push_back(sample_errors_[request] ? -1 : sample_results_[request].token);
  }
  verify(rows.tokens, rows.parents, drawn_, verified_);

  size_t num_accepted = 0;
  for (bool goes_on = true; goes_on && num_accepted < verified_.path.size(); ++num_accepted) {
    const int32_t request = drawing.first_request + verified_.path[num_accepted];
    mark_written(branch, 1, false);
    if (sample_errors_[request]) {
      fail_front(branch, *sample_errors_[request]);
      goes_on = false;
    } else {
      goes_on = accept_token(branch, sample_results_[request]);
      if (goes_on) show_hidden(branch, sample_requests_[request].logit_row);
    }
  }
  const auto path = std::span<const int32_t>(verified_.path).first(num_accepted);
  cache_.accept_draft(branch.cache_id, path, copies_);
  learn_from(drawing, path);
}

// The branch's last token was drawn from this row.
void Engine::show_hidden(const EngineBranch& branch, int32_t logit_row) {
  if (!speculator_.wants_hidden(branch.queue.front().speculation)) return;
  const std::span<const float> hidden = backend_->hidden_state(logit_row);
  if (!hidden.empty()) speculator_.see_hidden(branch.key, branch.len(), hidden);
}

// What the rows of a drawing tell the sources and their statistics.
void Engine::learn_from(const Drawing& drawing, std::span<const int32_t> path) {
  BranchDraft& draft = drawing.branch->draft;
  if (!speculator_.has_looked(draft)) return;
  drawn_.clear();
  for (int32_t i = drawing.first_request; i < drawing.first_request + drawing.num_rows; ++i) {
    drawn_.push_back(sample_errors_[i] ? -1 : sample_results_[i].token);
    if (sample_errors_[i]) continue;
    speculator_.observe(batch_.tokens[batch_.logit_rows[sample_requests_[i].logit_row]], sample_results_[i].successors);
  }
  if (const int32_t proposal = speculator_.proposal(draft); proposal >= 0) speculator_.learn(proposal, path, drawn_);
}

// Steps of real rows on scratch pages, which nothing else reads and which are free again afterwards.
void Engine::measure_step_cost() {
  if (speculator_.cost().known()) is_cost_measured_ = true;
  const int32_t prefix = std::min(kMeasuredPrefix, options_.max_step_tokens);
  const int32_t num_free = cache_.stats().num_free_pages * options_.page_size;
  const int32_t most = std::min({options_.max_step_tokens, options_.context_len - prefix, num_free - prefix});
  if (is_cost_measured_ || most < 2) return;
  is_cost_measured_ = true;
  has_planned_tree_ = false;  // the backend's plan is a scratch one from here on
  const int64_t start = now_ns();
  const BranchId scratch = cache_.create();
  std::vector<StepCostPoint> points;
  try {
    time_rows(scratch, prefix);
    cache_.commit(scratch);
    for (int32_t rows : kMeasuredRows) {
      const bool is_late = rows > kLeastMeasuredRows && static_cast<double>(now_ns() - start) > kLongestMeasureNs;
      if (rows > most || is_late) break;
      double best = std::numeric_limits<double>::infinity();
      for (int run = 0; run < kMeasuredRuns; ++run) {
        best = std::min(best, time_rows(scratch, rows));
        cache_.rollback(scratch);
      }
      points.push_back({rows, best});
      if (best > kDearest * points[0].ns) break;
    }
  } catch (const Error& error) {
    const bool measured_enough = error.code() == ErrorCode::kKvFull || error.code() == ErrorCode::kOutOfMemory;
    if (!measured_enough) {
      cache_.prune(scratch, false);
      throw;
    }
  }
  cache_.prune(scratch, false);
  speculator_.cost() = StepCost(std::move(points));
  step_start_ns_ = now_ns();  // of a step in whose middle this was
}

double Engine::time_rows(BranchId scratch, int32_t num_rows) {
  const int64_t start = now_ns();
  cache_.append(scratch, std::vector<int32_t>(num_rows, 0));
  const StepBranch step = {scratch, num_rows};
  cache_.snapshot({&step, 1}, snapshot_);
  fill_batch();
  batch_.logit_rows.clear();
  sample_requests_.clear();
  const SamplingParams greedy;
  for (int32_t row = 0; row < num_rows; ++row) {
    batch_.logit_rows.push_back(row);
    sample_requests_.push_back({.logit_row = row, .params = &greedy, .path_hash = 0, .position = 0, .seen = {}, .allowed = {}});
  }
  attention::make_plan(snapshot_.tree, policy_, backend_->attention_shape(), backend_->plan_device(), plan_);
  sample_results_.resize(std::max(sample_results_.size(), sample_requests_.size()));
  backend_->forward(batch_, plan_, cancel_);
  backend_->sample(sample_requests_, std::span(sample_results_).first(sample_requests_.size()));
  return static_cast<double>(now_ns() - start);
}

void Engine::end_draft_step() {
  const int64_t successors_ns = backend_->times().successors_ns;
  const int64_t new_successors_ns = successors_ns - std::exchange(successors_ns_, successors_ns);
  stats_.drafting_ns += new_successors_ns;
  // A prefill's rows have no logits; such a step tells nothing of decoding.
  speculator_.end_step({.is_decode_step = batch_.logit_rows.size() == batch_.tokens.size(),
                        .num_rows = static_cast<int32_t>(batch_.tokens.size()),
                        .num_tokens = stats_.decoded_tokens - tokens_before_step_,
                        .ns = static_cast<double>(now_ns() - step_start_ns_),
                        .successors_ns = static_cast<double>(new_successors_ns)});
}

int32_t Engine::num_successors(const EngineBranch& branch) const {
  return speculator_.wants_successors(branch.draft) ? kNumDraftSuccessors : 0;
}

}  // namespace deftree
