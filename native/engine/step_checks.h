// What every backend checks of a step before it runs it. All throw kBadArgument with the figures.
#pragma once

#include <cstdint>
#include <span>

#include "engine/backend.h"

namespace deftree {

void check_token(int32_t token, int32_t vocab_size);
// Tokens, positions, slots and logit rows against the sizes of a model and its pages.
void check_step(const StepBatch& batch, int32_t vocab_size, const BackendOptions& options);
// Rows of sample() and log_probs() against the logits of the last step.
void check_logit_row(int32_t row, int32_t num_logits);
// num_pages and max_step_tokens.
void check_sizes(const BackendOptions& options);

}  // namespace deftree
