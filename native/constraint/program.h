// A grammar compiled to a recursive automaton over bytes: instructions as those of a regular-expression machine
// (Thompson, CACM 1968), with calls for rules and counters for bounded repeats.
#pragma once

#include <array>
#include <bitset>
#include <compare>
#include <cstdint>
#include <span>
#include <vector>

#include "constraint/grammar.h"

namespace deftree::constraint {

using ByteSet = std::bitset<256>;

struct Instruction {
  enum class Op : uint8_t {
    kBytes,    // reads a byte and goes on where its branch says; without a branch for it: nothing matches
    kSplit,    // goes on at `next` and at `other`
    kCall,     // runs the rule at `other`, then goes on at `next`
    kReturn,   // ends the rule; of the first rule without a caller: the text may end here
    kLoop,     // runs `other` `min` to `max` times, then goes on at `next`
    kLoopEnd,  // ends one run of the loop at `other`
  };
  Op op;
  int32_t branches_begin = 0, branches_end = 0;  // kBytes: in Program::branches
  int32_t next = -1, other = -1;
  int32_t min = 0, max = 0;
  // Bytes of the shortest way to the end of the rule, or of the loop's run; kUnreachable when there is none.
  int32_t distance = 0;
};

inline constexpr int32_t kUnreachable = 1 << 29;
inline constexpr int32_t kMaxRuns = 1 << 24;         // of a bounded loop
inline constexpr int32_t kNoMaxRuns = kMaxRuns + 1;  // Instruction::max of a loop without a bound
// Sums of distances stay below it.
inline int32_t add_distance(int64_t a, int64_t b) {
  return static_cast<int32_t>(a + b < kUnreachable ? a + b : kUnreachable);
}

// Bytes from `low` to `high` lead to `next`. Those of an instruction do not overlap.
struct Branch {
  uint8_t low, high;
  int32_t next;
  auto operator<=>(const Branch&) const = default;
};

struct Program {
  std::vector<Instruction> instructions;
  std::vector<Branch> branches;
  int32_t start = 0;
  // Bytes that no instruction tells apart have one class.
  std::array<uint8_t, 256> class_of{};
  std::vector<uint8_t> class_byte;  // one byte of each class

  std::span<const Branch> branches_of(const Instruction& instruction) const {
    const auto begin = static_cast<size_t>(instruction.branches_begin);
    return std::span(branches).subspan(begin, instruction.branches_end - begin);
  }
};

// Only texts over `bytes` are kept. Throws kBadArgument for a malformed grammar, a rule that begins with itself, more
// than `max_instructions`, and a language that is empty.
Program compile(const Grammar& grammar, const ByteSet& bytes, int32_t max_instructions);

}  // namespace deftree::constraint
