#include "attention/plan.h"

#include <array>
#include <string>

#include "attention/plan_builder.h"
#include "common/error.h"

namespace deftree::attention {
namespace {

constexpr std::array kPolicies = {Policy::kDeftFlatten,   Policy::kDeftNode, Policy::kDeftNodeChunk,
                                  Policy::kFlashDecoding, Policy::kRadix,    Policy::kMedusa};

void require_positive(int value, const char* name) {
  if (value >= 1) return;
  throw Error(ErrorCode::kBadArgument,
              std::string("attention plan: ") + name + " is " + std::to_string(value) + "; it must be at least 1");
}

void check_arguments(const AttentionShape& shape, const PlanDevice& device) {
  require_positive(shape.num_kv_heads, "num_kv_heads");
  require_positive(shape.num_qo_heads, "num_qo_heads");
  require_positive(device.num_processors, "num_processors");
  require_positive(device.min_chunk_len, "min_chunk_len");
  require_positive(device.max_group_rows, "max_group_rows");
  require_positive(device.chunk_align, "chunk_align");
  if (shape.num_qo_heads % shape.num_kv_heads != 0) {
    throw Error(ErrorCode::kBadArgument, "attention plan: num_qo_heads " + std::to_string(shape.num_qo_heads) +
                                             " is no multiple of num_kv_heads " + std::to_string(shape.num_kv_heads));
  }
}

}  // namespace

std::span<const Policy> all_policies() { return kPolicies; }

std::string_view policy_name(Policy policy) {
  switch (policy) {
    case Policy::kDeftFlatten:
      return "deft-flatten";
    case Policy::kDeftNode:
      return "deft-node";
    case Policy::kDeftNodeChunk:
      return "deft-node-chunk";
    case Policy::kFlashDecoding:
      return "flash-decoding";
    case Policy::kRadix:
      return "radix";
    case Policy::kMedusa:
      return "medusa";
  }
  return "deft-flatten";
}

Policy parse_policy(std::string_view name) {
  std::string names;
  for (Policy policy : kPolicies) {
    if (policy_name(policy) == name) return policy;
    names += names.empty() ? "" : ", ";
    names += policy_name(policy);
  }
  throw Error(ErrorCode::kBadArgument, "unknown attention policy \"" + std::string(name) + "\"; known are " + names);
}

void make_plan(const TreeSnapshot& snapshot, Policy policy, const AttentionShape& shape, const PlanDevice& device,
               Plan& plan) {
  check_arguments(shape, device);
  plan.policy = policy;
  PlanBuilder builder(snapshot, shape, device, plan);
  switch (policy) {
    case Policy::kDeftFlatten:
      plan_deft_flatten(builder);
      break;
    case Policy::kDeftNode:
      plan_deft_node(builder);
      break;
    case Policy::kDeftNodeChunk:
      plan_deft_node_chunk(builder);
      break;
    case Policy::kFlashDecoding:
    case Policy::kRadix:
      plan_radix(builder);
      break;
    case Policy::kMedusa:
      plan_medusa(builder);
      break;
  }
  builder.finish();
}

}  // namespace deftree::attention
