// For tests and benchmarks: grammars in C++.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "constraint/grammar.h"

namespace deftree::constraint {

inline Expression text(std::string bytes) {
  return {.kind = Expression::Kind::kText, .text = std::move(bytes), .ranges = {}, .parts = {}};
}
inline Expression characters(std::vector<CodePointRange> ranges) {
  return {.kind = Expression::Kind::kCharacters, .text = {}, .ranges = std::move(ranges), .parts = {}};
}
inline Expression sequence(std::vector<Expression> parts) {
  return {.kind = Expression::Kind::kSequence, .text = {}, .ranges = {}, .parts = std::move(parts)};
}
inline Expression choice(std::vector<Expression> parts) {
  return {.kind = Expression::Kind::kChoice, .text = {}, .ranges = {}, .parts = std::move(parts)};
}
inline Expression repeat(Expression body, int32_t min, int32_t max = Expression::kNoMax) {
  return {
      .kind = Expression::Kind::kRepeat, .text = {}, .ranges = {}, .parts = {std::move(body)}, .min = min, .max = max};
}
inline Expression rule(int32_t number) {
  return {.kind = Expression::Kind::kRule, .text = {}, .ranges = {}, .parts = {}, .rule = number};
}

// A JSON value: strings without escapes and of at most `max_string` characters, whole numbers, arrays, objects,
// literals.
inline Grammar json_grammar(int32_t max_string) {
  enum { kStart, kValue, kString, kMember };
  const Expression comma = text(", ");
  const auto list = [&](const char* open, Expression item, const char* close) {
    return sequence({text(open), repeat(sequence({item, repeat(sequence({comma, item}), 0)}), 0, 1), text(close)});
  };
  return {{
      rule(kValue),
      choice({rule(kString), list("[", rule(kValue), "]"), list("{", rule(kMember), "}"), text("true"), text("null"),
              sequence({repeat(text("-"), 0, 1),
                        choice({text("0"),
                                sequence({characters({{'1', '9'}}), repeat(characters({{'0', '9'}}), 0, 14)})})})}),
      sequence({text("\""), repeat(characters({{' ', '!'}, {'#', '['}, {']', 0x10ffff}}), 0, max_string), text("\"")}),
      sequence({rule(kString), text(": "), rule(kValue)}),
  }};
}

}  // namespace deftree::constraint
