// Partial attention as a value: (O, LSE) over a set of keys, with one operator. (FlashInfer's attention states; the
// recurrence is Milakov and Gimelshein's online softmax, arXiv 1805.02867.)
//
// A single key with score s and value v is the state (O = v, LSE = s), so merging keys one by one *is* attention.
// Merging is associative and commutative up to rounding; the empty state (O = 0, LSE = -inf) is its neutral element.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

namespace deftree::attention {

// A running merge. Between init and normalise, `o` holds the sum of exp(LSE_i - max) O_i, not yet divided.
template <class T>
class AttentionState {
 public:
  // Starts empty. o: [head_dim], owned by the caller, overwritten.
  AttentionState(T* o, int head_dim) : o_(o), head_dim_(head_dim) { std::fill_n(o, head_dim, T(0)); }

  // Joins a normalised state over other keys. An empty one (lse = -inf) changes nothing, whatever its `o` holds.
  template <class U>
  void merge(const U* o, T lse) {
    if (lse == -std::numeric_limits<T>::infinity()) return;
    const T new_max = std::max(max_, lse);
    const T old_weight = std::exp(max_ - new_max);  // 0 when this state was empty
    const T weight = std::exp(lse - new_max);
    for (int d = 0; d < head_dim_; ++d) o_[d] = old_weight * o_[d] + weight * static_cast<T>(o[d]);
    sum_ = old_weight * sum_ + weight;
    max_ = new_max;
  }

  // Divides `o` by the sum of weights and returns the LSE; an empty state gives zeros and -inf, never NaN.
  T normalise() {
    if (sum_ == T(0)) return -std::numeric_limits<T>::infinity();
    for (int d = 0; d < head_dim_; ++d) o_[d] /= sum_;
    return max_ + std::log(sum_);
  }

 private:
  T* o_;
  int head_dim_;
  T max_ = -std::numeric_limits<T>::infinity();
  T sum_ = 0;
};

}  // namespace deftree::attention
