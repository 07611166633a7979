// The states of a program, made as they are reached: a state is the set of all places at which the program may be after
// the bytes so far, each with its stack of callers and loop counters (subset construction over a pushdown automaton).
// States are numbered by their content, so that the same situation is one state, whatever led to it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "constraint/program.h"

namespace deftree::constraint {

// What a state is, without its neighbours: places one after another, each an instruction and its frames, innermost
// first, then kEndOfPlace. A loop's frame is followed by the least and the most runs left, the present one included.
using StateContent = std::vector<int32_t>;

// A set of things with numbers in the order in which they came; the few that a state takes need no hashing.
template <class T, class Hash>
class NumberedSet {
 public:
  // The number, and whether it is new.
  std::pair<int32_t, bool> insert(const T& item) {
    if (items_.size() <= kFew) {
      const auto known = std::ranges::find(items_, item);
      if (known != items_.end()) return {static_cast<int32_t>(known - items_.begin()), false};
      if (items_.size() == kFew) {
        for (const T& each : items_) numbers_.emplace(each, static_cast<int32_t>(numbers_.size()));
      }
    }
    const int32_t number = static_cast<int32_t>(items_.size());
    if (items_.size() >= kFew) {
      const auto [it, is_new] = numbers_.try_emplace(item, number);
      if (!is_new) return {it->second, false};
    }
    items_.push_back(item);
    return {number, true};
  }
  const T& operator[](int32_t number) const { return items_[number]; }
  void clear() {
    items_.clear();
    if (!numbers_.empty()) numbers_.clear();
  }

 private:
  static constexpr size_t kFew = 32;
  std::vector<T> items_;
  std::unordered_map<T, int32_t, Hash> numbers_;
};

class Automaton {
 public:
  struct State {
    std::shared_ptr<const StateContent> content;
    std::unique_ptr<State*[]> next;  // [byte classes] null: not looked at yet
    int32_t distance = 0;            // bytes of the shortest way to an end
    bool accepts = false;            // the text may end here
    bool goes_on = false;            // some byte may follow
    State* uncounted = nullptr;      // null: not looked at yet
    int32_t slack = 0;
  };

  explicit Automaton(Program program);

  State* start();
  // Null when the byte may not follow. Throws kBadArgument when a text can be read in more than kMaxPlaces ways at
  // once.
  State* step(State& state, uint8_t byte) {
    State*& next = state.next[program_.class_of[byte]];
    if (next == nullptr) next = find_next(state, byte);
    return next == &dead_ ? nullptr : next;
  }
  // The state with this content; it is made when it was forgotten.
  State* find(std::shared_ptr<const StateContent> content);
  // The state without its loops' counters, as if each could end now and go on for ever; sets state.slack: of texts up
  // to so many bytes the same may follow in both (-1: not even that).
  State& uncounted(State& state);
  // The bytes of the shortest way to an end, of several the first in byte order.
  std::string shortest_text(State& state);
  // Forgets all states; pointers to them are invalid then.
  void forget();
  size_t bytes() const { return bytes_; }

 private:
  static constexpr int32_t kEndOfPlace = -1;
  static constexpr int kMaxPlaces = 4096;

  // A frame of a stack under construction; equal stacks have equal numbers.
  struct Frame {
    int32_t pc, min, max;
    int32_t below;
    bool is_new;  // pushed since the last byte
    bool operator==(const Frame&) const = default;
  };
  struct Place {
    int32_t pc, stack;
    bool operator==(const Place&) const = default;
  };
  struct ItemHash {
    size_t operator()(const Frame& frame) const;
    size_t operator()(const Place& place) const;
  };
  struct ContentHash {
    size_t operator()(const StateContent* content) const;
  };
  struct SameContent {
    bool operator()(const StateContent* a, const StateContent* b) const { return *a == *b; }
  };

  State* find_next(const State& state, uint8_t byte);
  int32_t push(const Frame& frame);
  int32_t load_stack(const StateContent& content, size_t& at);
  void visit(int32_t pc, int32_t stack);
  void end_loop(const Frame& frame);
  State* finish();
  void start_over();
  void find_dominated(std::span<const StateContent> places);
  int32_t distance_of(std::span<const int32_t> place) const;

  Program program_;
  std::deque<State> states_;
  State dead_;
  std::unordered_map<const StateContent*, State*, ContentHash, SameContent> by_content_;
  size_t bytes_ = 0;

  // Of the state under construction.
  NumberedSet<Frame, ItemHash> frames_;
  NumberedSet<Place, ItemHash> visited_;
  std::vector<Place> todo_, places_;
  std::vector<Frame> stack_;
  std::vector<StateContent> contents_;  // of the places; longer than in use
  std::vector<bool> is_dropped_;
  StateContent whole_content_;
};

}  // namespace deftree::constraint
