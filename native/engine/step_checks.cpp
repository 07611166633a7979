#include "engine/step_checks.h"

#include <limits>
#include <string>

#include "common/error.h"

namespace deftree {
namespace {

[[noreturn]] void bad_argument(const std::string& message) { throw Error(ErrorCode::kBadArgument, message); }

}  // namespace

void check_token(int32_t token, int32_t vocab_size) {
  if (token >= 0 && token < vocab_size) return;
  throw Error(ErrorCode::kBadArgument,
              "token " + std::to_string(token) + " is outside of the vocabulary of " + std::to_string(vocab_size),
              {{"token", static_cast<double>(token)}});
}

void check_step(const StepBatch& batch, int32_t vocab_size, const BackendOptions& options) {
  const size_t num_queries = batch.tokens.size();
  if (num_queries == 0 || num_queries > static_cast<size_t>(options.max_step_tokens)) {
    bad_argument("a step has " + std::to_string(num_queries) + " tokens, supported are 1 to " +
                 std::to_string(options.max_step_tokens));
  }
  if (batch.positions.size() != num_queries || batch.slots.size() != num_queries) {
    bad_argument("a step's tokens, positions and slots differ in number");
  }
  const int num_slots = options.num_pages * options.page_size;
  for (size_t i = 0; i < num_queries; ++i) {
    check_token(batch.tokens[i], vocab_size);
    if (batch.positions[i] < 0 || batch.slots[i] < -1 || batch.slots[i] >= num_slots) {
      bad_argument("row " + std::to_string(i) + " of a step has position " + std::to_string(batch.positions[i]) +
                   " and slot " + std::to_string(batch.slots[i]) + " of " + std::to_string(num_slots));
    }
  }
  int32_t previous = -1;
  for (const int32_t row : batch.logit_rows) {
    if (row <= previous || row >= static_cast<int32_t>(num_queries)) {
      bad_argument("logit_rows must ascend within the step");
    }
    previous = row;
  }
}

void check_logit_row(int32_t row, int32_t num_logits) {
  if (row >= 0 && row < num_logits) return;
  bad_argument("logits row " + std::to_string(row) + " of " + std::to_string(num_logits) + " in the last step");
}

void check_sizes(const BackendOptions& options) {
  if (options.num_pages < 1 || options.num_pages > std::numeric_limits<int32_t>::max() / options.page_size) {
    bad_argument("num_pages is " + std::to_string(options.num_pages) + ", supported are 1 to " +
                 std::to_string(std::numeric_limits<int32_t>::max() / options.page_size));
  }
  if (options.max_step_tokens < 1 || options.max_step_tokens > (1 << 20)) {
    bad_argument("max_step_tokens is " + std::to_string(options.max_step_tokens) + ", supported are 1 to 1048576");
  }
}

}  // namespace deftree
