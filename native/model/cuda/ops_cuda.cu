#include <algorithm>
#include <cmath>
#include <cstring>

#include "common/error.h"
#include "cuda/launch.cuh"
#include "cuda/ptx.cuh"
#include "model/cuda/ops_cuda.h"

namespace deftree {
namespace {

using attention::AttentionShape;
using attention::cuda_kv_offset;
using attention::CudaKvLayer;
using attention::kCudaPageSize;

// What DevicePlan is given room for at once, so that its addresses rarely change: plans of several thousand items.
constexpr size_t kReservedPlanBytes = size_t{8} << 20;
constexpr int kReservedPartials = 8192;

struct Values8 {
  float v[8];
};

__device__ Values8 load8(const float* p) {
  const float4 low = reinterpret_cast<const float4*>(p)[0], high = reinterpret_cast<const float4*>(p)[1];
  return {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
}

__device__ Values8 unpack8(const uint4& bits) {
  const auto pair = [](uint32_t two) { return __bfloat1622float2(reinterpret_cast<const __nv_bfloat162&>(two)); };
  const float2 a = pair(bits.x), b = pair(bits.y), c = pair(bits.z), d = pair(bits.w);
  return {a.x, a.y, b.x, b.y, c.x, c.y, d.x, d.y};
}

__device__ void store8(float* p, const Values8& values) {
  reinterpret_cast<float4*>(p)[0] = {values.v[0], values.v[1], values.v[2], values.v[3]};
  reinterpret_cast<float4*>(p)[1] = {values.v[4], values.v[5], values.v[6], values.v[7]};
}

// N pieces of eight features of a row of y, all loads in flight together. kParts: y lies in parts, whose tiles are of
// whole pieces, num_parts[i] of them; else in values.
template <bool kParts, int N>
__device__ void load_pieces(const LinearSum& y, int row, const int (&feature)[N], const int (&num_parts)[N],
                            Values8 (&pieces)[N]) {
  const size_t row_at = static_cast<size_t>(row) * y.out_features;
  if constexpr (!kParts) {
    uint4 bits[N];
#pragma unroll
    for (int i = 0; i < N; ++i) bits[i] = *reinterpret_cast<const uint4*>(y.values + row_at + feature[i]);
#pragma unroll
    for (int i = 0; i < N; ++i) pieces[i] = unpack8(bits[i]);
  } else {
    constexpr int kAtOnce = N >= 4 ? 1 : 4 / N;  // parts
    const size_t part_size = static_cast<size_t>(y.num_rows) * y.out_features;
    int most = 0;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      pieces[i] = {};
      most = max(most, num_parts[i]);
    }
    for (int first = 0; first < most; first += kAtOnce) {
      Values8 part[kAtOnce][N];
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
#pragma unroll
        for (int i = 0; i < N; ++i) {
          if (first + k < num_parts[i]) part[k][i] = load8(y.parts + (first + k) * part_size + row_at + feature[i]);
        }
      }
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
#pragma unroll
        for (int i = 0; i < N; ++i) {
          if (first + k >= num_parts[i]) continue;
#pragma unroll
          for (int j = 0; j < 8; ++j) pieces[i].v[j] += part[k][i].v[j];
        }
      }
    }
  }
}

__device__ void store8(__nv_bfloat16* p, const Values8& values) {
  uint4 bits;
  bits.x = cuda::pack_bf16(values.v[0], values.v[1]);
  bits.y = cuda::pack_bf16(values.v[2], values.v[3]);
  bits.z = cuda::pack_bf16(values.v[4], values.v[5]);
  bits.w = cuda::pack_bf16(values.v[6], values.v[7]);
  *reinterpret_cast<uint4*>(p) = bits;
}

// Block: a row. Tokens and positions were copied by work of the stream in front, which ended before these kernels
// began; the wait is for whoever still reads `out` from the step before.
constexpr int kEmbedThreads = 256;
__global__ void embed_kernel(const __nv_bfloat16* table, const int32_t* tokens, int width, float* out) {
  cuda::let_next_start();
  cuda::wait_for_previous();
  const size_t row = blockIdx.x;
  const __nv_bfloat16* from = table + static_cast<size_t>(tokens[row]) * width;
  for (int i = threadIdx.x * 8; i < width; i += kEmbedThreads * 8) {
    store8(out + row * width + i, unpack8(*reinterpret_cast<const uint4*>(from + i)));
  }
}

