#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <string>

#include "cuda/buffer.h"
#include "cuda/stream.h"
#include "engine/cuda/sampler_cuda.h"
#include "engine/cuda/sampler_jobs.h"
#include "engine/cuda/sampler_kernel.cuh"

namespace deftree {

using namespace sampler;

namespace {

constexpr int kMinSlice = 8192;  // tokens that are worth a block
constexpr int kMaxCluster = 8;   // blocks, the size that every GPU with clusters can run

size_t align(size_t bytes) { return (bytes + 15) / 16 * 16; }

int device_attribute(cudaDeviceAttr attribute, int device) {
  int value = 0;
  cuda::check(cudaDeviceGetAttribute(&value, attribute, device), "cannot query the GPU");
  return value;
}

int slice_len_of(int vocab_size, int team_size) {
  return ((vocab_size + team_size - 1) / team_size + kChunk - 1) / kChunk * kChunk;
}

using Kernel = void (*)(SampleParams);

Kernel kernel_of(bool uses_clusters, bool is_greedy) {
  if (uses_clusters) return is_greedy ? sample_kernel<true, true> : sample_kernel<true, false>;
  return is_greedy ? sample_kernel<false, true> : sample_kernel<false, false>;
}

// Consecutive arrays in one block of bytes, each on a boundary of 16 bytes.
class Packing {
 public:
  template <class T>
  size_t add(size_t len) {
    const size_t at = bytes_;
    bytes_ += align(len * sizeof(T));
    return at;
  }
  size_t bytes() const { return bytes_; }

 private:
  size_t bytes_ = 0;
};

template <class T>
T* at(std::byte* block, size_t offset) {
  return reinterpret_cast<T*>(block + offset);
}

template <class Buffer>
void grow(Buffer& buffer, size_t bytes) {
  if (buffer.size() >= bytes) return;
  buffer = Buffer();
  buffer = Buffer(std::max<size_t>(std::bit_ceil(bytes), 4096));
}

}  // namespace

struct CudaSampler::State {
  int vocab_size;
  int team_size, slice_len, max_teams;
  bool uses_clusters;
  JobList list;
  cuda::DeviceBuffer<TeamScratch> scratch;  // [max_teams]
  cuda::PinnedBuffer<std::byte> staged;     // parameters, on their way to `parameters`
  cuda::DeviceBuffer<std::byte> parameters;
  cuda::PinnedBuffer<std::byte> results;  // which the kernel writes itself
  cuda::Stream upload;
  cuda::Event uploaded;

  State(int vocab_size, int max_requests, RowBarrier barrier);
  void run(const float* logits, cudaStream_t stream);
  const JobResult& job_result(size_t request) const { return at<JobResult>(results.data(), 0)[list.job_of(request)]; }
  const ScoredToken& drawn(size_t request) const {
    return at<ScoredToken>(results.data(), drawn_offset)[list.draw_of(request)];
  }
  const ScoredToken* top(size_t request) const {
    return at<ScoredToken>(results.data(), top_offset) + list.jobs()[list.job_of(request)].top_begin;
  }
  float log_sum_exp(const JobResult& result) const {
    const double sum = std::ldexp(static_cast<double>(result.sum), -weight_bits());
    return result.largest + static_cast<float>(std::log(sum));
  }

 private:
  int id_bits() const { return std::bit_width(static_cast<unsigned>(slice_len * team_size)); }
  int weight_bits() const { return 62 - id_bits(); }
  void launch(const SampleParams& params, int num_teams, cudaStream_t stream);

  size_t drawn_offset = 0, top_offset = 0;
};

CudaSampler::State::State(int vocab_size, int max_requests, RowBarrier barrier)
    : vocab_size(vocab_size), list(vocab_size) {
  if (vocab_size < 1 || max_requests < 1)
    throw Error(ErrorCode::kBadArgument, "a sampler needs a vocabulary and requests");
  int device = 0;
  cuda::check(cudaGetDevice(&device), "cannot query the GPU");
  uses_clusters = barrier == RowBarrier::kAuto && device_attribute(cudaDevAttrComputeCapabilityMajor, device) >= 9;
  const size_t max_shared_bytes = device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device);

