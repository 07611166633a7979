#include "constraint/automaton.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "common/error.h"

namespace deftree::constraint {
namespace {

using Op = Instruction::Op;

constexpr int32_t kNoFrame = -1;

uint64_t mix(uint64_t hash, uint64_t value) {
  hash = (hash ^ value) * 0x9e3779b97f4a7c15ULL;
  return hash ^ (hash >> 29);
}

}  // namespace

size_t Automaton::ItemHash::operator()(const Place& place) const { return mix(mix(1, place.pc), place.stack); }

size_t Automaton::ItemHash::operator()(const Frame& frame) const {
  return mix(mix(mix(mix(frame.is_new, frame.pc), frame.min), frame.max), frame.below);
}

size_t Automaton::ContentHash::operator()(const StateContent* content) const {
  uint64_t hash = content->size();
  for (const int32_t value : *content) hash = mix(hash, static_cast<uint32_t>(value));
  return hash;
}

Automaton::Automaton(Program program) : program_(std::move(program)) {}

Automaton::State* Automaton::start() {
  visit(program_.start, kNoFrame);
  return finish();
}

Automaton::State* Automaton::find_next(const State& state, uint8_t byte) {
  const StateContent& content = *state.content;
  for (size_t i = 0; i < content.size();) {
    const Instruction& instruction = program_.instructions[content[i++]];
    const std::span<const Branch> branches = program_.branches_of(instruction);
    const auto branch =
        std::ranges::find_if(branches, [&](const Branch& b) { return b.low <= byte && byte <= b.high; });
    if (branch != branches.end()) {
      const int32_t stack = load_stack(content, i);
      visit(branch->next, stack);
    } else {
      while (content[i++] != kEndOfPlace) {
      }
    }
  }
  return finish();
}

int32_t Automaton::push(const Frame& frame) { return frames_.insert(frame).first; }

// Reads the frames of a place up to its end.
int32_t Automaton::load_stack(const StateContent& content, size_t& at) {
  stack_.clear();
  while (content[at] != kEndOfPlace) {
    Frame frame{.pc = content[at++], .min = 0, .max = 0, .below = kNoFrame, .is_new = false};
    if (program_.instructions[frame.pc].op == Op::kLoop) {
      frame.min = content[at++];
      frame.max = content[at++];
    }
    stack_.push_back(frame);
  }
  ++at;
  int32_t below = kNoFrame;
  for (size_t i = stack_.size(); i-- > 0;) {
    stack_[i].below = below;
    below = push(stack_[i]);
  }
  return below;
}

// Adds the places that are reached from here without a byte.
void Automaton::visit(int32_t first_pc, int32_t first_stack) {
  todo_.push_back({first_pc, first_stack});
  while (!todo_.empty()) {
    const auto [pc, stack] = todo_.back();
    todo_.pop_back();
    if (!visited_.insert({pc, stack}).second) continue;
    const Instruction& i = program_.instructions[pc];
    switch (i.op) {
      case Op::kBytes:
        if (i.distance < kUnreachable) places_.push_back({pc, stack});
        break;
      case Op::kSplit:
        todo_.push_back({i.next, stack});
        todo_.push_back({i.other, stack});
        break;
      case Op::kCall:
        // A call with nothing left to do afterwards needs no frame: lists stay as flat as loops.
        if (program_.instructions[i.next].op == Op::kReturn) {
          todo_.push_back({i.other, stack});
        } else if (i.distance < kUnreachable) {
          todo_.push_back({i.other, push({.pc = pc, .min = 0, .max = 0, .below = stack, .is_new = true})});
        }
        break;
      case Op::kReturn:
        if (stack == kNoFrame) {
          places_.push_back({pc, stack});
        } else {
          todo_.push_back({program_.instructions[frames_[stack].pc].next, frames_[stack].below});
        }
        break;
      case Op::kLoop:
        if (i.min == 0) todo_.push_back({i.next, stack});
        if (program_.instructions[i.other].distance < kUnreachable) {
          todo_.push_back({i.other, push({.pc = pc, .min = i.min, .max = i.max, .below = stack, .is_new = true})});
        }
        break;
      case Op::kLoopEnd:
        end_loop(Frame(frames_[stack]));
        break;
    }
    if (places_.size() > kMaxPlaces) {
      start_over();
      throw Error(ErrorCode::kBadArgument,
                  "the constraint is too ambiguous: a text can be read in more than " + std::to_string(kMaxPlaces) +
                      " ways at once; say it with fewer alternatives",
                  {{"max_places", kMaxPlaces}});
    }
  }
}

void Automaton::end_loop(const Frame& frame) {
  const Instruction& loop = program_.instructions[frame.pc];
  const int32_t min = std::max(frame.min - 1, 0);
  const int32_t max = frame.max == kNoMaxRuns ? kNoMaxRuns : frame.max - 1;
  if (min == 0) todo_.push_back({loop.next, frame.below});
  // A run that read nothing is not repeated: what may be empty needs no further runs.
  if (max > 0 && !frame.is_new) {
    todo_.push_back({loop.other, push({.pc = frame.pc, .min = min, .max = max, .below = frame.below, .is_new = true})});
  }
}

void Automaton::start_over() {
  frames_.clear();
  visited_.clear();
  todo_.clear();
  places_.clear();
}

// The state of the places that were visited.
Automaton::State* Automaton::finish() {
  size_t num_places = 0;
  for (const Place& place : places_) {
    if (num_places == contents_.size()) contents_.emplace_back();
    StateContent& content = contents_[num_places];
    content.assign(1, place.pc);
    for (int32_t stack = place.stack; stack != kNoFrame; stack = frames_[stack].below) {
      const Frame& frame = frames_[stack];
      content.push_back(frame.pc);
      if (program_.instructions[frame.pc].op != Op::kLoop) continue;
      content.push_back(frame.min);
      content.push_back(frame.max);
    }
    if (distance_of(content) < kUnreachable) ++num_places;
  }
  start_over();
  if (num_places == 0) return &dead_;

  const std::span<StateContent> contents = std::span(contents_).first(num_places);
  if (num_places > 1) std::ranges::sort(contents);
  const auto same_place = [](const StateContent& a, const StateContent& b) { return a[0] == b[0]; };
  const bool has_variants = std::ranges::adjacent_find(contents, same_place) != contents.end();
  is_dropped_.assign(num_places, false);
  if (has_variants) find_dominated(contents);
  whole_content_.clear();
  for (size_t i = 0; i < num_places; ++i) {
    if (is_dropped_[i]) continue;
    whole_content_.insert(whole_content_.end(), contents[i].begin(), contents[i].end());
    whole_content_.push_back(kEndOfPlace);
  }
  if (const auto it = by_content_.find(&whole_content_); it != by_content_.end()) return it->second;
  return find(std::make_shared<const StateContent>(whole_content_));
}

Automaton::State* Automaton::find(std::shared_ptr<const StateContent> content) {
  if (const auto it = by_content_.find(content.get()); it != by_content_.end()) return it->second;
  State& state = states_.emplace_back();
  state.distance = kUnreachable;
  for (size_t i = 0; i < content->size(); ++i) {
    const size_t begin = i;
    while ((*content)[i] != kEndOfPlace) ++i;
    const std::span<const int32_t> place = std::span(*content).subspan(begin, i - begin);
    const bool is_end = program_.instructions[place[0]].op == Op::kReturn;
    state.accepts |= is_end;
    state.goes_on |= !is_end;
    state.distance = std::min(state.distance, distance_of(place));
  }
  const size_t num_classes = program_.class_byte.size();
  state.next = std::make_unique<State*[]>(num_classes);
  bytes_ += sizeof(State) + num_classes * sizeof(State*) + content->size() * sizeof(int32_t) + 64;
  state.content = std::move(content);
  by_content_.emplace(state.content.get(), &state);
  return &state;
}

int32_t Automaton::distance_of(std::span<const int32_t> place) const {
  int32_t distance = program_.instructions[place[0]].distance;
  for (size_t i = 1; i < place.size(); ++i) {
    const Instruction& frame = program_.instructions[place[i]];
    distance = add_distance(distance, program_.instructions[frame.next].distance);
    if (frame.op != Op::kLoop) continue;
    const int32_t min_left = std::max(place[i + 1] - 1, 0);
    distance = add_distance(distance, int64_t{min_left} * program_.instructions[frame.other].distance);
    i += 2;
  }
  return distance;
}

// Marks doubles, and of places that differ in counters only those for which another one stands: with no more runs to do
// and no fewer allowed.
void Automaton::find_dominated(std::span<const StateContent> places) {
  const auto have_one_shape = [&](const StateContent& a, const StateContent& b) {
    if (a.size() != b.size()) return false;
    for (size_t i = 0; i < a.size(); ++i) {
      if (a[i] != b[i]) return false;
      if (i > 0 && program_.instructions[a[i]].op == Op::kLoop) i += 2;
    }
    return true;
  };
  const auto covers = [&](const StateContent& a, const StateContent& b) {
    for (size_t i = 1; i < a.size(); ++i) {
      if (program_.instructions[a[i]].op != Op::kLoop) continue;
      if (a[i + 1] > b[i + 1] || a[i + 2] < b[i + 2]) return false;
      i += 2;
    }
    return true;
  };
  // Equal shapes need not be neighbours, but they begin at one instruction.
  for (size_t begin = 0, end = 0; begin < places.size(); begin = end) {
    while (end < places.size() && places[end][0] == places[begin][0]) ++end;
    for (size_t i = begin; i < end; ++i) {
      for (size_t other = begin; other < i && !is_dropped_[i]; ++other) {
        if (is_dropped_[other] || !have_one_shape(places[other], places[i])) continue;
        if (covers(places[other], places[i])) {
          is_dropped_[i] = true;
        } else if (covers(places[i], places[other])) {
          is_dropped_[other] = true;
        }
      }
    }
  }
}

Automaton::State& Automaton::uncounted(State& state) {
  if (state.uncounted != nullptr) return *state.uncounted;
  StateContent content = *state.content;
  state.slack = std::numeric_limits<int32_t>::max();
  for (size_t i = 0; i < content.size(); ++i) {
    for (++i; content[i] != kEndOfPlace; ++i) {  // the frames of a place
      if (program_.instructions[content[i]].op != Op::kLoop) continue;
      int32_t &min = content[i + 1], &max = content[i + 2];
      i += 2;
      // The present run may be the last one when `min` is 1; each run reads at least a byte.
      if (min > 1) state.slack = -1;
      if (max != kNoMaxRuns) state.slack = std::min(state.slack, max - 1);
      min = 0;
      max = kNoMaxRuns;
    }
  }
  state.uncounted = content == *state.content ? &state : find(std::make_shared<const StateContent>(std::move(content)));
  return *state.uncounted;
}

std::string Automaton::shortest_text(State& first) {
  std::string text;
  for (State* state = &first; state->distance > 0;) {
    State* next = nullptr;
    for (const uint8_t byte : program_.class_byte) {
      next = step(*state, byte);
      if (next != nullptr && next->distance == state->distance - 1) {
        text.push_back(static_cast<char>(byte));
        break;
      }
    }
    ensure(next != nullptr && next->distance == state->distance - 1, "a byte leads nearer to the end of a text");
    state = next;
  }
  return text;
}

void Automaton::forget() {
  by_content_.clear();
  states_.clear();
  bytes_ = 0;
}

}  // namespace deftree::constraint
