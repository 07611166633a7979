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

size_t Automaton::FrameHash::operator()(const Frame& frame) const {
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

int32_t Automaton::push(Frame frame) {
  const auto [it, is_added] = frame_numbers_.try_emplace(frame, static_cast<int32_t>(frames_.size()));
  if (is_added) frames_.push_back(frame);
  return it->second;
}

// Reads the frames of a place up to its end.
int32_t Automaton::load_stack(const StateContent& content, size_t& at) {
  std::vector<Frame> stack;
  while (content[at] != kEndOfPlace) {
    Frame frame{.pc = content[at++], .min = 0, .max = 0, .below = kNoFrame, .is_new = false};
    if (program_.instructions[frame.pc].op == Op::kLoop) {
      frame.min = content[at++];
      frame.max = content[at++];
    }
    stack.push_back(frame);
  }
  ++at;
  int32_t below = kNoFrame;
  for (size_t i = stack.size(); i-- > 0;) {
    stack[i].below = below;
    below = push(stack[i]);
  }
  return below;
}

// Adds the places that are reached from here without a byte.
void Automaton::visit(int32_t first_pc, int32_t first_stack) {
  todo_.push_back({first_pc, first_stack});
  while (!todo_.empty()) {
    const auto [pc, stack] = todo_.back();
    todo_.pop_back();
    if (!visited_.insert(uint64_t{static_cast<uint32_t>(pc)} << 32 | static_cast<uint32_t>(stack)).second) continue;
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
  frame_numbers_.clear();
  visited_.clear();
  todo_.clear();
  places_.clear();
}

// The state of the places that were visited.
Automaton::State* Automaton::finish() {
  std::vector<StateContent> contents;
  for (const Place& place : places_) {
    StateContent& content = contents.emplace_back();
    content.push_back(place.pc);
    for (int32_t stack = place.stack; stack != kNoFrame; stack = frames_[stack].below) {
      const Frame& frame = frames_[stack];
      content.push_back(frame.pc);
      if (program_.instructions[frame.pc].op != Op::kLoop) continue;
      content.push_back(frame.min);
      content.push_back(frame.max);
    }
    if (distance_of(content) >= kUnreachable) contents.pop_back();
  }
  start_over();
  if (contents.empty()) return &dead_;

  std::ranges::sort(contents);
  contents.erase(std::unique(contents.begin(), contents.end()), contents.end());
  const auto same_place = [](const StateContent& a, const StateContent& b) { return a[0] == b[0]; };
  if (std::ranges::adjacent_find(contents, same_place) != contents.end()) drop_dominated(contents);
  StateContent all;
  for (const StateContent& content : contents) {
    all.insert(all.end(), content.begin(), content.end());
    all.push_back(kEndOfPlace);
  }
  return find(std::make_shared<const StateContent>(std::move(all)));
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

// Of places that differ in counters only, one with no more runs to do and no fewer allowed stands for the other.
void Automaton::drop_dominated(std::vector<StateContent>& places) const {
  const auto shape_of = [&](const StateContent& place) {
    StateContent shape;
    for (size_t i = 0; i < place.size(); ++i) {
      shape.push_back(place[i]);
      if (i > 0 && program_.instructions[place[i]].op == Op::kLoop) i += 2;
    }
    return shape;
  };
  const auto covers = [&](const StateContent& a, const StateContent& b) {
    for (size_t i = 1; i < a.size(); ++i) {
      if (program_.instructions[a[i]].op != Op::kLoop) continue;
      if (a[i + 1] > b[i + 1] || a[i + 2] < b[i + 2]) return false;
      i += 2;
    }
    return true;
  };
  std::unordered_map<uint64_t, std::vector<size_t>> by_shape;
  std::vector<StateContent> shapes;
  std::vector<bool> is_dropped(places.size(), false);
  for (const StateContent& place : places) shapes.push_back(shape_of(place));
  for (size_t i = 0; i < places.size(); ++i) {
    if (places[i].size() == shapes[i].size()) continue;  // no counters
    std::vector<size_t>& same = by_shape[ContentHash()(&shapes[i])];
    for (const size_t other : same) {
      if (is_dropped[other] || shapes[other] != shapes[i]) continue;
      if (covers(places[other], places[i])) {
        is_dropped[i] = true;
        break;
      }
      if (covers(places[i], places[other])) is_dropped[other] = true;
    }
    if (!is_dropped[i]) same.push_back(i);
  }
  size_t kept = 0;
  for (size_t i = 0; i < places.size(); ++i) {
    if (!is_dropped[i]) std::swap(places[kept++], places[i]);
  }
  places.resize(kept);
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