  const unsigned wanted = static_cast<unsigned>((vocab_size + kMinSlice - 1) / kMinSlice);
  team_size = std::min<int>(std::bit_ceil(wanted), kMaxCluster);
  if (!uses_clusters) {
    while (team_size < kMaxTeam && sample_shared_bytes(slice_len_of(vocab_size, team_size), false) > max_shared_bytes)
      team_size *= 2;
  }
  slice_len = slice_len_of(vocab_size, team_size);
  const size_t shared_bytes = sample_shared_bytes(slice_len, false);
  if (shared_bytes > max_shared_bytes || slice_len > 2 * kListLen * kChunk) {
    throw Error(
        ErrorCode::kBadArgument,
        "a vocabulary of " + std::to_string(vocab_size) +
            " does not fit into the GPU's shared memory: " + std::to_string(team_size) + " blocks would need " +
            std::to_string(shared_bytes) + " bytes each, " + std::to_string(max_shared_bytes) + " can be had",
        {{"wanted_bytes", static_cast<double>(shared_bytes)}, {"free_bytes", static_cast<double>(max_shared_bytes)}});
  }
  const auto kernel = kernel_of(uses_clusters, false);
  cuda::check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)),
              "cannot prepare the sampling kernel");
  int blocks_per_processor = 0;
  cuda::check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks_per_processor, kernel, kThreads, shared_bytes),
              "cannot prepare the sampling kernel");
  const int num_blocks = blocks_per_processor * device_attribute(cudaDevAttrMultiProcessorCount, device);
  // Clusters may queue; blocks that wait for a counter must all be resident.
  max_teams = uses_clusters ? max_requests : std::min(max_requests, num_blocks / team_size);
  if (max_teams < 1) throw Error(ErrorCode::kDevice, "the GPU cannot run the blocks that share a row at the same time");
  scratch = cuda::DeviceBuffer<TeamScratch>(max_teams);
  cuda::check(cudaMemset(scratch.data(), 0, scratch.bytes()), "cannot clear the sampler's memory");
  cuda::check(cudaDeviceSynchronize(), "cannot clear the sampler's memory");
  grow(staged, max_requests * (sizeof(SampleJob) + sizeof(Draw)));
  grow(parameters, staged.size());
  grow(results, max_requests * (sizeof(JobResult) + sizeof(ScoredToken)));
}

// Uploads the listed jobs, launches, and waits.
void CudaSampler::State::run(const float* logits, cudaStream_t stream) {
  Packing up;
  const size_t jobs = up.add<SampleJob>(list.jobs().size());
  const size_t draws = up.add<Draw>(list.draws().size());
  const size_t edits = up.add<TokenEdit>(list.edits().size());
  const size_t masks = up.add<uint64_t>(list.masks().size());
  grow(staged, up.bytes());
  grow(parameters, up.bytes());
  const auto stage = [&](size_t offset, auto items) {
    if (!items.empty()) std::memcpy(staged.data() + offset, items.data(), items.size_bytes());
  };
  stage(jobs, list.jobs());
  stage(draws, list.draws());
  stage(edits, list.edits());
  stage(masks, list.masks());

  Packing down;
  const size_t job_results = down.add<JobResult>(list.jobs().size());
  drawn_offset = down.add<ScoredToken>(list.draws().size());
  top_offset = down.add<ScoredToken>(list.num_top());
  grow(results, down.bytes());

  // On a stream of its own: beside the forward pass that is still writing the logits.
  cuda::check(cudaMemcpyAsync(parameters.data(), staged.data(), up.bytes(), cudaMemcpyHostToDevice, upload.get()),
              "cannot copy sampling parameters to the GPU");
  uploaded.record(upload);
  cuda::check(cudaStreamWaitEvent(stream, uploaded.get()), "cannot wait for the sampling parameters");

  const int num_jobs = static_cast<int>(list.jobs().size());
  launch({.logits = logits,
          .vocab_size = vocab_size,
          .slice_len = slice_len,
          .team_size = team_size,
          .weight_bits = weight_bits(),
          .id_bits = id_bits(),
          .num_jobs = num_jobs,
          .jobs = at<SampleJob>(parameters.data(), jobs),
          .edits = at<TokenEdit>(parameters.data(), edits),
          .masks = at<uint64_t>(parameters.data(), masks),
          .draws = at<Draw>(parameters.data(), draws),
          .scratch = scratch.data(),
          .job_results = at<JobResult>(results.data(), job_results),
          .drawn = at<ScoredToken>(results.data(), drawn_offset),
          .top = at<ScoredToken>(results.data(), top_offset)},
         std::min(num_jobs, max_teams), stream);
  cuda::check(cudaStreamSynchronize(stream), "work on the GPU failed");
}

