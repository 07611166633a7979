// The tensors of a model by name, checked against what its config implies: the first half of every loader.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "model/linear.h"
#include "model/mapped_file.h"
#include "model/model_spec.h"
#include "model/random_weights.h"

namespace deftree {

// A tensor's values as they lie in a file, or made for the purpose.
struct TensorBytes {
  SourceTensor tensor;
  std::vector<uint8_t> owned;  // what tensor.bytes refers to when that is no file
};

// The tensors of a spec by name, each checked when it is asked for the first time. All failures are kBadModel and name
// the tensor, what was expected and what is there.
class TensorTable {
 public:
  // Maps the spec's files. Throws kBadModel for a file that cannot be read and a tensor that is listed twice, and
  // kBadArgument for random weights beside files.
  explicit TensorTable(const ModelSpec& spec);

  bool has(const std::string& name) const { return by_name_.contains(name); }
  bool is_random() const { return spec_.random_seed.has_value(); }

  // Checks shape, bytes and range of a tensor. `shape` comes from a checked config, so its product cannot overflow.
  void expect(const std::string& name, const std::vector<int64_t>& shape);
  // After all expect() calls: throws for a tensor that none named.
  void expect_no_other() const;

  // Of tensors that expect() has seen.
  TensorBytes source(const std::string& name) const;
  RandomTensor random(const std::string& name) const;  // when is_random()
  std::vector<float> floats(const std::string& name) const;
  // Lets go of the tensor's pages in memory.
  void release(const std::string& name) const;

 private:
  const TensorEntry& find(const std::string& name) const;

  const ModelSpec& spec_;
  std::vector<MappedFile> files_;
  std::unordered_map<std::string, TensorEntry> by_name_;
  std::vector<std::string> expected_;
};

// "model.layers.<layer>.<rest>".
std::string layer_name(int layer, const char* rest);

// Checks that each tensor which the config implies is in the table once, and no other (weights.h says which may be).
void check_tensors(const LlamaConfig& config, TensorTable& table);

// rope_inverse_frequencies() of the config, or what GGUF's "rope_freqs.weight" makes of them: [head_dim / 2].
std::vector<double> load_rope_frequencies(const LlamaConfig& config, const TensorTable& table);

// The row of a q or k tensor in GGUF that holds row `row` of Hugging Face's: the converter stores rows i and
// i + head_dim / 2 of each head as rows 2i and 2i + 1.
int64_t permuted_row(int64_t row, int head_dim);

}  // namespace deftree
