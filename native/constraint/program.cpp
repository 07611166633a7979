#include "constraint/program.h"

#include <algorithm>
#include <array>
#include <functional>
#include <map>
#include <string>
#include <utility>

#include "common/error.h"

namespace deftree::constraint {
namespace {

using Op = Instruction::Op;
using Kind = Expression::Kind;

constexpr uint32_t kMaxCodePoint = 0x10ffff, kFirstSurrogate = 0xd800, kLastSurrogate = 0xdfff;
constexpr int kMaxDepth = 400;  // of nested expressions

[[noreturn]] void bad(std::string message, ErrorFigures figures = {}) {
  throw Error(ErrorCode::kBadArgument, std::move(message), std::move(figures));
}

int encode_utf8(uint32_t c, std::array<uint8_t, 4>& out) {
  if (c < 0x80) {
    out[0] = static_cast<uint8_t>(c);
    return 1;
  }
  const int len = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
  for (int i = len - 1; i > 0; --i, c >>= 6) out[i] = static_cast<uint8_t>(0x80 | (c & 0x3f));
  constexpr uint8_t kLead[] = {0, 0, 0xc0, 0xe0, 0xf0};
  out[0] = static_cast<uint8_t>(kLead[len] | c);
  return len;
}

struct ByteRanges {
  std::array<uint8_t, 4> low, high;
  int len;
};

// Calls body(bytes) for sequences of ranges that vary independently, which together are the code points first..last.
template <class Body>
void for_each_byte_range(uint32_t first, uint32_t last, const Body& body) {
  for (const uint32_t end : {0x7fu, 0x7ffu, 0xffffu}) {
    if (first <= end && end < last) {
      for_each_byte_range(first, end, body);
      return for_each_byte_range(end + 1, last, body);
    }
  }
  // Behind a byte in which the two differ, every continuation byte must have its whole range.
  for (int shift = 6; last > 0x7f && shift <= 18; shift += 6) {
    const uint32_t rest = (1u << shift) - 1;
    if ((first & ~rest) == (last & ~rest)) break;
    if ((first & rest) != 0) {
      for_each_byte_range(first, first | rest, body);
      return for_each_byte_range((first | rest) + 1, last, body);
    }
    if ((last & rest) != rest) {
      for_each_byte_range(first, (last & ~rest) - 1, body);
      return for_each_byte_range(last & ~rest, last, body);
    }
  }
  ByteRanges bytes{};
  bytes.len = encode_utf8(first, bytes.low);
  encode_utf8(last, bytes.high);
  body(bytes);
}

// In order, without overlaps.
std::vector<CodePointRange> joined(std::vector<CodePointRange> ranges) {
  std::ranges::sort(ranges, {}, &CodePointRange::first);
  std::vector<CodePointRange> result;
  for (const CodePointRange& range : ranges) {
    if (range.first > range.last || range.last > kMaxCodePoint) bad("a grammar has a character range that is none");
    if (!result.empty() && range.first <= result.back().last) {
      result.back().last = std::max(result.back().last, range.last);
    } else {
      result.push_back(range);
    }
  }
  return result;
}

class Compiler {
 public:
  Compiler(const Grammar& grammar, const ByteSet& bytes, int32_t max_instructions)
      : grammar_(grammar), bytes_(bytes), max_instructions_(max_instructions) {}

  Program compile() {
    const int32_t num_rules = static_cast<int32_t>(grammar_.rules.size());
    if (num_rules == 0) bad("a grammar needs a rule");
    // An entry for each rule first, so that calls know where they go.
    for (int32_t i = 0; i < num_rules; ++i) emit({.op = Op::kSplit});
    const int32_t end = emit({.op = Op::kReturn});
    for (int32_t i = 0; i < num_rules; ++i) {
      const int32_t entry = emit_expression(grammar_.rules[i], end, 0);
      at(i).next = at(i).other = entry;
    }
    find_nullable();
    for (Instruction& instruction : program_.instructions) {
      if (instruction.op == Op::kLoop && is_nullable_[instruction.other]) instruction.min = 0;
    }
    check_left_recursion(num_rules);
    find_distances();
    if (at(0).distance >= kUnreachable) {
      bad("no text fits the constraint: it contradicts itself, or the model's vocabulary lacks a byte that it needs");
    }
    find_classes();
    return std::move(program_);
  }