// Block: a row; thread: a frequency. In double precision, since angles grow to the context's length.
__global__ void rope_angles_kernel(const double* inverse_frequencies, const int32_t* positions, float* cos,
                                   float* sin) {
  cuda::let_next_start();
  cuda::wait_for_previous();
  const size_t at = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  double s, c;
  sincos(positions[blockIdx.x] * inverse_frequencies[threadIdx.x], &s, &c);
  cos[at] = static_cast<float>(c);
  sin[at] = static_cast<float>(s);
}

// What is added to x before the norm.
enum class Added { kNothing, kParts, kValues };

// Block: a row. A thread holds kPieces times eight values of it.
constexpr int kNormThreads = 512;
template <int kPieces, Added kAdded>
__global__ void __launch_bounds__(kNormThreads)
    rms_norm_kernel(float* x, LinearSum added, const float* weight, float eps, int width, __nv_bfloat16* out) {
  cuda::let_next_start();
  int feature[kPieces], num_parts[kPieces];
  Values8 weights[kPieces];
#pragma unroll
  for (int k = 0; k < kPieces; ++k) {
    // A thread past the row's end takes its last piece and does not count.
    feature[k] = min((static_cast<int>(threadIdx.x) + k * kNormThreads) * 8, width - 8);
    weights[k] = load8(weight + feature[k]);
    num_parts[k] = kAdded == Added::kParts ? added.num_parts_at(feature[k]) : 0;
  }
  cuda::wait_for_previous();
  const int row = blockIdx.x;
  float* x_row = x + static_cast<size_t>(row) * width;
  Values8 values[kPieces], sums[kPieces];
#pragma unroll
  for (int k = 0; k < kPieces; ++k) values[k] = load8(x_row + feature[k]);
  if constexpr (kAdded != Added::kNothing) load_pieces<kAdded == Added::kParts>(added, row, feature, num_parts, sums);
  float squares = 0;
#pragma unroll
  for (int k = 0; k < kPieces; ++k) {
    if ((threadIdx.x + k * kNormThreads) * 8 >= width) continue;
    if constexpr (kAdded != Added::kNothing) {
#pragma unroll
      for (int i = 0; i < 8; ++i) values[k].v[i] += sums[k].v[i];
      store8(x_row + feature[k], values[k]);
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) squares += values[k].v[i] * values[k].v[i];
  }

  __shared__ float warp_squares[kNormThreads / 32];
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) squares += __shfl_xor_sync(0xffffffffu, squares, offset);
  if (threadIdx.x % 32 == 0) warp_squares[threadIdx.x / 32] = squares;
  __syncthreads();
  squares = warp_squares[threadIdx.x % (kNormThreads / 32)];
#pragma unroll
  for (int offset = kNormThreads / 64; offset > 0; offset /= 2)
    squares += __shfl_xor_sync(0xffffffffu, squares, offset);
  const float scale = rsqrtf(squares / static_cast<float>(width) + eps);

#pragma unroll
  for (int k = 0; k < kPieces; ++k) {
    if ((threadIdx.x + k * kNormThreads) * 8 >= width) continue;
#pragma unroll
    for (int i = 0; i < 8; ++i) values[k].v[i] *= scale * weights[k].v[i];
    store8(out + static_cast<size_t>(row) * width + feature[k], values[k]);
  }
}

// Few and large blocks here and below: the kernel behind begins to read ahead once all of them have started, and beside
// a matrix product a multiprocessor has room for one.

// Thread: dims d .. d + 7 of a head and their partners half a head further, which RoPE turns together.
constexpr int kRopeThreads = 384;
template <bool kParts>
__global__ void rope_append_kv_kernel(AttentionShape shape, LinearSum qkv, const float* cos, const float* sin,
                                      const int32_t* slots, __nv_bfloat16* q, CudaKvLayer kv) {
  cuda::let_next_start();
  const int half = shape.head_dim / 2, threads_per_head = half / 8;
  const int thread = blockIdx.y * kRopeThreads + threadIdx.x;
  const int head = thread / threads_per_head, dim = thread % threads_per_head * 8;
  const int kv_head = head - shape.num_qo_heads, v_head = kv_head - shape.num_kv_heads;
  const int feature[] = {head * shape.head_dim + dim, head * shape.head_dim + dim + half};
  const int num_parts[] = {kParts ? qkv.num_parts_at(feature[0]) : 0, kParts ? qkv.num_parts_at(feature[1]) : 0};
  cuda::wait_for_previous();
  if (v_head >= shape.num_kv_heads) return;

  const int row = blockIdx.x;
  Values8 pieces[2];
  load_pieces<kParts>(qkv, row, feature, num_parts, pieces);
  auto& [low, high] = pieces;
  if (v_head < 0) {
    const Values8 c = load8(cos + static_cast<size_t>(row) * half + dim);
    const Values8 s = load8(sin + static_cast<size_t>(row) * half + dim);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float turned = low.v[i] * c.v[i] - high.v[i] * s.v[i];
      high.v[i] = high.v[i] * c.v[i] + low.v[i] * s.v[i];
      low.v[i] = turned;
    }
  }
  if (kv_head < 0) {
    __nv_bfloat16* to = q + (static_cast<size_t>(row) * shape.num_qo_heads + head) * shape.head_dim + dim;
    store8(to, low);
    store8(to + half, high);
    return;
  }
  const int slot = slots[row];
  if (slot < 0) return;
  __nv_bfloat16* to = v_head < 0 ? kv.k : kv.v;
  const int page = slot / kCudaPageSize, in_page = slot % kCudaPageSize, to_head = v_head < 0 ? kv_head : v_head;
  store8(to + cuda_kv_offset(shape, page, to_head, in_page, dim), low);
  store8(to + cuda_kv_offset(shape, page, to_head, in_page, dim + half), high);
}

