// A step that only appends: the packed plan of the step before, brought up to date in place instead of planned anew.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "attention/appended_tokens.h"
#include "attention/cuda/packed_plan.h"

namespace deftree::attention {

// Adds the tokens to the tiles that hold the tokens before them, or to the end of the same item; which queries see a new
// token is what saw the one before it. Returns the KV tokens that items read more than before (PlanCounters), or nothing
// when an item has no room left: the plan is then to be made anew, and what stands in `packed` is of no use.
//
// Items end up to one tile longer than their cost said when they were packed; pack_plan() left that tile free.
std::optional<int64_t> append_to_packed_plan(PackedPlan& packed, std::span<const AppendedToken> appended);

}  // namespace deftree::attention
