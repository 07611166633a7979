#include "engine/stop_matcher.h"

#include <algorithm>

namespace deftree {

int StopMatcher::feed(std::string_view bytes, std::span<const std::string> stop_strings) {
  const size_t old_size = tail_.size();
  tail_ += bytes;
  int found = -1;
  size_t found_end = std::string::npos, longest = 1;
  for (size_t i = 0; i < stop_strings.size(); ++i) {
    const std::string& stop = stop_strings[i];
    if (stop.empty()) continue;
    longest = std::max(longest, stop.size());
    const size_t begin = old_size >= stop.size() ? old_size - stop.size() + 1 : 0;
    const size_t at = tail_.find(stop, begin);
    if (at != std::string::npos && at + stop.size() < found_end) {
      found_end = at + stop.size();
      found = static_cast<int>(i);
    }
  }
  if (tail_.size() > longest - 1) tail_.erase(0, tail_.size() - (longest - 1));
  return found;
}

}  // namespace deftree
