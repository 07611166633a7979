// A language as data: rules over characters, from which a Constraint is compiled. packages/engine/src/constraint*.ts
// makes grammars of JSON Schemas and regular expressions.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace deftree::constraint {

struct CodePointRange {
  uint32_t first, last;  // inclusive; surrogates are left out
};

struct Expression {
  enum class Kind : uint8_t {
    kText,        // `text`
    kCharacters,  // one character out of `ranges`
    kSequence,    // all of `parts`, in order
    kChoice,      // one of `parts`; none: nothing matches
    kRepeat,      // parts[0], `min` to `max` times
    kRule,        // the rule number `rule`
  };
  static constexpr int32_t kNoMax = -1;

  Kind kind;
  std::string text;  // UTF-8
  std::vector<CodePointRange> ranges;
  std::vector<Expression> parts;
  int32_t min = 0, max = kNoMax;
  int32_t rule = 0;
};

// A text is in the language when rules[0] matches the whole of it. Rules may refer to one another and to themselves.
struct Grammar {
  std::vector<Expression> rules;
};

}  // namespace deftree::constraint
