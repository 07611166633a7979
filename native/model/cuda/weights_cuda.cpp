#include "model/cuda/weights_cuda.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <exception>
#include <memory>
#include <span>
#include <string>
#include <thread>

#include "common/error.h"
#include "common/thread_pool.h"
#include "cuda/stream.h"
#include "model/cuda/random_weights_cuda.h"
#include "model/tensor_table.h"
#include "model/weights.h"

namespace deftree {
namespace {

// What one thread converts before it asks for the next piece: small beside a model, large beside a copy's latency.
constexpr size_t kPieceValues = size_t{4} << 20;
constexpr int kMaxThreads = 8;
constexpr size_t kAlign = 256;

// A tensor and its place in device memory.
struct Upload {
  std::string name;
  size_t rows, cols;
  bool is_permuted;  // q or k of a GGUF file
  size_t offset;     // in CudaLlamaWeights::memory
  std::atomic<int> num_open_pieces{0};
};

// Rows [begin, end) of an upload.
struct Piece {
  Upload* upload;
  size_t begin, end;
};

// Gives each tensor its place; the memory itself comes once all are known.
class Layout {
 public:
  std::deque<Upload> uploads;                         // of matrices
  std::vector<std::pair<std::string, size_t>> norms;  // name, offset

  size_t bytes() const { return bytes_; }

  size_t take(size_t bytes) {
    const size_t begin = bytes_;
    bytes_ += (bytes + kAlign - 1) / kAlign * kAlign;
    return begin;
  }
  size_t norm(const std::string& name, size_t size) {
    norms.emplace_back(name, take(size * sizeof(float)));
    return norms.back().second;
  }

  struct Part {
    std::string name;
    int rows;
    bool is_permuted = false;
  };
  // The parts' rows under one another.
  size_t matrix(std::initializer_list<Part> parts, int cols) {
    size_t rows = 0;
    for (const Part& part : parts) rows += part.rows;
    const size_t begin = take(rows * cols * sizeof(uint16_t));
    size_t offset = begin;
    for (const Part& part : parts) {
      Upload& upload = uploads.emplace_back();
      upload.name = part.name;
      upload.rows = part.rows;
      upload.cols = cols;
      upload.is_permuted = part.is_permuted;
      upload.offset = offset;
      offset += upload.rows * upload.cols * sizeof(uint16_t);
    }
    return begin;
  }

 private:
  size_t bytes_ = 0;
};

// One thread's way to the device: while a piece is copied, the next is converted.
class Uploader {
 public:
  explicit Uploader(size_t piece_values) {
    for (Lane& lane : lanes_) lane.staging = cuda::PinnedBuffer<uint16_t>(piece_values);
  }

  void upload(const Piece& piece, const SourceTensor& source, int head_dim, std::byte* memory) {
    Lane& lane = lanes_[next_];
    next_ = 1 - next_;
    cuda::check(cudaStreamSynchronize(lane.stream.get()), "the copy of weights to the GPU failed");
    const Upload& upload = *piece.upload;
    const size_t row_bytes = source.bytes.size() / upload.rows;
    if (upload.is_permuted) {
      for (size_t row = piece.begin; row < piece.end; ++row) {
        const size_t from = permuted_row(static_cast<int64_t>(row), head_dim);
        convert(source, source.bytes.subspan(from * row_bytes, row_bytes),
                {lane.staging.data() + (row - piece.begin) * upload.cols, upload.cols});
      }
    } else {
      const size_t num_rows = piece.end - piece.begin;
      convert(source, source.bytes.subspan(piece.begin * row_bytes, num_rows * row_bytes),
              {lane.staging.data(), num_rows * upload.cols});
    }
    const size_t offset = upload.offset + piece.begin * upload.cols * sizeof(uint16_t);
    cuda::check(cudaMemcpyAsync(memory + offset, lane.staging.data(),
                                (piece.end - piece.begin) * upload.cols * sizeof(uint16_t), cudaMemcpyHostToDevice,
                                lane.stream.get()),
                "cannot copy weights to the GPU");
  }

  void finish() {
    for (Lane& lane : lanes_) lane.stream.synchronize();
  }

 private:
  struct Lane {
    cuda::Stream stream;
    cuda::PinnedBuffer<uint16_t> staging;
  };

