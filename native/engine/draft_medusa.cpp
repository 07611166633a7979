#include "engine/draft_medusa.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "common/error.h"
#include "model/tensor_table.h"

namespace deftree {
namespace {

constexpr int32_t kWidth = 8;  // tokens of a head

}  // namespace

MedusaSource::MedusaSource(const MedusaSpec& spec, int32_t num_threads)
    : hidden_size_(spec.hidden_size), vocab_size_(spec.vocab_size), pool_(std::max(1, num_threads)) {
  TensorTable table(spec.checkpoint);
  const auto name = [](int32_t head, int32_t block, const char* rest) {
    return std::to_string(head) + "." + std::to_string(block) + "." + rest;
  };
  for (int32_t head = 0; head < spec.num_heads; ++head) {
    for (int32_t block = 0; block < spec.num_blocks; ++block) {
      table.expect(name(head, block, "linear.weight"), {hidden_size_, hidden_size_});
      table.expect(name(head, block, "linear.bias"), {hidden_size_});
    }
    table.expect(name(head, spec.num_blocks, "weight"), {vocab_size_, hidden_size_});
  }
  table.expect_no_other();
  const auto pack = [&](const std::string& tensor) {
    const TensorBytes source = table.source(tensor);
    return LinearWeight::pack(source.tensor, choose_weight_format(source.tensor.dtype, spec.checkpoint.weights), pool_);
  };
  for (int32_t head = 0; head < spec.num_heads; ++head) {
    Head& packed = heads_.emplace_back();
    for (int32_t block = 0; block < spec.num_blocks; ++block) {
      packed.blocks.push_back(
          {pack(name(head, block, "linear.weight")), table.floats(name(head, block, "linear.bias"))});
    }
    packed.lm_head = pack(name(head, spec.num_blocks, "weight"));
  }
}

void MedusaSource::see_hidden(BranchKey branch, int32_t len, std::span<const float> hidden) {
  State& state = states_[branch];
  state.len = len;
  state.hidden.assign(hidden.begin(), hidden.end());
}

void MedusaSource::fork(BranchKey parent, BranchKey child) {
  const auto state = states_.find(parent);
  if (state != states_.end()) states_.insert_or_assign(child, State(state->second));
}

void MedusaSource::propose(const DraftContext& context, std::vector<DraftNode>& nodes) {
  propose_all({&context, 1}, {&nodes, 1});
}

void MedusaSource::propose_all(std::span<const DraftContext> contexts, std::span<std::vector<DraftNode>> nodes) {
  drafting_.clear();
  hidden_.clear();
  int32_t deepest = 0;
  for (size_t i = 0; i < contexts.size(); ++i) {
    const auto state = states_.find(contexts[i].branch);
    if (state == states_.end() || state->second.len != contexts[i].len) continue;
    drafting_.push_back(static_cast<int32_t>(i));
    hidden_.insert(hidden_.end(), state->second.hidden.begin(), state->second.hidden.end());
    deepest = std::max(deepest, contexts[i].max_depth);
  }
  if (drafting_.empty()) return;
  const int num_rows = static_cast<int>(drafting_.size());
  const size_t num_heads = std::min(heads_.size(), static_cast<size_t>(deepest));
  levels_.assign(drafting_.size(), {});
  const SamplingParams likeliest = {.num_logprobs = std::min(kWidth, vocab_size_), .logit_bias = {}};
  for (size_t head = 0; head < num_heads; ++head) {
    run_head(heads_[head], num_rows);
    for (int row = 0; row < num_rows; ++row) {
      const auto logits = std::span(logits_).subspan(static_cast<size_t>(row) * vocab_size_, vocab_size_);
      sample_token(logits,
                   {.logit_row = row, .params = &likeliest, .path_hash = 0, .position = 0, .seen = {}, .allowed = {}},
                   scratch_, sampled_);
      levels_[row].push_back(sampled_.top);
    }
  }
  // The heads do not see each other's tokens, so each level has the same children everywhere.
  for (size_t row = 0; row < drafting_.size(); ++row) {
    const int32_t context = drafting_[row];
    best_first_.grow(0, contexts[context], nodes[context], [&](int32_t level, int32_t, auto push) {
      if (static_cast<size_t>(level) >= levels_[row].size()) return;
      const std::vector<TokenLogprob>& next = levels_[row][level];
      for (size_t i = 0; i < next.size(); ++i) {
        const float probability = std::min(std::exp(next[i].logprob), 1.0f);
        // Ranks tell the first head from the others.
        const int32_t rank = level == 0 ? static_cast<int32_t>(i) : kWidth + static_cast<int32_t>(i);
        push(next[i].token, probability, rank, level + 1);
      }
    });
  }
}

void MedusaSource::run_head(const Head& head, int num_rows) {
  x_ = hidden_;
  y_.resize(x_.size());
  for (const Block& block : head.blocks) {
    linear(block.weight, x_.data(), hidden_size_, y_.data(), hidden_size_, num_rows, workspace_, pool_);
    for (size_t i = 0; i < x_.size(); ++i) {
      const float z = y_[i] + block.bias[i % hidden_size_];
      x_[i] += z / (1 + std::exp(-z));
    }
  }
  logits_.resize(std::max(logits_.size(), static_cast<size_t>(num_rows) * vocab_size_));
  linear(head.lm_head, x_.data(), hidden_size_, logits_.data(), vocab_size_, num_rows, workspace_, pool_);
}

}  // namespace deftree