// Block: a row of the result.
constexpr int kGatherThreads = 256;
__global__ void gather_rows_kernel(const int32_t* rows, const float* x, int hidden, float* kept_x,
                                   const __nv_bfloat16* attention, int attention_width, __nv_bfloat16* kept_attention) {
  cuda::let_next_start();
  cuda::wait_for_previous();
  const size_t from = rows[blockIdx.x], to = blockIdx.x;
  for (int i = threadIdx.x * 4; i < hidden; i += kGatherThreads * 4)
    *reinterpret_cast<float4*>(kept_x + to * hidden + i) = *reinterpret_cast<const float4*>(x + from * hidden + i);
  for (int i = threadIdx.x * 8; i < attention_width; i += kGatherThreads * 8)
    *reinterpret_cast<uint4*>(kept_attention + to * attention_width + i) =
        *reinterpret_cast<const uint4*>(attention + from * attention_width + i);
}

// A thread takes eight features of a row at a time.
constexpr int kSiluThreads = 512;
template <bool kParts>
__global__ void silu_mul_kernel(LinearSum gate_up, int intermediate, __nv_bfloat16* out) {
  cuda::let_next_start();
  cuda::wait_for_previous();
  const int row_pieces = intermediate / 8, num_pieces = gate_up.num_rows * row_pieces;
  for (int piece = blockIdx.x * kSiluThreads + threadIdx.x; piece < num_pieces; piece += gridDim.x * kSiluThreads) {
    const int row = piece / row_pieces, at = (piece - row * row_pieces) * 8;
    const int feature[] = {at, intermediate + at};
    const int num_parts[] = {kParts ? gate_up.num_parts_at(feature[0]) : 0,
                             kParts ? gate_up.num_parts_at(feature[1]) : 0};
    Values8 pieces[2];
    load_pieces<kParts>(gate_up, row, feature, num_parts, pieces);
    auto& [gate, up] = pieces;
#pragma unroll
    for (int i = 0; i < 8; ++i) gate.v[i] = gate.v[i] / (1 + __expf(-gate.v[i])) * up.v[i];
    store8(out + static_cast<size_t>(piece) * 8, gate);
  }
}

int ceil_div(int a, int b) { return (a + b - 1) / b; }

template <Added kAdded>
auto choose_norm_kernel(int width) {
  const int num_pieces = ceil_div(width, 8 * kNormThreads);
  if (num_pieces <= 1) return rms_norm_kernel<1, kAdded>;
  if (num_pieces <= 2) return rms_norm_kernel<2, kAdded>;
  ensure(num_pieces <= 4, "check_cuda_config bounds hidden_size");
  return rms_norm_kernel<4, kAdded>;
}

// Kernels between matrix products start beside them only where a multiprocessor's memory need not be divided anew.
template <class... Kernels>
void prefer_shared_memory(Kernels... kernels) {
  const auto prefer = [](auto kernel) {
    cuda::check(
        cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared),
        "cannot set the division of the GPU's memory");
  };
  (prefer(kernels), ...);
}

}  // namespace