  // Whole blocks of the source's type to bf16.
  void convert(const SourceTensor& source, std::span<const uint8_t> from, std::span<uint16_t> to) {
    if (source.dtype == DType::kBf16) {
      std::memcpy(to.data(), from.data(), from.size());
      return;
    }
    constexpr size_t kBlockValues = 8192;  // a multiple of every type's block
    const DTypeInfo& type = dtype_info(source.dtype);
    floats_.resize(kBlockValues);
    for (size_t begin = 0; begin < to.size(); begin += kBlockValues) {
      const size_t count = std::min(kBlockValues, to.size() - begin);
      dequantize(source.dtype,
                 from.subspan(begin / type.block_len * type.block_bytes, count / type.block_len * type.block_bytes),
                 std::span(floats_).first(count));
      std::transform(floats_.begin(), floats_.begin() + count, to.begin() + begin, f32_to_bf16);
    }
  }

  Lane lanes_[2];
  int next_ = 0;
  std::vector<float> floats_;
};

void upload_all(const TensorTable& table, const LlamaConfig& config, Layout& layout, int device_index,
                std::byte* memory, const std::atomic<bool>& cancel) {
  std::vector<Piece> pieces;
  size_t piece_values = 0;
  for (Upload& upload : layout.uploads) {
    const size_t rows = std::max<size_t>(kPieceValues / upload.cols, 1);
    for (size_t begin = 0; begin < upload.rows; begin += rows) {
      pieces.push_back({&upload, begin, std::min(begin + rows, upload.rows)});
      piece_values = std::max(piece_values, (pieces.back().end - begin) * upload.cols);
      upload.num_open_pieces.fetch_add(1, std::memory_order_relaxed);
    }
  }
  const int num_threads = std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 1, kMaxThreads);
  ThreadPool pool(num_threads);
  std::vector<std::unique_ptr<Uploader>> uploaders;
  for (int i = 0; i < num_threads; ++i) uploaders.push_back(std::make_unique<Uploader>(piece_values));
  std::vector<std::exception_ptr> errors(num_threads);
  pool.run(static_cast<int>(pieces.size()), [&](int task, int thread) {
    if (errors[thread]) return;
    try {
      if (cancel.load(std::memory_order_relaxed)) throw Error(ErrorCode::kAborted, "loading the model was cancelled");
      cuda::check(cudaSetDevice(device_index), "cannot use the GPU");
      Upload& upload = *pieces[task].upload;
      uploaders[thread]->upload(pieces[task], table.source(upload.name).tensor, config.head_dim, memory);
      if (upload.num_open_pieces.fetch_sub(1) == 1) table.release(upload.name);
    } catch (...) {
      errors[thread] = std::current_exception();
    }
  });
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
  for (const auto& uploader : uploaders) uploader->finish();
}

void make_random(const TensorTable& table, const Layout& layout, std::byte* memory, const std::atomic<bool>& cancel) {
  const cuda::Stream stream;
  for (const Upload& upload : layout.uploads) {
    if (cancel.load(std::memory_order_relaxed)) throw Error(ErrorCode::kAborted, "loading the model was cancelled");
    fill_random(table.random(upload.name), upload.rows * upload.cols,
                reinterpret_cast<__nv_bfloat16*>(memory + upload.offset), stream.get());
  }
  stream.synchronize();
}

}  // namespace

void check_cuda_config(const LlamaConfig& config) {
  check_config(config);
  constexpr int kMaxHiddenSize = 16384;  // a thread block of RMSNorm holds a row
  if (config.hidden_size > kMaxHiddenSize) {
    throw Error(ErrorCode::kBadModel, "config: hidden_size is " + std::to_string(config.hidden_size) +
                                          ", on a GPU it may be up to " + std::to_string(kMaxHiddenSize));
  }
  for (const auto& [name, value] :
       {std::pair{"hidden_size", config.hidden_size}, std::pair{"intermediate_size", config.intermediate_size}}) {
    if (value % 8 != 0) {
      throw Error(ErrorCode::kBadModel, std::string("config: ") + name + " is " + std::to_string(value) +
                                            ", on a GPU it must be a multiple of 8");
    }
  }
}