 private:
  Instruction& at(int32_t pc) { return program_.instructions[pc]; }

  int32_t emit(Instruction instruction) {
    if (program_.instructions.size() + program_.branches.size() >= static_cast<size_t>(max_instructions_)) {
      bad("the constraint is too large: it takes more than " + std::to_string(max_instructions_) +
              " automaton instructions; make it smaller",
          {{"max_instructions", max_instructions_}});
    }
    program_.instructions.push_back(instruction);
    return static_cast<int32_t>(program_.instructions.size()) - 1;
  }

  // Code is emitted from the end backwards: each function returns where to enter for what goes on at `next`.
  int32_t emit_expression(const Expression& e, int32_t next, int depth) {
    if (depth > kMaxDepth) bad("the constraint is nested more than " + std::to_string(kMaxDepth) + " levels deep");
    switch (e.kind) {
      case Kind::kText:
        for (size_t i = e.text.size(); i-- > 0;) next = emit_byte(static_cast<uint8_t>(e.text[i]), next);
        return next;
      case Kind::kCharacters:
        return emit_characters(e.ranges, next);
      case Kind::kSequence:
        for (size_t i = e.parts.size(); i-- > 0;) next = emit_expression(e.parts[i], next, depth + 1);
        return next;
      case Kind::kChoice: {
        std::vector<int32_t> entries;
        for (const Expression& part : e.parts) entries.push_back(emit_expression(part, next, depth + 1));
        return emit_choice(std::move(entries));
      }
      case Kind::kRepeat:
        return emit_repeat(e, next, depth);
      case Kind::kRule:
        if (e.rule < 0 || e.rule >= static_cast<int32_t>(grammar_.rules.size()))
          bad("a grammar names no rule of its own");
        return emit({.op = Op::kCall, .next = next, .other = e.rule});
    }
    bad("a grammar has an expression of an unknown kind");
  }

  int32_t emit_repeat(const Expression& e, int32_t next, int depth) {
    const bool is_bounded = e.max != Expression::kNoMax;
    if (e.parts.size() != 1 || e.min < 0 || e.min > kMaxRuns || (is_bounded && (e.max < e.min || e.max > kMaxRuns))) {
      bad("a repeat is " + std::to_string(e.min) + " to " + std::to_string(e.max) + " times one expression, at most " +
          std::to_string(kMaxRuns));
    }
    const Expression& body = e.parts[0];
    if (e.max == 0) return next;
    if (!is_bounded && e.min <= 1) {
      const int32_t loop = emit({.op = Op::kSplit, .next = next});
      const int32_t entry = emit_expression(body, loop, depth + 1);
      at(loop).other = entry;
      return e.min == 0 ? loop : entry;
    }
    if (e.max == 1) {
      const int32_t entry = emit_expression(body, next, depth + 1);
      return e.min == 1 ? entry : emit({.op = Op::kSplit, .next = entry, .other = next});
    }
    const int32_t loop = emit({.op = Op::kLoop, .next = next, .min = e.min, .max = is_bounded ? e.max : kNoMaxRuns});
    const int32_t end = emit({.op = Op::kLoopEnd, .other = loop});
    const int32_t entry = emit_expression(body, end, depth + 1);
    at(loop).other = entry;
    return loop;
  }