CudaOps::CudaOps(const CudaLlamaWeights& weights, std::span<const CudaKvLayer> kv, const AttentionShape& shape,
                 int device_index, int max_rows, const cuda::Stream& stream, cuda::StageTimer* timer)
    : weights_(weights),
      kv_(kv),
      shape_(shape),
      device_(attention::query_cuda_device(device_index, shape.head_dim)),
      stream_(stream),
      timer_(timer),
      overlaps_(device_.compute_capability >= 90),
      linear_(device_index),
      plan_(shape, device_),
      max_rows_(std::max(max_rows, kMaxStreamRows)) {
  const LlamaConfig& config = weights.config;
  prefer_shared_memory(embed_kernel, rope_angles_kernel, rope_append_kv_kernel<true>, gather_rows_kernel,
                       silu_mul_kernel<true>, choose_norm_kernel<Added::kNothing>(config.hidden_size),
                       choose_norm_kernel<Added::kParts>(config.hidden_size));
  const auto add = [&](const CudaWeight& weight) { linear_ids_[weight.data] = linear_.add(weight); };
  for (const CudaLlamaLayerWeights& layer : weights.layers) {
    add(layer.qkv);
    add(layer.attention_out);
    add(layer.gate_up);
    add(layer.down);
  }
  lm_head_id_ = linear_.add(weights.lm_head(), LinearResult::kFloats);

  const size_t rows = max_rows_, hidden = config.hidden_size, intermediate = config.intermediate_size;
  const size_t q = static_cast<size_t>(shape.num_qo_heads) * shape.head_dim;
  const size_t qkv = q + 2 * static_cast<size_t>(shape.num_kv_heads) * shape.head_dim;
  x_ = cuda::DeviceBuffer<float>(rows * hidden);
  kept_x_ = cuda::DeviceBuffer<float>(rows * hidden);
  h_ = cuda::DeviceBuffer<__nv_bfloat16>(rows * hidden);
  cos_ = cuda::DeviceBuffer<float>(rows * shape.head_dim / 2);
  sin_ = cuda::DeviceBuffer<float>(rows * shape.head_dim / 2);
  q_ = cuda::DeviceBuffer<__nv_bfloat16>(rows * q);
  attention_ = cuda::DeviceBuffer<__nv_bfloat16>(rows * q);
  mlp_ = cuda::DeviceBuffer<__nv_bfloat16>(rows * intermediate);
  parts_ = cuda::DeviceBuffer<float>(linear_.max_part_values(kMaxStreamRows));
  values_ = cuda::DeviceBuffer<__nv_bfloat16>(rows * std::max({qkv, hidden, 2 * intermediate}));
  staging_ = cuda::PinnedBuffer<int32_t>(4 * rows);
  inputs_ = cuda::DeviceBuffer<int32_t>(4 * rows);
  plan_.reserve(kReservedPlanBytes, kReservedPartials);
  // Rows of padding have no attention of their own; what they read must be numbers.
  cuda::check(cudaMemset(attention_.data(), 0, attention_.bytes()), "cannot clear GPU memory");
}

bool CudaOps::begin_step(const StepBatch& batch, const attention::Plan& plan) {
  copy_inputs(batch);
  return plan_.upload(plan, stream_.get());
}

void CudaOps::begin_appended_step(const StepBatch& batch) {
  copy_inputs(batch);
  plan_.upload_appended(stream_.get());
}

void CudaOps::copy_inputs(const StepBatch& batch) {
  const int rows = batch.num_queries();
  ensure(rows <= max_rows_ && batch.num_logits() <= rows, "a step fits the buffers");
  num_step_rows_ = rows;
  uploaded_.synchronize();
  int32_t* to = staging_.data();
  for (const std::vector<int32_t>* values : {&batch.tokens, &batch.positions, &batch.slots, &batch.logit_rows})
    to = std::copy(values->begin(), values->end(), to);
  cuda::check(cudaMemcpyAsync(inputs_.data(), staging_.data(), (to - staging_.data()) * sizeof(int32_t),
                              cudaMemcpyHostToDevice, stream_.get()),
              "cannot copy a step's tokens to the GPU");
  uploaded_.record(stream_);
}

CudaActivations CudaOps::activations(int) {
  return {.x = x_.data(),
          .h = h_.data(),
          .cos = cos_.data(),
          .sin = sin_.data(),
          .qkv = {},
          .q = q_.data(),
          .attention = attention_.data(),
          .out = {},
          .gate_up = {},
          .mlp = mlp_.data(),
          .mlp_stride = weights_.config.intermediate_size};
}

template <class... Parameters, class... Args>
void CudaOps::launch(void (*kernel)(Parameters...), dim3 grid, int threads, const char* what, const Args&... args) {
  if (grid.x == 0) return;
  cuda::launch_chained(kernel, grid, dim3(threads), 0, stream_.get(), overlaps_, what, args...);
}

void CudaOps::embed(const CudaWeight& table, std::span<const int32_t> tokens, float* out) {
  if (timer_ != nullptr) timer_->restart();
  enter(kOtherStage);
  launch(embed_kernel, dim3(tokens.size()), kEmbedThreads, "cannot launch the embedding", table.data, inputs_.data(),
         table.in_features, out);
}