void CudaSampler::State::launch(const SampleParams& params, int num_teams, cudaStream_t stream) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(num_teams * team_size);
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = sample_shared_bytes(slice_len, list.is_greedy());
  config.stream = stream;
  cudaLaunchAttribute attribute{};
  if (uses_clusters) {
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {static_cast<unsigned>(team_size), 1, 1};
  } else {
    attribute.id = cudaLaunchAttributeCooperative;
    attribute.val.cooperative = 1;
  }
  config.attrs = &attribute;
  config.numAttrs = 1;
  cuda::check(cudaLaunchKernelEx(&config, kernel_of(uses_clusters, list.is_greedy()), params),
              "cannot launch the sampling kernel");
}

CudaSampler::CudaSampler(int vocab_size, int max_requests, RowBarrier barrier)
    : state_(std::make_unique<State>(vocab_size, max_requests, barrier)) {}

CudaSampler::~CudaSampler() = default;

void CudaSampler::sample(const float* logits, int num_rows, std::span<const SampleRequest> requests,
                         std::span<SampledToken> results, cudaStream_t stream) {
  if (requests.empty()) return;
  State& state = *state_;
  state.list.set_samples(requests, num_rows);
  state.run(logits, stream);
  for (size_t i = 0; i < requests.size(); ++i) {
    const JobResult& job = state.job_result(i);
    if (job.status == JobStatus::kNotFinite) {
      throw Error(ErrorCode::kBadModel, "the model's logits are not finite: its weights or its KV values overflow");
    }
    if (job.status == JobStatus::kRuledOut) {
      throw Error(ErrorCode::kBadArgument, "the grammar mask and logitBias rule out every token");
    }
    SampledToken& result = results[i];
    result.token = state.drawn(i).token;
    result.logprob = std::numeric_limits<float>::quiet_NaN();
    result.top.clear();
    result.successors.clear();
    const int num_logprobs = requests[i].params->num_logprobs;
    const int num_successors = requests[i].num_successors;
    if (num_logprobs < 0 && num_successors == 0) continue;
    const float lse = state.log_sum_exp(job);
    const auto add_top = [&](std::vector<TokenLogprob>& top, int num_wanted) {
      for (int j = 0; j < std::min(num_wanted, job.num_top); ++j) {
        top.push_back({state.top(i)[j].token, state.top(i)[j].logit - lse});
      }
    };
    if (num_logprobs >= 0) result.logprob = state.drawn(i).logit - lse;
    add_top(result.top, num_logprobs);
    add_top(result.successors, num_successors);
  }
}

void CudaSampler::log_probs(const float* logits, int num_rows, std::span<const int32_t> rows,
                            std::span<const int32_t> tokens, std::span<float> results, cudaStream_t stream) {
  if (rows.empty()) return;
  State& state = *state_;
  state.list.set_scores(rows, tokens, num_rows);
  state.run(logits, stream);
  for (size_t i = 0; i < rows.size(); ++i) results[i] = state.drawn(i).logit - state.log_sum_exp(state.job_result(i));
}

}  // namespace deftree
