// A vocabulary as a trie over bytes, laid out so that one forward pass visits every token once.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "constraint/program.h"

namespace deftree::constraint {

class TokenTrie {
 public:
  // Nodes in preorder; node 0 is the root. A subtree is nodes[i .. nodes[i].end).
  struct Node {
    int32_t end;
    int32_t tokens_begin;  // its tokens are tokens()[tokens_begin .. next node's tokens_begin)
    uint16_t depth;        // bytes from the root
    uint16_t height;       // bytes to its farthest leaf
    uint8_t byte;
  };

  // Token i is bytes[offsets[i] .. offsets[i + 1]). Tokens without bytes (special ones) are not in the trie.
  TokenTrie(std::string bytes, std::vector<uint32_t> offsets);

  int32_t vocab_size() const { return static_cast<int32_t>(offsets_.size()) - 1; }
  std::string_view token_bytes(int32_t token) const {
    return std::string_view(bytes_).substr(offsets_[token], offsets_[token + 1] - offsets_[token]);
  }
  std::span<const Node> nodes() const { return std::span(nodes_).first(nodes_.size() - 1); }
  std::span<const int32_t> tokens_of(int32_t node) const {
    const int32_t begin = nodes_[node].tokens_begin;
    return std::span(tokens_).subspan(begin, nodes_[node + 1].tokens_begin - begin);
  }
  // Those of its whole subtree.
  std::span<const int32_t> tokens_below(int32_t node) const {
    const int32_t begin = nodes_[node].tokens_begin;
    return std::span(tokens_).subspan(begin, nodes_[nodes_[node].end].tokens_begin - begin);
  }
  // Bytes of the longest token.
  int32_t max_len() const { return max_len_; }
  // Those that some token consists of. A text over these can be written whatever else the vocabulary has.
  const ByteSet& single_bytes() const { return single_bytes_; }
  // Fewest tokens that make up `text`, which must consist of single_bytes().
  int32_t fewest_tokens(std::string_view text) const;

 private:
  std::string bytes_;
  std::vector<uint32_t> offsets_;
  std::vector<Node> nodes_;  // and an end mark
  std::vector<int32_t> tokens_;
  int32_t max_len_ = 0;
  ByteSet single_bytes_;
};

}  // namespace deftree::constraint
