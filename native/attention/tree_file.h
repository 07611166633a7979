// Trees from a file: [{"name": text, "nodes": [{"parent": int, "len": int}], "queries": [node]}].
#pragma once

#include <string>
#include <vector>

#include "attention/tree_snapshot_builder.h"

namespace deftree::attention {

// Throws kBadArgument for a file that cannot be read or is not of this form.
std::vector<NamedTree> read_tree_file(const std::string& path);

}  // namespace deftree::attention
