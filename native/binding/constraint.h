// Constraints as JavaScript objects: compiled from a NativeGrammar, held by whoever refers to them, collected as any
// object is.
#pragma once

#include <napi.h>

#include <memory>

#include "binding/fields.h"
#include "constraint/constraint.h"

namespace deftree::binding {

class NativeConstraint final : public Napi::ObjectWrap<NativeConstraint> {
 public:
  static Napi::Function define(Napi::Env env);
  // Throws kBadArgument.
  static Napi::Object make(Napi::Env env, const Field& grammar,
                           std::shared_ptr<const constraint::TokenTrie> vocabulary);
  static std::shared_ptr<const constraint::Constraint> unwrap(const Field& field);
  explicit NativeConstraint(const Napi::CallbackInfo& info);

 private:
  std::shared_ptr<const constraint::Constraint> constraint_;
};

}  // namespace deftree::binding
