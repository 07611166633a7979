// For tests: a tiny deterministic language model behind the Backend interface. It keeps the token of each KV slot, and
// the logits of a query are a hash of the tokens that the query sees through the plan, in order. A wrong slot, a stale
// page, a missing or doubled key, or a mask that shows too much changes the tokens that come out.
#pragma once

#include <algorithm>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "common/error.h"
#include "engine/backend.h"

namespace deftree::test {

inline constexpr int32_t kFakeVocab = 40;

inline std::vector<float> fake_logits(std::span<const int32_t> tokens) {
  uint64_t state = 0x12345;
  for (int32_t token : tokens) state = fork_path_hash(state, static_cast<uint32_t>(token));
  std::vector<float> logits(kFakeVocab);
  for (int32_t t = 0; t < kFakeVocab; ++t) logits[t] = static_cast<float>(6 * uniform_random(state, 1, t));
  return logits;
}

inline int32_t fake_token(std::span<const int32_t> tokens, const SamplingParams& params = {}, uint64_t path_hash = 0) {
  SamplerScratch scratch;
  SampledToken result;
  sample_token(fake_logits(tokens), {0, &params, path_hash, static_cast<int32_t>(tokens.size()), tokens, {}}, scratch,
               result);
  return result.token;
}

class FakeBackend final : public Backend {
 public:
  FakeBackend(int32_t num_pages, int32_t page_size) : page_size_(page_size), slots_(num_pages * page_size) {}

  // Called at the start of each forward pass; may throw.
  std::function<void(const StepBatch&)> on_forward;
  std::function<void()> on_sample;
  int32_t fail_position = -1;  // a draw for this position throws
  int64_t num_forwards = 0, num_rows = 0;
  bool appends_to_plans = false;
  int64_t num_appends = 0;
  int32_t max_appends = 5;  // of one plan; then it has no room left

  const BackendInfo& info() const override { return info_; }
  attention::AttentionShape attention_shape() const override { return {4, 2, 64, page_size_}; }
  attention::PlanDevice plan_device() const override { return {2, 32, 16}; }

  void forward(const StepBatch& batch, const attention::Plan& plan, const std::atomic<bool>& cancel) override {
    if (on_forward) on_forward(batch);
    if (cancel) throw Error(ErrorCode::kAborted, "cancelled");
    ++num_forwards;
    num_rows += static_cast<int64_t>(batch.tokens.size());
    for (size_t row = 0; row < batch.tokens.size(); ++row) {
      if (batch.slots[row] >= 0) slots_[batch.slots[row]] = {batch.tokens[row], batch.positions[row]};
    }
    std::vector<std::map<int32_t, int32_t>> seen(batch.tokens.size());  // row -> position -> token
    if (!std::exchange(has_appended_, false)) appended_.clear();
    for (const auto& [row, slot] : appended_) see(slot, seen.at(row));
    for (const attention::WorkItem& item : plan.items) {
      for (int32_t q = item.query_begin; q < item.query_end; ++q) read_chunk(plan, item, q, seen[plan.group_queries[q]]);
    }
    logits_.clear();
    for (int32_t row : batch.logit_rows) {
      std::vector<int32_t> tokens;
      for (const auto& [position, token] : seen[row]) {
        ensure(position == static_cast<int32_t>(tokens.size()), "a query sees each position of its path once");
        tokens.push_back(token);
      }
      ensure(static_cast<int32_t>(tokens.size()) == batch.positions[row] + 1, "a query sees its whole path");
      ensure(tokens.back() == batch.tokens[row], "a query's last key is its own");
      logits_.push_back(fake_logits(tokens));
    }
  }

  bool can_append_to_plan() const override { return appends_to_plans; }
  std::optional<int64_t> append_to_plan(std::span<const attention::AppendedToken> appended) override {
    if (static_cast<int64_t>(appended_.size()) >= int64_t{max_appends} * static_cast<int64_t>(appended.size())) {
      return std::nullopt;
    }
    for (const attention::AppendedToken& token : appended) appended_.emplace_back(token.query, token.slot);
    has_appended_ = true;
    ++num_appends;
    return static_cast<int64_t>(appended.size());
  }

  void sample(std::span<const SampleRequest> requests, std::span<SampledToken> results) override {
    if (on_sample) on_sample();
    for (size_t i = 0; i < requests.size(); ++i) {
      if (requests[i].position == fail_position) throw Error(ErrorCode::kBadModel, "the logits are not finite");
      sample_token(logits_.at(requests[i].logit_row), requests[i], scratch_, results[i]);
    }
  }

  void log_probs(std::span<const int32_t> rows, std::span<const int32_t> tokens, std::span<float> results) override {
    for (size_t i = 0; i < rows.size(); ++i) results[i] = log_prob(logits_.at(rows[i]), tokens[i]);
  }

  void read_logits(int32_t row, std::span<float> dst) override { std::ranges::copy(logits_.at(row), dst.begin()); }

  void copy_slots(std::span<const SlotCopy> copies) override {
    for (const SlotCopy& copy : copies) {
      for (int32_t i = 0; i < copy.len; ++i) slots_.at(copy.to_slot + i) = slots_.at(copy.from_slot + i);
    }
  }

  BackendTimes times() const override { return {}; }

 private:
  struct Slot {
    int32_t token = -1, position = -1;
  };

  void see(int32_t index, std::map<int32_t, int32_t>& seen) const {
    const Slot& slot = slots_.at(index);
    ensure(slot.token >= 0, "a slot was written before it is read");
    ensure(seen.emplace(slot.position, slot.token).second, "a position is seen once");
  }

  void read_chunk(const attention::Plan& plan, const attention::WorkItem& item, int32_t group_query,
                  std::map<int32_t, int32_t>& seen) const {
    int32_t at = 0;
    for (int32_t s = item.span_begin; s < item.span_end; ++s) {
      const PageSpan& span = plan.spans[s];
      for (int32_t offset = span.begin; offset < span.end && at < item.kv_len; ++offset, ++at) {
        if (at >= item.dense_len) {
          const int32_t bit = at - item.dense_len;
          const uint64_t word =
              plan.mask_words[item.mask_begin + (group_query - item.query_begin) * item.mask_stride + bit / 64];
          if ((word >> (bit % 64) & 1) == 0) continue;
        }
        see(span.page * page_size_ + offset, seen);
      }
    }
  }

  int32_t page_size_;
  std::vector<Slot> slots_;
  std::vector<std::pair<int32_t, int32_t>> appended_;  // query row, slot: what the last plan was given beside its items
  bool has_appended_ = false;
  std::vector<std::vector<float>> logits_;
  SamplerScratch scratch_;
  BackendInfo info_{.device = "cpu",
                    .description = "fake",
                    .weight_format = "f32",
                    .kv_type = "f32",
                    .weight_bytes = 0,
                    .kv_bytes = 0,
                    .kv_bytes_per_token = 8};
};

}  // namespace deftree::test