void CudaOps::rope_angles(std::span<const int32_t> positions, const CudaActivations& a) {
  launch(rope_angles_kernel, dim3(positions.size()), shape_.head_dim / 2, "cannot launch the RoPE angles",
         weights_.rope_inverse_frequencies, inputs_.data() + positions.size(), a.cos, a.sin);
}

template <class Kernel>
void CudaOps::norm(Kernel kernel, float* x, const LinearSum& added, const float* weight, int num_rows,
                   __nv_bfloat16* out) {
  launch(kernel, dim3(num_rows), kNormThreads, "cannot launch RMSNorm", x, added, weight,
         static_cast<float>(weights_.config.rms_norm_eps), weights_.config.hidden_size, out);
}

void CudaOps::rms_norm(float* x, const float* weight, int num_rows, __nv_bfloat16* out) {
  norm(choose_norm_kernel<Added::kNothing>(weights_.config.hidden_size), x, {}, weight, num_rows, out);
}

void CudaOps::add_rms_norm(const CudaActivations& a, const float* weight, int num_rows) {
  const int width = weights_.config.hidden_size;
  norm(a.out.values == nullptr ? choose_norm_kernel<Added::kParts>(width) : choose_norm_kernel<Added::kValues>(width),
       a.x, a.out, weight, num_rows, a.h);
}

void CudaOps::linear(const CudaWeight& weight, const __nv_bfloat16* x, int ldx, int num_rows, LinearSum& y) {
  ensure(ldx == weight.in_features, "the rows of a product's input are packed");
  enter(kLinearStage);
  y = {};
  if (num_rows > 0)
    y = linear_.run(linear_ids_.at(weight.data), x, num_rows, parts_.data(), values_.data(), stream_.get());
  enter(kOtherStage);
}

void CudaOps::rope_append_kv(int layer, const CudaActivations& a, std::span<const int32_t> slots) {
  const int threads = (shape_.num_qo_heads + 2 * shape_.num_kv_heads) * shape_.head_dim / 16;
  launch(a.qkv.values == nullptr ? rope_append_kv_kernel<true> : rope_append_kv_kernel<false>,
         dim3(slots.size(), ceil_div(threads, kRopeThreads)), kRopeThreads, "cannot launch RoPE", shape_, a.qkv, a.cos,
         a.sin, inputs_.data() + 2 * slots.size(), a.q, kv_[layer]);
}

void CudaOps::attention(int layer, const attention::Plan&, const CudaActivations& a) {
  enter(kAttentionStage);
  const attention::CudaAttentionParams params{.shape = shape_,
                                              .sm_scale = 1.0f / std::sqrt(static_cast<float>(shape_.head_dim)),
                                              .q = a.q,
                                              .q_stride = shape_.num_qo_heads * shape_.head_dim,
                                              .out = a.attention,
                                              .kv = kv_[layer]};
  attention::run(params, plan_, stream_.get());
  enter(kOtherStage);
}

int CudaOps::keep_rows(std::span<const int32_t> rows, CudaActivations& a) {
  const int num_rows = static_cast<int>(rows.size()), q = shape_.num_qo_heads * shape_.head_dim;
  launch(gather_rows_kernel, dim3(num_rows), kGatherThreads, "cannot launch the gathering of rows",
         inputs_.data() + 3 * num_step_rows_, a.x, weights_.config.hidden_size, kept_x_.data(), a.attention, q, a.q);
  a.x = kept_x_.data();
  a.attention = a.q;
  return num_rows;
}

void CudaOps::silu_mul(const CudaActivations& a, int num_rows) {
  const int intermediate = weights_.config.intermediate_size;
  const int num_blocks = ceil_div(num_rows * (intermediate / 8), kSiluThreads);
  if (a.gate_up.values != nullptr) {
    launch(silu_mul_kernel<false>, dim3(num_blocks), kSiluThreads, "cannot launch SiLU", a.gate_up, intermediate,
           a.mlp);
  } else {
    launch(silu_mul_kernel<true>, dim3(std::min(num_blocks, device_.num_processors)), kSiluThreads,
           "cannot launch SiLU", a.gate_up, intermediate, a.mlp);
  }
}

void CudaOps::lm_head(const __nv_bfloat16* hidden, int num_rows, float* logits) {
  enter(kLinearStage);
  if (num_rows > 0) linear_.run_to_floats(lm_head_id_, hidden, num_rows, logits, stream_.get());
  enter(kNumCudaStages);
}

}  // namespace deftree