  // A character as a tree of its bytes: one instruction for all first bytes, then one for each way to go on.
  int32_t emit_characters(const std::vector<CodePointRange>& ranges, int32_t next) {
    std::vector<ByteRanges> sequences;
    const auto add = [&](uint32_t first, uint32_t last) {
      if (first <= last) for_each_byte_range(first, last, [&](const ByteRanges& bytes) { sequences.push_back(bytes); });
    };
    for (const CodePointRange& range : joined(ranges)) {
      add(range.first, std::min(range.last, kFirstSurrogate - 1));
      add(std::max(range.first, kLastSurrogate + 1), range.last);
    }
    std::map<std::vector<Branch>, int32_t> known;
    return emit_bytes(sequences, 0, next, known);
  }

  // Sequences whose bytes agree before `depth`; two of them have the same range there or ranges that do not overlap.
  int32_t emit_bytes(std::span<const ByteRanges> sequences, int depth, int32_t next,
                     std::map<std::vector<Branch>, int32_t>& known) {
    std::vector<Branch> branches;
    for (size_t begin = 0, end = 0; begin < sequences.size(); begin = end) {
      const ByteRanges& first = sequences[begin];
      while (end < sequences.size() && sequences[end].low[depth] == first.low[depth]) ++end;
      const bool is_last = depth + 1 == first.len;
      const int32_t target = is_last ? next : emit_bytes(sequences.subspan(begin, end - begin), depth + 1, next, known);
      add_branch({first.low[depth], first.high[depth], target}, branches);
    }
    const auto [it, is_added] = known.try_emplace(branches);
    if (is_added) it->second = emit_branches(branches);
    return it->second;
  }

  // Leaves out bytes that the vocabulary lacks, and joins what leads to the same place.
  void add_branch(const Branch& branch, std::vector<Branch>& branches) const {
    for (int byte = branch.low; byte <= branch.high; ++byte) {
      if (!bytes_[byte]) continue;
      const uint8_t low = static_cast<uint8_t>(byte);
      if (!branches.empty() && branches.back().next == branch.next && branches.back().high == byte - 1) {
        branches.back().high = low;
      } else {
        branches.push_back({low, low, branch.next});
      }
    }
  }

  int32_t emit_branches(const std::vector<Branch>& branches) {
    const int32_t begin = static_cast<int32_t>(program_.branches.size());
    program_.branches.insert(program_.branches.end(), branches.begin(), branches.end());
    const int32_t end = static_cast<int32_t>(program_.branches.size());
    return emit({.op = Op::kBytes, .branches_begin = begin, .branches_end = end});
  }

  int32_t emit_byte(uint8_t byte, int32_t next) {
    std::vector<Branch> branches;
    add_branch({byte, byte, next}, branches);
    return emit_branches(branches);
  }

  int32_t emit_choice(std::vector<int32_t> entries) {
    if (entries.empty()) return emit({.op = Op::kBytes});  // nothing
    int32_t entry = entries.back();
    for (size_t i = entries.size() - 1; i-- > 0;) entry = emit({.op = Op::kSplit, .next = entries[i], .other = entry});
    return entry;
  }

  // Values of instructions that depend on one another: goes over all until nothing changes. Most of what an instruction
  // goes on with was emitted before it.
  void iterate(const std::function<bool(int32_t pc)>& improve) {
    for (bool changed = true; changed;) {
      changed = false;
      for (int32_t pc = 0; pc < static_cast<int32_t>(program_.instructions.size()); ++pc) changed |= improve(pc);
    }
  }

  // Whether the rule's or the run's end can be reached without a byte.
  void find_nullable() {
    is_nullable_.assign(program_.instructions.size(), false);
    iterate([&](int32_t pc) {
      const Instruction& i = at(pc);
      if (is_nullable_[pc]) return false;
      switch (i.op) {
        case Op::kBytes:
          return false;
        case Op::kSplit:
          is_nullable_[pc] = is_nullable_[i.next] || is_nullable_[i.other];
          break;
        case Op::kCall:
          is_nullable_[pc] = is_nullable_[i.other] && is_nullable_[i.next];
          break;
        case Op::kLoop:
          is_nullable_[pc] = (i.min == 0 || is_nullable_[i.other]) && is_nullable_[i.next];
          break;
        case Op::kReturn:
        case Op::kLoopEnd:
          is_nullable_[pc] = true;
          break;
      }
      return static_cast<bool>(is_nullable_[pc]);
    });
  }

