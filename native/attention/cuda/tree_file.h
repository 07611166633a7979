// Trees from a file: [{"name": text, "nodes": [{"parent": int, "len": int}], "queries": [node]}].
#pragma once

#include <string>
#include <vector>

#include "attention/test_trees.h"

namespace deftree::attention {

// Throws kBadArgument for a file that cannot be read or is not of this form.
std::vector<NamedTree> read_tree_file(const std::string& path);

// Places tokens as the cache does: a node that fits into what its predecessor left of a page goes there (draft tokens
// stand side by side), any other begins a page. Returns the number of pages.
int pack_small_nodes(TreeSnapshot& tree);

}  // namespace deftree::attention
