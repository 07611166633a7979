#include "engine/schedule.h"

#include <algorithm>

namespace deftree {

int32_t decode_rows(int32_t max_step_tokens, int32_t num_decoding, int32_t num_prefilling) {
  const int32_t reserve = num_prefilling > 0 && max_step_tokens > 1 ? std::max(1, max_step_tokens / 8) : 0;
  return std::min(num_decoding, max_step_tokens - reserve);
}

void share_prefill_rows(int32_t budget, std::span<const int32_t> wanted, std::span<int32_t> given) {
  std::fill(given.begin(), given.end(), 0);
  int32_t hungry = static_cast<int32_t>(wanted.size());
  while (budget > 0 && hungry > 0) {
    const int32_t share = std::max(1, budget / hungry);
    hungry = 0;
    for (size_t i = 0; i < wanted.size() && budget > 0; ++i) {
      const int32_t rows = std::min({share, wanted[i] - given[i], budget});
      given[i] += rows;
      budget -= rows;
      hungry += given[i] < wanted[i];
    }
  }
}

}  // namespace deftree
