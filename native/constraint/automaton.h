// The states of a program, made as they are reached: a state is the set of all places at which the program may be after
// the bytes so far, each with its stack of callers and loop counters (subset construction over a pushdown automaton).
// States are numbered by their content, so that the same situation is one state, whatever led to it.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "constraint/program.h"

namespace deftree::constraint {

// What a state is, without its neighbours: places one after another, each an instruction and its frames, innermost
// first, then kEndOfPlace. A loop's frame is followed by the least and the most runs left, the present one included.
using StateContent = std::vector<int32_t>;

class Automaton {
 public:
  struct State {
    std::shared_ptr<const StateContent> content;
    std::vector<State*> next;  // [byte classes] null: not looked at yet
    int32_t distance = 0;      // bytes of the shortest way to an end
    bool accepts = false;      // the text may end here
    bool goes_on = false;      // some byte may follow
  };

  explicit Automaton(Program program);

  State* start();
  // Null when the byte may not follow. Throws kBadArgument when a text can be read in more than kMaxPlaces ways at
  // once.
  State* step(State& state, uint8_t byte);
  // The state with this content; it is made when it was forgotten.
  State* find(std::shared_ptr<const StateContent> content);
  struct Within {
    State* state;
    int32_t left_out;  // by so much the way from here to an end may be longer than from `state`, at most
  };
  // A state from which exactly the same texts of up to `len` bytes may follow: one for all loop counters that are too
  // far from their end to matter.
  Within within(State& state, int32_t len);
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
  struct FrameHash {
    size_t operator()(const Frame& frame) const;
  };
  struct Place {
    int32_t pc, stack;
  };
  struct ContentHash {
    size_t operator()(const StateContent* content) const;
  };
  struct SameContent {
    bool operator()(const StateContent* a, const StateContent* b) const { return *a == *b; }
  };

  int32_t push(Frame frame);
  int32_t load_stack(const StateContent& content, size_t& at);
  void visit(int32_t pc, int32_t stack);
  void end_loop(const Frame& frame);
  State* finish();
  void start_over();
  void drop_dominated(std::vector<StateContent>& places) const;
  int32_t distance_of(const StateContent& place) const;

  Program program_;
  std::deque<State> states_;
  State dead_;
  std::unordered_map<const StateContent*, State*, ContentHash, SameContent> by_content_;
  size_t bytes_ = 0;

  // Of the state under construction.
  std::vector<Frame> frames_;
  std::unordered_map<Frame, int32_t, FrameHash> frame_numbers_;
  std::unordered_set<uint64_t> visited_;
  std::vector<Place> todo_, places_;
};

}  // namespace deftree::constraint
