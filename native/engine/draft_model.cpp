#include "engine/draft_model.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

#include "common/error.h"

namespace deftree {
namespace {

constexpr int32_t kWidth = 4;  // tokens of a level
constexpr int32_t kLeaf = -1;  // state of a node off the path
constexpr double kTimeWeight = 0.1;

int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

const SamplingParams& likeliest_tokens() {
  static const SamplingParams params = {.num_logprobs = kWidth, .logit_bias = {}};
  return params;
}

// A draft model may be sure where the target is not.
float probability(const TokenLogprob& token) { return std::clamp(std::exp(token.logprob), 1e-6f, 1.0f); }

}  // namespace

DraftModelSource::DraftModelSource(const DraftModelOptions& options, std::unique_ptr<Backend> backend,
                                   const std::atomic<bool>& cancel)
    : options_(options),
      backend_(std::move(backend)),
      cancel_(cancel),
      cache_({options.num_pages, options.page_size}) {}

int32_t DraftModelSource::known_len(BranchKey branch) const {
  const auto place = places_.find(branch);
  return place == places_.end() ? 0 : place->second.len;
}

void DraftModelSource::extend(BranchKey branch, std::span<const int32_t> tokens, int32_t len) {
  const auto [it, is_new] = places_.try_emplace(branch);
  Place& place = it->second;
  if (is_new) place.cache_id = cache_.create();
  for (const int32_t token : tokens) {
    if (!place.ahead.empty() && place.ahead.front() == token) {
      place.ahead.erase(place.ahead.begin());
      place.levels.erase(place.levels.begin());
      continue;
    }
    drop_ahead(place);
    place.levels.clear();
    place.pending.push_back(token);
  }
  place.len = len;
}

void DraftModelSource::fork(BranchKey parent, BranchKey child) {
  const auto it = places_.find(parent);
  if (it == places_.end()) return;
  Place place = it->second;
  place.cache_id = cache_.fork(place.cache_id, 1)[0];
  forget(child);
  places_.emplace(child, std::move(place));
}

void DraftModelSource::forget(BranchKey branch) {
  const auto it = places_.find(branch);
  if (it == places_.end()) return;
  cache_.prune(it->second.cache_id, true);  // a shortened branch finds its beginning again
  places_.erase(it);
}

void DraftModelSource::propose(const DraftContext& context, std::vector<DraftNode>& nodes) {
  propose_all({&context, 1}, {&nodes, 1});
}

void DraftModelSource::propose_all(std::span<const DraftContext> contexts, std::span<std::vector<DraftNode>> nodes) {
  growing_.clear();
  int32_t deepest = 0;
  for (const DraftContext& context : contexts) {
    const auto it = places_.find(context.branch);
    const bool fits = it != places_.end() && it->second.len < options_.context_len;
    growing_.push_back({&context, fits ? &it->second : nullptr, 1, fits});
    if (fits) deepest = std::max(deepest, context.max_depth);
  }
  catch_up();
  for (int32_t depth = 1; depth < deepest; ++depth) {
    draft_level(depth);
    if (std::ranges::none_of(growing_, &Growing::goes_on)) break;
  }
  for (size_t i = 0; i < contexts.size(); ++i) {
    const Place* place = growing_[i].place;
    if (place == nullptr || place->levels.empty()) continue;
    // The state of a node is the level below it.
    best_first_.grow(0, contexts[i], nodes[i], [&](int32_t level, int32_t, auto push) {
      if (level == kLeaf || level >= static_cast<int32_t>(place->levels.size())) return;
      const bool has_next = level < static_cast<int32_t>(place->ahead.size());
      for (size_t rank = 0; rank < place->levels[level].size(); ++rank) {
        const TokenLogprob& next = place->levels[level][rank];
        const bool is_path = has_next && next.token == place->ahead[level];
        push(next.token, probability(next), static_cast<int32_t>(rank), is_path ? level + 1 : kLeaf);
      }
    });
  }
}

// Runs what the branches' texts have that the draft model has not seen, and learns what it thinks comes next.
void DraftModelSource::catch_up() {
  for (Growing& growing : growing_) {
    if (!growing.goes_on || growing.place->pending.size() < 2) continue;
    Place& place = *growing.place;
    const int32_t most = static_cast<int32_t>(place.pending.size()) - 1;  // the last one is run, for its logits
    const int32_t matched = cache_.attach_prefix(place.cache_id, place.pending, most);
    place.pending.erase(place.pending.begin(), place.pending.begin() + matched);
  }
  for (bool is_done = false; !is_done;) {
    is_done = true;
    rows_.clear();
    int32_t budget = options_.max_step_tokens;
    for (Growing& growing : growing_) {
      if (!growing.goes_on || !growing.place->levels.empty()) continue;
      Place& place = *growing.place;
      const int32_t num_pending = static_cast<int32_t>(place.pending.size());
      const int32_t num_tokens = std::min(num_pending, budget);
      if (budget == 0 || (num_pending > 0 && num_tokens == 0)) {
        is_done = false;
        continue;
      }
      if (!append(place, std::span(place.pending).first(num_tokens))) {
        growing.goes_on = false;
        continue;
      }
      budget -= std::max(1, num_tokens);
      is_done &= num_tokens == num_pending;
      rows_.push_back({&place, num_tokens, num_tokens == num_pending});
    }
    run(rows_);
    for (const Row& row : rows_)
      row.place->pending.erase(row.place->pending.begin(), row.place->pending.begin() + row.num_tokens);
  }
}

// Goes one token further along each path for which that is worth a forward pass.
void DraftModelSource::draft_level(int32_t depth) {
  rows_.clear();
  int32_t num_running = 0;
  for (const Growing& growing : growing_) num_running += growing.goes_on;
  for (Growing& growing : growing_) {
    if (!growing.goes_on) continue;
    Place& place = *growing.place;
    growing.goes_on = false;
    if (static_cast<int32_t>(place.levels.size()) < depth) continue;
    const std::vector<TokenLogprob>& level = place.levels[depth - 1];
    const bool is_run = static_cast<int32_t>(place.ahead.size()) >= depth;
    const auto next = is_run ? std::ranges::find(level, place.ahead[depth - 1], &TokenLogprob::token) : level.begin();
    if (next == level.end()) continue;
    growing.path_probability *= probability(*next);
    if (growing.path_probability < growing.context->min_probability || depth >= growing.context->max_nodes) continue;
    if (is_run) {
      growing.goes_on = true;
      continue;
    }
    const double worth = growing.path_probability * growing.context->token_ns;
    if (growing.context->token_ns > 0 && worth < pass_ns_ / num_running) continue;
    const bool is_full = static_cast<int32_t>(rows_.size()) == options_.max_step_tokens;
    if (is_full || place.len + depth >= options_.context_len || !append(place, {&next->token, 1})) continue;
    place.ahead.push_back(next->token);
    rows_.push_back({&place, 1, true});
    growing.goes_on = true;
  }
  if (rows_.empty()) return;
  const int64_t start = now_ns();
  try {
    run(rows_);
  } catch (...) {
    for (const Row& row : rows_) row.place->ahead.pop_back();
    throw;
  }
  const double ns = static_cast<double>(now_ns() - start);
  pass_ns_ += pass_ns_ == 0 ? ns : (std::min(ns, 4 * pass_ns_) - pass_ns_) * kTimeWeight;
}

// False when there is no page for the tokens, even without the branches that are not drafted for now.
bool DraftModelSource::append(Place& place, std::span<const int32_t> tokens) {
  if (tokens.empty()) return true;
  for (bool has_made_room = false;; has_made_room = true) {
    try {
      cache_.append(place.cache_id, tokens);
      return true;
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kKvFull) throw;
      if (has_made_room || !make_room()) return false;
    }
  }
}

