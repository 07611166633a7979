#include "engine/stop_matcher.h"

#include <random>
#include <vector>

#include "common/test.h"

namespace deftree {
namespace {

// First end of any stop string in the whole text, by trying every end.
std::pair<size_t, int> reference(const std::string& text, const std::vector<std::string>& stops) {
  for (size_t end = 1; end <= text.size(); ++end) {
    for (size_t i = 0; i < stops.size(); ++i) {
      if (!stops[i].empty() && end >= stops[i].size() && text.compare(end - stops[i].size(), stops[i].size(), stops[i]) == 0) {
        return {end, static_cast<int>(i)};
      }
    }
  }
  return {0, -1};
}

TEST(stop_matcher_finds_a_string_across_tokens) {
  const std::vector<std::string> stops = {"\n\n", "END"};
  StopMatcher matcher;
  CHECK_EQ(matcher.feed("a\n", stops), -1);
  CHECK_EQ(matcher.feed("b E", stops), -1);
  CHECK_EQ(matcher.feed("N", stops), -1);
  CHECK_EQ(matcher.feed("D of", stops), 1);
}

TEST(stop_matcher_reports_the_string_that_ends_first) {
  const std::vector<std::string> stops = {"abcd", "c", "bc", ""};
  StopMatcher matcher;
  CHECK_EQ(matcher.feed("xabcd", stops), 1);
}

TEST(stop_matcher_agrees_with_a_search_of_the_whole_text) {
  std::mt19937 random(3);
  for (int round = 0; round < 3000; ++round) {
    std::vector<std::string> stops(1 + random() % 3);
    for (std::string& stop : stops) {
      for (unsigned n = random() % 5; n > 0; --n) stop += static_cast<char>('a' + random() % 2);
    }
    std::string text;
    StopMatcher matcher;
    int found = -1;
    for (int token = 0; token < 8 && found < 0; ++token) {
      std::string bytes;
      for (unsigned n = random() % 4; n > 0; --n) bytes += static_cast<char>('a' + random() % 2);
      text += bytes;
      found = matcher.feed(bytes, stops);
    }
    CHECK_EQ(found, reference(text, stops).second);
  }
}

}  // namespace
}  // namespace deftree
