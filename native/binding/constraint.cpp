#include "binding/constraint.h"

#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "binding/engine_host.h"
#include "binding/errors.h"

namespace deftree::binding {
namespace {

using constraint::Expression;

constexpr int64_t kMaxInt32 = std::numeric_limits<int32_t>::max();
constexpr int kMaxDepth = 400;  // of nested expressions

Expression decode_expression(const Field& field, int depth) {
  if (depth > kMaxDepth) field.fail("nested at most " + std::to_string(kMaxDepth) + " levels deep");
  const auto make = [](Expression::Kind kind) {
    return Expression{.kind = kind, .text = {}, .ranges = {}, .parts = {}};
  };
  const auto parts = [&](Expression::Kind kind, const Field& list) {
    Expression result = make(kind);
    for (uint32_t i = 0; i < list.size(); ++i) result.parts.push_back(decode_expression(list.at(i), depth + 1));
    return result;
  };
  if (const Field text = field["text"]; !text.is_absent()) {
    Expression result = make(Expression::Kind::kText);
    result.text = text.string();
    return result;
  }
  if (const Field list = field["characters"]; !list.is_absent()) {
    const std::vector<int32_t> ends = list.integers();
    if (ends.size() % 2 != 0) list.fail("an array of first and last code points");
    Expression result = make(Expression::Kind::kCharacters);
    for (size_t i = 0; i < ends.size(); i += 2) {
      result.ranges.push_back({static_cast<uint32_t>(ends[i]), static_cast<uint32_t>(ends[i + 1])});
    }
    return result;
  }
  if (const Field list = field["sequence"]; !list.is_absent()) return parts(Expression::Kind::kSequence, list);
  if (const Field list = field["choice"]; !list.is_absent()) return parts(Expression::Kind::kChoice, list);
  if (const Field body = field["repeat"]; !body.is_absent()) {
    Expression result = make(Expression::Kind::kRepeat);
    result.parts.push_back(decode_expression(body, depth + 1));
    result.min = static_cast<int32_t>(field["min"].integer(0, kMaxInt32));
    const Field max = field["max"];
    result.max = max.is_absent() ? Expression::kNoMax : static_cast<int32_t>(max.integer(0, kMaxInt32));
    return result;
  }
  if (const Field number = field["rule"]; !number.is_absent()) {
    Expression result = make(Expression::Kind::kRule);
    result.rule = static_cast<int32_t>(number.integer(0, kMaxInt32));
    return result;
  }
  field.fail("an object with text, characters, sequence, choice, repeat or rule");
}

}  // namespace

Napi::Function NativeConstraint::define(Napi::Env env) { return DefineClass(env, "NativeConstraint", {}); }

NativeConstraint::NativeConstraint(const Napi::CallbackInfo& info) : Napi::ObjectWrap<NativeConstraint>(info) {}

Napi::Object NativeConstraint::make(Napi::Env env, const Field& grammar,
                                    std::shared_ptr<const constraint::TokenTrie> vocabulary) {
  const Field rules = grammar["rules"];
  constraint::Grammar decoded;
  for (uint32_t i = 0; i < rules.size(); ++i) decoded.rules.push_back(decode_expression(rules.at(i), 0));
  auto compiled = std::make_shared<const constraint::Constraint>(decoded, std::move(vocabulary));
  const Napi::Object object = env.GetInstanceData<AddonData>()->constraint_class.New({});
  Unwrap(object)->constraint_ = std::move(compiled);
  return object;
}

std::shared_ptr<const constraint::Constraint> NativeConstraint::unwrap(const Field& field) {
  const Napi::Value value = field.value();
  const Napi::Function constructor = value.Env().GetInstanceData<AddonData>()->constraint_class.Value();
  if (!value.IsObject() || !value.As<Napi::Object>().InstanceOf(constructor)) field.fail("a compiled constraint");
  auto constraint = Unwrap(value.As<Napi::Object>())->constraint_;
  if (constraint == nullptr) field.fail("a compiled constraint");
  return constraint;
}

}  // namespace deftree::binding