bool DraftModelSource::make_room() {
  const auto is_growing = [&](const Place& place) {
    return std::ranges::find(growing_, &place, &Growing::place) != growing_.end();
  };
  return std::erase_if(places_, [&](const auto& entry) {
           if (is_growing(entry.second)) return false;
           cache_.prune(entry.second.cache_id, false);
           return true;
         }) > 0;
}

// One forward pass over rows whose tokens were appended. On failure the cache is as before.
void DraftModelSource::run(std::span<const Row> rows) {
  if (rows.empty()) return;
  step_branches_.clear();
  for (const Row& row : rows) step_branches_.push_back({row.place->cache_id, row.num_tokens});
  try {
    cache_.snapshot(step_branches_, snapshot_);
    batch_ = {};
    for (const SnapshotQuery& query : snapshot_.queries) {
      batch_.tokens.push_back(query.token);
      batch_.positions.push_back(query.position);
      batch_.slots.push_back(query.slot);
    }
    sample_requests_.clear();
    std::vector<int32_t> logit_of_query(snapshot_.queries.size(), -1);
    const auto last_query = [&](size_t i) { return snapshot_.first_query[i] + std::max(1, rows[i].num_tokens) - 1; };
    for (size_t i = 0; i < rows.size(); ++i) {
      if (rows[i].wants_logits) logit_of_query[last_query(i)] = 0;
    }
    for (size_t query = 0; query < logit_of_query.size(); ++query) {
      if (logit_of_query[query] < 0) continue;
      logit_of_query[query] = batch_.num_logits();
      batch_.logit_rows.push_back(static_cast<int32_t>(query));
    }
    for (size_t i = 0; i < rows.size(); ++i) {
      if (!rows[i].wants_logits) continue;
      sample_requests_.push_back({.logit_row = logit_of_query[last_query(i)],
                                  .params = &likeliest_tokens(),
                                  .path_hash = 0,
                                  .position = 0,
                                  .seen = {},
                                  .allowed = {}});
    }
    attention::make_plan(snapshot_.tree, attention::Policy::kDeftFlatten, backend_->attention_shape(),
                         backend_->plan_device(), plan_);
    backend_->forward(batch_, plan_, cancel_);
    sample_results_.resize(std::max(sample_results_.size(), sample_requests_.size()));
    backend_->sample(sample_requests_, std::span(sample_results_).first(sample_requests_.size()));
  } catch (...) {
    for (const Row& row : rows) cache_.rollback(row.place->cache_id);
    throw;
  }
  size_t next_result = 0;
  for (const Row& row : rows) {
    if (row.num_tokens > 0) cache_.commit(row.place->cache_id);
    if (row.wants_logits) row.place->levels.push_back(sample_results_[next_result++].top);
  }
}

void DraftModelSource::drop_ahead(Place& place) {
  if (place.ahead.empty()) return;
  cache_.truncate(place.cache_id, cache_.length(place.cache_id) - static_cast<int32_t>(place.ahead.size()));
  place.ahead.clear();
}

void DraftModelSource::check_invariants() const {
  cache_.check_invariants();
  ensure(cache_.stats().num_branches == static_cast<int32_t>(places_.size()), "each branch has its place");
  for (const auto& [key, place] : places_) {
    ensure(cache_.num_fresh(place.cache_id) == 0, "no token is fresh between two calls");
    const int32_t written = place.len - static_cast<int32_t>(place.pending.size() - place.ahead.size());
    ensure(cache_.length(place.cache_id) == written, "the cache holds the text that was run and the path ahead");
    ensure(place.pending.empty() || (place.ahead.empty() && place.levels.empty()), "what comes next is known last");
  }
}

}  // namespace deftree
