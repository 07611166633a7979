// What a decode step that only appends changes of a snapshot: one more token at the end of each query's path.
#pragma once

#include <cstdint>
#include <vector>

#include "cache/tree_snapshot.h"

namespace deftree::attention {

// A query's new last token, and the one that was the last before.
struct AppendedToken {
  int32_t query;
  int32_t previous_slot, slot;  // page * page_size + offset
};

// True when `now` is `before` with one more token at the end of each query's node: the same nodes and queries, a query
// alone at its node with nothing below it, no masks. Fills `appended`, one for each query in their order.
bool find_appended_tokens(const TreeSnapshot& before, const TreeSnapshot& now, std::vector<AppendedToken>& appended);

}  // namespace deftree::attention
