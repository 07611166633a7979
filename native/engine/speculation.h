// Lossless verification of a draft tree.
//
// The rows of a branch in one step are a tree: row 0 is the branch's last token, whose KV is not written yet, the others
// are draft tokens. parents[0] = -1; the parent of row j is an earlier row, and no two children of a row carry the same
// token. The target model sees each row with its ancestors only, so row j's logits are those that plain decoding would
// see after the path to row j.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace deftree {

// What a step's draws make of a draft tree. The two lists are equally long: path[i] is the row that tokens[i] was drawn
// at.
struct Verified {
  std::vector<int32_t> path;    // accepted rows, from row 0 down
  std::vector<int32_t> tokens;  // emitted: all but the last are the tokens of the accepted rows 1.. of the path
};

// Throws kBadArgument when `parents` is no tree as above: no row, a parent that is no earlier row (so also a cycle), a
// second root, two children with one token, or a token outside of [0, vocab_size).
void check_draft_tree(std::span<const int32_t> tokens, std::span<const int32_t> parents, int32_t vocab_size);

// tokens, parents, drawn: [num_rows]; drawn[j] is the target's token after row j, drawn once from the processed
// distribution with the random number of that position. Where a draft child carries it, the walk descends, else the token
// is emitted and the walk ends. So the emitted tokens are those that plain decoding draws one by one, whatever the draft
// is: a draft decides how many of them come at once and never which. (Sampling the target's token once and comparing is
// the verification of deterministic drafts in SpecInfer, Miao et al., ASPLOS 2024, without the second draw.)
void verify(std::span<const int32_t> tokens, std::span<const int32_t> parents, std::span<const int32_t> drawn,
            Verified& result);

}  // namespace deftree
