#include "constraint/token_trie.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "common/error.h"

namespace deftree::constraint {

TokenTrie::TokenTrie(std::string bytes, std::vector<uint32_t> offsets)
    : bytes_(std::move(bytes)), offsets_(std::move(offsets)) {
  if (offsets_.empty()) {
    throw Error(ErrorCode::kBadArgument, "a constraint needs a model with text: this one has token ids only");
  }
  for (size_t i = 0; i < offsets_.size(); ++i) {
    if (offsets_[i] > bytes_.size() || (i > 0 && offsets_[i] < offsets_[i - 1])) {
      throw Error(ErrorCode::kBadArgument, "the offsets of the token bytes do not ascend");
    }
  }
  // Longer tokens cannot be offered; none of a real vocabulary is.
  constexpr size_t kMaxLen = std::numeric_limits<uint16_t>::max();
  for (int32_t token = 0; token < vocab_size(); ++token) {
    const size_t len = token_bytes(token).size();
    if (len > 0 && len <= kMaxLen) tokens_.push_back(token);
    if (len == 1) single_bytes_[static_cast<uint8_t>(token_bytes(token)[0])] = true;
  }
  std::ranges::stable_sort(tokens_, {}, [&](int32_t token) { return token_bytes(token); });

  std::vector<int32_t> path = {0};  // the open node of each depth
  nodes_.push_back({.end = 0, .tokens_begin = 0, .depth = 0, .height = 0, .byte = 0});
  const auto close = [&](size_t depth) {
    while (path.size() > depth) {
      TokenTrie::Node& closed = nodes_[path.back()];
      closed.end = static_cast<int32_t>(nodes_.size());
      path.pop_back();
      if (path.empty()) break;
      TokenTrie::Node& above = nodes_[path.back()];
      above.height = std::max<uint16_t>(above.height, closed.height + 1);
    }
  };
  std::string_view last;
  for (size_t i = 0; i < tokens_.size(); ++i) {
    const std::string_view text = token_bytes(tokens_[i]);
    const size_t shared = std::ranges::mismatch(last, text).in1 - last.begin();
    close(shared + 1);
    for (size_t depth = shared; depth < text.size(); ++depth) {
      path.push_back(static_cast<int32_t>(nodes_.size()));
      nodes_.push_back({.end = 0,
                        .tokens_begin = static_cast<int32_t>(i),
                        .depth = static_cast<uint16_t>(depth + 1),
                        .height = 0,
                        .byte = static_cast<uint8_t>(text[depth])});
    }
    max_len_ = std::max(max_len_, static_cast<int32_t>(text.size()));
    last = text;
  }
  close(0);
  nodes_.push_back(
      {.end = 0, .tokens_begin = static_cast<int32_t>(tokens_.size()), .depth = 0, .height = 0, .byte = 0});
}

int32_t TokenTrie::fewest_tokens(std::string_view text) const {
  const std::span<const Node> all = nodes();
  std::vector<int32_t> fewest(text.size() + 1, std::numeric_limits<int32_t>::max());
  fewest[0] = 0;
  for (size_t begin = 0; begin < text.size(); ++begin) {
    int32_t node = 0;
    for (size_t end = begin; end < text.size(); ++end) {
      const uint8_t byte = static_cast<uint8_t>(text[end]);
      int32_t child = node + 1;
      while (child < all[node].end && all[child].byte != byte) child = all[child].end;
      if (child >= all[node].end) break;
      node = child;
      if (!tokens_of(node).empty()) fewest[end + 1] = std::min(fewest[end + 1], fewest[begin] + 1);
    }
  }
  return fewest[text.size()];
}

}  // namespace deftree::constraint