  // A rule that calls itself before it reads a byte, with more to do afterwards, would call itself for ever.
  void check_left_recursion(int32_t num_rules) {
    struct Edge {
      int32_t to;
      bool is_tail;
    };
    std::vector<std::vector<Edge>> edges(num_rules);
    std::vector<int32_t> seen(program_.instructions.size(), -1), stack;
    for (int32_t rule = 0; rule < num_rules; ++rule) {
      const auto visit = [&](int32_t pc) {
        if (std::exchange(seen[pc], rule) != rule) stack.push_back(pc);
      };
      visit(at(rule).next);
      while (!stack.empty()) {
        const Instruction& i = at(stack.back());
        stack.pop_back();
        if (i.op == Op::kCall) {
          edges[rule].push_back({i.other, at(i.next).op == Op::kReturn});
          if (is_nullable_[i.other]) visit(i.next);
        } else if (i.op == Op::kSplit) {
          visit(i.next);
          visit(i.other);
        } else if (i.op == Op::kLoop) {
          visit(i.other);
          if (i.min == 0) visit(i.next);
        } else if (i.op == Op::kLoopEnd) {
          visit(at(i.other).next);
        }
      }
    }
    for (int32_t rule = 0; rule < num_rules; ++rule) {
      for (const Edge& edge : edges[rule]) {
        if (edge.is_tail) continue;
        std::vector<bool> reached(num_rules, false);
        std::vector<int32_t> todo = {edge.to};
        while (!todo.empty()) {
          const int32_t from = todo.back();
          todo.pop_back();
          if (from == rule) bad("the constraint refers to itself before it reads a character, without end");
          if (reached[from]) continue;
          reached[from] = true;
          for (const Edge& further : edges[from]) todo.push_back(further.to);
        }
      }
    }
  }

  void find_distances() {
    for (Instruction& instruction : program_.instructions) instruction.distance = kUnreachable;
    iterate([&](int32_t pc) {
      Instruction& i = at(pc);
      int32_t distance = 0;
      switch (i.op) {
        case Op::kBytes:
          distance = kUnreachable;
          for (const Branch& branch : program_.branches_of(i)) {
            distance = std::min(distance, add_distance(1, at(branch.next).distance));
          }
          break;
        case Op::kSplit:
          distance = std::min(at(i.next).distance, at(i.other).distance);
          break;
        case Op::kCall:
          distance = add_distance(at(i.other).distance, at(i.next).distance);
          break;
        case Op::kLoop:
          distance = add_distance(int64_t{i.min} * at(i.other).distance, at(i.next).distance);
          break;
        case Op::kReturn:
        case Op::kLoopEnd:
          break;
      }
      return std::exchange(i.distance, distance) != distance;
    });
  }

  void find_classes() {
    ByteSet begins;  // bytes that an instruction tells from the one before
    begins[0] = true;
    for (const Instruction& i : program_.instructions) {
      for (const Branch& branch : program_.branches_of(i)) {
        begins[branch.low] = true;
        if (branch.high < 255) begins[branch.high + 1] = true;
      }
    }
    for (int byte = 0; byte < 256; ++byte) {
      if (begins[byte]) program_.class_byte.push_back(static_cast<uint8_t>(byte));
      program_.class_of[byte] = static_cast<uint8_t>(program_.class_byte.size() - 1);
    }
  }

  const Grammar& grammar_;
  const ByteSet& bytes_;
  int32_t max_instructions_;
  Program program_;
  std::vector<bool> is_nullable_;
};

}  // namespace

Program compile(const Grammar& grammar, const ByteSet& bytes, int32_t max_instructions) {
  return Compiler(grammar, bytes, max_instructions).compile();
}

}  // namespace deftree::constraint
