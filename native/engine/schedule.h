// How a step's query rows are shared out: pure functions of counts.
#pragma once

#include <cstdint>
#include <span>

namespace deftree {

// Rows that decoding branches (one row each) may take of `max_step_tokens`. They come first, so that a long prompt
// never stalls them; an eighth stays for prefills, so that many decoding branches never starve those.
int32_t decode_rows(int32_t max_step_tokens, int32_t num_decoding, int32_t num_prefilling);

// Shares `budget` rows among prefills that want `wanted[i]` > 0: equal shares, what a short one leaves goes to the
// others, a remainder to the first ones. given[i] <= wanted[i].
void share_prefill_rows(int32_t budget, std::span<const int32_t> wanted, std::span<int32_t> given);

}  // namespace deftree
