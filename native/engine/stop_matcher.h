// Finds stop strings in decoded text by bytes, so that one may begin in one token and end in another.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace deftree {

class StopMatcher {
 public:
  // Adds the next bytes of the text; returns the index of the stop string that ends first in them (the lowest index
  // when several end there), or -1. `stop_strings` must be the same at each call; empty ones never match.
  int feed(std::string_view bytes, std::span<const std::string> stop_strings);

 private:
  std::string tail_;  // the end of the text: one byte less than the longest stop string
};

}  // namespace deftree
