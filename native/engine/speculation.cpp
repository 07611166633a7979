#include "engine/speculation.h"

#include <string>

#include "common/error.h"

namespace deftree {
namespace {

[[noreturn]] void bad_tree(const std::string& what, size_t row) {
  throw Error(ErrorCode::kBadArgument, "draft tree: " + what, {{"row", static_cast<double>(row)}});
}

}  // namespace

void check_draft_tree(std::span<const int32_t> tokens, std::span<const int32_t> parents, int32_t vocab_size) {
  if (tokens.empty() || tokens.size() != parents.size()) {
    bad_tree("there must be a root, and a parent for each row: " + std::to_string(tokens.size()) + " tokens and " +
                 std::to_string(parents.size()) + " parents",
             0);
  }
  for (size_t row = 0; row < tokens.size(); ++row) {
    const int64_t parent = parents[row];
    if (row == 0 ? parent != -1 : parent < 0 || parent >= static_cast<int64_t>(row)) {
      bad_tree("row " + std::to_string(row) + " has parent " + std::to_string(parent) +
                   "; row 0 has -1, the others an earlier row",
               row);
    }
    if (tokens[row] < 0 || tokens[row] >= vocab_size) {
      bad_tree("row " + std::to_string(row) + " has token " + std::to_string(tokens[row]) +
                   ", the vocabulary has tokens 0 to " + std::to_string(vocab_size - 1),
               row);
    }
    for (size_t other = 1; other < row; ++other) {
      if (parents[other] != parent || tokens[other] != tokens[row]) continue;
      bad_tree("rows " + std::to_string(other) + " and " + std::to_string(row) + " have the same parent and token", row);
    }
  }
}

void verify(std::span<const int32_t> tokens, std::span<const int32_t> parents, std::span<const int32_t> drawn,
            Verified& result) {
  result.path.assign(1, 0);
  result.tokens.assign(1, drawn[0]);
  // Rows stand behind their parents, so one pass meets the children of each accepted row after it.
  int32_t at = 0;
  for (size_t row = 1; row < tokens.size(); ++row) {
    if (parents[row] != at || tokens[row] != drawn[at]) continue;
    at = static_cast<int32_t>(row);
    result.path.push_back(at);
    result.tokens.push_back(drawn[at]);
  }
}

}  // namespace deftree