CudaLlamaWeights load_cuda_weights(const ModelSpec& spec, int device_index, const std::atomic<bool>& cancel) {
  const LlamaConfig& config = spec.config;
  check_cuda_config(config);
  TensorTable table(spec);
  check_tensors(config, table);
  const std::vector<double> frequencies = load_rope_frequencies(config, table);

  const int hidden = config.hidden_size, intermediate = config.intermediate_size, vocab = config.vocab_size;
  const int q = config.num_qo_heads * config.head_dim, kv = config.num_kv_heads * config.head_dim;
  Layout layout;
  struct LayerOffsets {
    size_t attention_norm, qkv, attention_out, mlp_norm, gate_up, down;
  };
  std::vector<LayerOffsets> layers;
  const size_t frequencies_at = layout.take(frequencies.size() * sizeof(double));
  const size_t embedding_at = layout.matrix({{"model.embed_tokens.weight", vocab}}, hidden);
  for (int i = 0; i < config.num_layers; ++i) {
    layers.push_back({.attention_norm = layout.norm(layer_name(i, "input_layernorm.weight"), hidden),
                      .qkv = layout.matrix({{layer_name(i, "self_attn.q_proj.weight"), q, config.qk_permuted},
                                            {layer_name(i, "self_attn.k_proj.weight"), kv, config.qk_permuted},
                                            {layer_name(i, "self_attn.v_proj.weight"), kv}},
                                           hidden),
                      .attention_out = layout.matrix({{layer_name(i, "self_attn.o_proj.weight"), hidden}}, q),
                      .mlp_norm = layout.norm(layer_name(i, "post_attention_layernorm.weight"), hidden),
                      .gate_up = layout.matrix({{layer_name(i, "mlp.gate_proj.weight"), intermediate},
                                                {layer_name(i, "mlp.up_proj.weight"), intermediate}},
                                               hidden),
                      .down = layout.matrix({{layer_name(i, "mlp.down_proj.weight"), hidden}}, intermediate)});
  }
  const size_t final_norm_at = layout.norm("model.norm.weight", hidden);
  const size_t lm_head_at = config.tie_word_embeddings ? 0 : layout.matrix({{"lm_head.weight", vocab}}, hidden);

  cuda::check(cudaSetDevice(device_index), "cannot use the GPU");
  CudaLlamaWeights weights{};
  weights.config = config;
  weights.memory = cuda::DeviceBuffer<std::byte>(layout.bytes());
  std::byte* memory = weights.memory.data();
  const auto copy = [&](size_t offset, const void* from, size_t bytes) {
    cuda::check(cudaMemcpy(memory + offset, from, bytes, cudaMemcpyHostToDevice), "cannot copy weights to the GPU");
  };
  copy(frequencies_at, frequencies.data(), frequencies.size() * sizeof(double));
  for (const auto& [name, offset] : layout.norms) {
    const std::vector<float> values = table.floats(name);
    copy(offset, values.data(), values.size() * sizeof(float));
  }
  if (table.is_random()) {
    make_random(table, layout, memory, cancel);
  } else {
    upload_all(table, config, layout, device_index, memory, cancel);
  }

  const auto norm = [&](size_t offset) { return reinterpret_cast<const float*>(memory + offset); };
  const auto matrix = [&](size_t offset, int out_features, int in_features) {
    return CudaWeight{reinterpret_cast<__nv_bfloat16*>(memory + offset), out_features, in_features};
  };
  weights.rope_inverse_frequencies = reinterpret_cast<const double*>(memory + frequencies_at);
  weights.embedding = matrix(embedding_at, vocab, hidden);
  for (const LayerOffsets& layer : layers) {
    weights.layers.push_back({.attention_norm = norm(layer.attention_norm),
                              .qkv = matrix(layer.qkv, q + 2 * kv, hidden),
                              .attention_out = matrix(layer.attention_out, hidden, q),
                              .mlp_norm = norm(layer.mlp_norm),
                              .gate_up = matrix(layer.gate_up, 2 * intermediate, hidden),
                              .down = matrix(layer.down, hidden, intermediate)});
  }
  weights.final_norm = norm(final_norm_at);
  if (!config.tie_word_embeddings) weights.untied_lm_head = matrix(lm_head_at, vocab, hidden);
  return weights;
}

}  // namespace deftree
