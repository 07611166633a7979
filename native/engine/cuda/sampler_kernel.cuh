// sample_token (engine/sampler.h) on the GPU: one launch, a team of blocks per row.
//
// A block holds its slice of the row in shared memory and passes over it a few times; between the passes the team adds
// its results up in global memory (RowSampler::end_round). Nothing is sorted but short lists. The order "larger value
// first, then lower id" is cut, for top-k, top-p and draws along it, by a histogram: the bucket that holds the cut is
// found, and its tokens are either few enough to be listed and sorted, or get a histogram of their own with finer
// buckets.
//
//   greedy                       load, maximum                                            1 barrier of the team
//   temperature, min-p           + sums by chunks, draw by id                             2
//   top-k, top-p of a few        + histogram, list, one block sorts and draws             3
//   top-p of more than 1024      + finer histograms, list, sums by chunks, draw by id     about 6
//   top-k of more than 1024      likewise, and a search per draw
#pragma once

#include "engine/cuda/sampler_device.cuh"

namespace deftree::sampler {

// Where in a histogram a goal is reached.
struct Located {
  int bucket;
  Tally before, through;  // the order's prefixes that end before and behind the bucket
};

// A cut through the order: the last token kept, and the prefix that ends with it.
struct Cut {
  Key last;
  Tally through;
};

struct alignas(16) BlockStorage {
  Tally level[kBuckets];  // the histogram over the whole row, added up over the team
  union {
    struct {
      uint32_t count[kBuckets], mass_low[kBuckets], mass_high[kBuckets];
    } histogram;  // of the slice
    struct {
      Key keys[kListLen];
      Mass prefix[kListLen];  // sums of weights up to and with a key
    } list;
    Mass chunk_sums[2 * kListLen];
  };
  union {
    typename cub::BlockReduce<Best, kThreads>::TempStorage best;
    typename cub::BlockReduce<Mass, kThreads>::TempStorage mass;
    typename cub::BlockScan<Tally, kThreads>::TempStorage tally_scan;
    typename cub::BlockScan<Mass, kThreads>::TempStorage mass_scan;
  } cub;
  Located located;
  Tally total;
};

template <bool kClusters>
struct RowSampler {
  const SampleParams& params;
  BlockStorage& block;
  float* values;  // [slice_len] processed logits; NaN is -infinity, and so is what lies past the vocabulary
  TeamScratch& scratch;
  const int rank;
  const int slice_begin;
  int round = 0;

  __device__ RowSampler(const SampleParams& params, BlockStorage& block, float* values)
      : params(params),
        block(block),
        values(values),
        scratch(params.scratch[blockIdx.x / params.team_size]),
        rank(blockIdx.x % params.team_size),
        slice_begin(rank * params.slice_len) {}

  __device__ KeyFormat keys() const { return {params.id_bits}; }
  __device__ void sync() { sync_team<kClusters>(scratch, params.team_size); }

  // Calls body(value, token) for the thread's share of the slice.
  template <class Body>
  __device__ void for_each(Body body) const {
    for (int i = threadIdx.x * 4; i < params.slice_len; i += kThreads * 4) {
      const float4 v = *reinterpret_cast<const float4*>(values + i);
      body(v.x, slice_begin + i);
      body(v.y, slice_begin + i + 1);
      body(v.z, slice_begin + i + 2);
      body(v.w, slice_begin + i + 3);
    }
  }

  // Returns the best of the thread's share. kIsKept: the row goes to `values`.
  template <bool kIsKept>
  __device__ Best load(const float* row) {
    Best best{kNegInf, INT32_MAX};
    const auto consider = [&](float& value, int token) {
      if (!(value == value)) value = kNegInf;
      if (value > best.value) best = {value, token};
    };
    const int len = min(params.slice_len, max(0, params.vocab_size - slice_begin));
    const float* from = row + slice_begin;
    const bool is_aligned = reinterpret_cast<uintptr_t>(row) % 16 == 0;
    int begin = 0;
    if (is_aligned) {
      begin = len / 4 * 4;
#pragma unroll 4
      for (int i = threadIdx.x * 4; i < begin; i += kThreads * 4) {
        float4 v = __ldcg(reinterpret_cast<const float4*>(from + i));
        consider(v.x, slice_begin + i);
        consider(v.y, slice_begin + i + 1);
        consider(v.z, slice_begin + i + 2);
        consider(v.w, slice_begin + i + 3);
        if constexpr (kIsKept) *reinterpret_cast<float4*>(values + i) = v;
      }
    }
    for (int i = begin + threadIdx.x; i < params.slice_len; i += kThreads) {
      float value = i < len ? __ldcg(from + i) : kNegInf;
      consider(value, slice_begin + i);
      if constexpr (kIsKept) values[i] = value;
    }
    __syncthreads();
    return best;
  }

  // Repetition penalty, bias, grammar mask.
  __device__ void process(const SampleJob& job) {
    for (int i = job.edits_begin + threadIdx.x; i < job.edits_end; i += kThreads) {
      const TokenEdit edit = params.edits[i];
      const int at = edit.token - slice_begin;
      if (at < 0 || at >= params.slice_len) continue;
      float value = values[at];
      if (edit.is_penalized != 0) value = value > 0 ? value / job.penalty : value * job.penalty;
      value += edit.bias;
      values[at] = value == value ? value : kNegInf;
    }
    __syncthreads();
    if (job.mask_words == 0) return;
    const uint64_t* mask = params.masks + job.mask_begin;
    for (int i = threadIdx.x; i < params.slice_len; i += kThreads) {
      const int token = slice_begin + i;
      const bool is_allowed = token / 64 < job.mask_words && (mask[token / 64] >> (token % 64) & 1) != 0;
      if (!is_allowed) values[i] = kNegInf;
    }
    __syncthreads();
  }

  // The team's largest value and its lowest token, from each thread's. `slot`: 0 for the raw, 1 for the processed
  // values.
  __device__ Best find_best(int slot, Best mine) {
    mine = cub::BlockReduce<Best, kThreads>(block.cub.best).Reduce(mine, BetterOf{});
    if (threadIdx.x == 0) scratch.best[slot][rank] = mine;
    sync();
    Best best{kNegInf, INT32_MAX};
    for (int i = 0; i < params.team_size; ++i) {
      const Best* other = &scratch.best[slot][i];
      best = BetterOf{}(best, {__ldcg(&other->value), __ldcg(&other->token)});
    }
    return best;
  }

  // Adds up the team's sums; behind a barrier of the team, and `before` is the share of the blocks in front of this
  // one.
  __device__ Mass read_sums(int slot, Mass* before = nullptr) const {
    Mass sum = 0;
    for (int i = 0; i < params.team_size; ++i) {
      if (i == rank && before != nullptr) *before = sum;
      sum += __ldcg(&scratch.mass[slot][i]);
    }
    return sum;
  }
  __device__ void write_sum(int slot, Mass mine) {
    mine = cub::BlockReduce<Mass, kThreads>(block.cub.mass).Sum(mine);
    if (threadIdx.x == 0) scratch.mass[slot][rank] = mine;
  }

  __device__ Round& begin_round() {
    Round& next = scratch.rounds[(round + 1) % 3];
    if (rank == 0) {
      next.count[threadIdx.x] = 0;
      next.mass[threadIdx.x] = 0;
      if (threadIdx.x == 0) next.list_len = 0;
    }
    return scratch.rounds[round];
  }
  __device__ void end_round() {
    sync();
    round = (round + 1) % 3;
  }

  // Counts tokens by bucket_of(value, token), a bucket or -1, over the team; every thread gets its bucket's tally.
  template <class BucketOf>
  __device__ Tally count_buckets(const Softmax& softmax, bool with_mass, BucketOf bucket_of) {
    auto& histogram = block.histogram;
    const int thread = threadIdx.x;
    __syncthreads();
    histogram.count[thread] = histogram.mass_low[thread] = histogram.mass_high[thread] = 0;
    Round& team = begin_round();
    __syncthreads();
    for_each([&](float value, int token) {
      const int bucket = value > kNegInf ? bucket_of(value, token) : -1;
      if (bucket < 0) return;
      atomicAdd(&histogram.count[bucket], 1u);
      if (!with_mass) return;
      // Shared memory adds 64 bits only by compare and swap; two words with a carry are faster.
      const Mass mass = softmax.mass(softmax.weight(value));
      const uint32_t low = static_cast<uint32_t>(mass);
      uint32_t high = static_cast<uint32_t>(mass >> 32);
      if (low != 0 && atomicAdd(&histogram.mass_low[bucket], low) > ~low) ++high;
      if (high != 0) atomicAdd(&histogram.mass_high[bucket], high);
    });
    __syncthreads();
    if (histogram.count[thread] != 0) atomicAdd(&team.count[thread], histogram.count[thread]);
    const Mass mass = static_cast<Mass>(histogram.mass_high[thread]) << 32 | histogram.mass_low[thread];
    if (mass != 0) atomicAdd(&team.mass[thread], mass);
    end_round();
    return {__ldcg(&team.mass[thread]), __ldcg(&team.count[thread])};
  }

  // The histogram over all tokens into block.level; returns the whole.
  __device__ Tally count_level(const Softmax& softmax, bool with_mass) {
    const Tally mine = count_buckets(softmax, with_mass, [&](float value, int) { return softmax.bucket(value); });
    block.level[threadIdx.x] = mine;
    Tally before, total;
    cub::BlockScan<Tally, kThreads>(block.cub.tally_scan).ExclusiveScan(mine, before, Tally{0, 0}, Sum{}, total);
    __syncthreads();
    return total;
  }

  // The bucket in which the goal is reached, given the thread's bucket's tally and the prefix in front of the
  // histogram.
  __device__ Located locate(Goal goal, Tally mine, Tally before_all) {
    Tally before, total;
    cub::BlockScan<Tally, kThreads>(block.cub.tally_scan).ExclusiveScan(mine, before, Tally{0, 0}, Sum{}, total);
    before = before_all + before;
    if (!goal.is_reached(before) && goal.is_reached(before + mine)) {
      block.located = {static_cast<int>(threadIdx.x), before, before + mine};
    }
    __syncthreads();
    const Located located = block.located;
    __syncthreads();
    return located;
  }

  // Lists the keys of the tokens for which `is_wanted` over the team; returns the round that holds them.
  template <class IsWanted>
  __device__ Round& list_tokens(IsWanted is_wanted) {
    Round& team = begin_round();
    for_each([&](float value, int token) {
      if (!(value > kNegInf)) return;
      const Key key = keys().key(value, token);
      if (!is_wanted(value, key)) return;
      const uint32_t at = atomicAdd(&team.list_len, 1u);
      if (at < kListLen) team.list[at] = key;
    });
    end_round();
    return team;
  }

  // Sorts a listed round into block.list and adds its weights up; returns its length.
  __device__ int sort_list(const Round& team, const Softmax& softmax) {
    constexpr int kEach = kListLen / kThreads;
    const int n = min(__ldcg(&team.list_len), static_cast<uint32_t>(kListLen));
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += kThreads) block.list.keys[i] = __ldcg(&team.list[i]);
    sort_keys(block.list.keys, n);
    Mass mass[kEach];
    for (int i = 0; i < kEach; ++i) {
      const int at = threadIdx.x * kEach + i;
      mass[i] = at < n ? softmax.mass(softmax.weight(keys().value(block.list.keys[at]))) : 0;
    }
    cub::BlockScan<Mass, kThreads>(block.cub.mass_scan).InclusiveSum(mass, mass);
    for (int i = 0; i < kEach; ++i) block.list.prefix[threadIdx.x * kEach + i] = mass[i];
    __syncthreads();
    return n;
  }

  // Cuts the order where the goal is reached, in `located`'s bucket of block.level. Every block finds the same.
  __device__ Cut find_cut(const Softmax& softmax, Goal goal, Located located) {
    Key begin = keys().bucket_begin(softmax, located.bucket), end = keys().bucket_begin(softmax, located.bucket + 1);
    while (located.through.count - located.before.count > kListLen) {
      const int range_bits = 64 - __clzll(end - begin - 1);
      const int shift = max(0, range_bits - kBucketBits);
      const Tally mine = count_buckets(softmax, true, [&](float value, int token) {
        const Key key = keys().key(value, token);
        return key >= begin && key < end ? static_cast<int>((key - begin) >> shift) : -1;
      });
      located = locate(goal, mine, located.before);
      begin += static_cast<Key>(located.bucket) << shift;
      end = min(end, begin + (Key{1} << shift));
    }
    const Round& team = list_tokens([&](float, Key key) { return key >= begin && key < end; });
    const int n = sort_list(team, softmax);
    const auto prefix = [&](int i) {
      return located.before + Tally{block.list.prefix[i], static_cast<uint32_t>(i + 1)};
    };
    const int last = min(n - 1, first_index(n, [&](int i) { return goal.is_reached(prefix(i)); }));
    const Cut cut{block.list.keys[last], prefix(last)};
    __syncthreads();
    return cut;
  }

  // Makes a list of the order's prefix that ends with the goal's bucket or, if that is too long, with the goal. The
  // list has the goal's token unless `cut` says that even that is too long; then there is none and `cut` is where the
  // goal is.
  __device__ const Round* list_prefix(const Softmax& softmax, Goal goal, Cut& cut) {
    const Located located = locate(goal, block.level[threadIdx.x], {0, 0});
    if (located.through.count <= kListLen) {
      return &list_tokens([&](float value, Key) { return softmax.bucket(value) <= located.bucket; });
    }
    cut = find_cut(softmax, goal, located);
    if (cut.through.count > kListLen) return nullptr;
    return &list_tokens([&](float, Key key) { return key <= cut.last; });
  }

  __device__ void write_draw(const SampleJob& job, int draw, int token) {
    params.drawn[draw] = {token, params.logits[static_cast<size_t>(job.row) * params.vocab_size + token]};
  }
  __device__ void write_all_draws(const SampleJob& job, int token) {
    if (rank != 0) return;
    for (int i = job.draws_begin + threadIdx.x; i < job.draws_end; i += kThreads) write_draw(job, i, token);
  }

  // The likeliest tokens of the unprocessed distribution; returns how many there are.
  __device__ int write_top(const SampleJob& job, const Softmax& softmax) {
    const Tally whole = count_level(softmax, false);
    Cut cut;
    const Goal goal{min(static_cast<Mass>(job.num_top), static_cast<Mass>(whole.count)), false};
    const Round* team = list_prefix(softmax, goal, cut);
    if (rank != 0) return 0;
    const int n = min(job.num_top, sort_list(*team, softmax));
    for (int i = threadIdx.x; i < n; i += kThreads) {
      const Key key = block.list.keys[i];
      params.top[job.top_begin + i] = {keys().token(key), keys().value(key)};
    }
    return n;
  }

  // Top-k, top-p and min-p of a listed prefix of the order, then the draws along the order. top-p is a share of
  // `whole`; 0: of what top-k left.
  __device__ void draw_from_list(const SampleJob& job, const Softmax& softmax, const Round& team, Mass whole) {
    if (rank != 0) return;
    int kept = min(sort_list(team, softmax), job.top_k);
    const Mass* prefix = block.list.prefix;
    if (job.top_p < 1) {
      const Mass goal = mass_goal(job.top_p, whole != 0 ? whole : prefix[kept - 1]);
      kept = min(kept, first_index(kept, [&](int i) { return prefix[i] >= goal; }) + 1);
    }
    kept = max(1, first_index(kept, [&](int i) {
                 return softmax.weight(keys().value(block.list.keys[i])) < job.weight_floor;
               }));
    for (int i = job.draws_begin + threadIdx.x; i < job.draws_end; i += kThreads) {
      const Mass target = draw_target(params.draws[i].uniform, prefix[kept - 1]);
      write_draw(job, i, keys().token(block.list.keys[first_index(kept, [&](int j) { return prefix[j] > target; })]));
    }
  }

  // Draws by id among the tokens whose weights reach the floor and, if kIsCut, which are in the order's prefix up to
  // `last`: the block, then the chunk, then the token in which the sum passes the target.
  template <bool kIsCut>
  __device__ void draw_by_id(const SampleJob& job, const Softmax& softmax, Key last) {
    constexpr int kLine = 32 * 4;  // tokens that a warp takes at once
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, num_chunks = params.slice_len / kChunk;
    const float floor = job.weight_floor;
    const auto mass_of = [&](float value, int token) {
      const float weight = softmax.weight(value);
      if (weight < floor || (kIsCut && keys().key(value, token) > last)) return Mass{0};
      return softmax.mass(weight);
    };
    const auto masses_of = [&](int at, Mass(&mass)[4]) {
      const float4 v = *reinterpret_cast<const float4*>(values + at);
      mass[0] = mass_of(v.x, slice_begin + at);
      mass[1] = mass_of(v.y, slice_begin + at + 1);
      mass[2] = mass_of(v.z, slice_begin + at + 2);
      mass[3] = mass_of(v.w, slice_begin + at + 3);
      return mass[0] + mass[1] + mass[2] + mass[3];
    };
    Mass mine = 0;
    __syncthreads();
    for (int chunk = warp; chunk < num_chunks; chunk += kThreads / 32) {
      Mass lane_sum = 0;
      for (int line = 0; line < kChunk; line += kLine) {
        Mass mass[4];
        lane_sum += masses_of(chunk * kChunk + line + lane * 4, mass);
      }
      mine += lane_sum;
      const Mass sum = warp_sum(lane_sum);
      if (lane == 0) block.chunk_sums[chunk] = sum;
    }
    write_sum(1, mine);
    sync();
    Mass before_slice = 0;
    const Mass whole = read_sums(1, &before_slice), in_slice = __ldcg(&scratch.mass[1][rank]);
    for (int i = job.draws_begin + warp; i < job.draws_end; i += kThreads / 32) {
      Mass target = draw_target(params.draws[i].uniform, whole);
      if (target < before_slice || target - before_slice >= in_slice) continue;
      target -= before_slice;
      int chunk = 0;
      while (target >= block.chunk_sums[chunk]) target -= block.chunk_sums[chunk++];
      for (int line = chunk * kChunk;; line += kLine) {
        Mass mass[4];
        const Mass lane_sum = masses_of(line + lane * 4, mass);
        const Mass prefix = warp_inclusive_sum(lane_sum, lane);
        const unsigned above = __ballot_sync(~0u, prefix > target);
        if (above == 0) {
          target -= __shfl_sync(~0u, prefix, 31);
          continue;
        }
        if (lane == __ffs(above) - 1) {
          target -= prefix - lane_sum;
          int at = 0;
          while (at < 3 && mass[at] <= target) target -= mass[at++];
          write_draw(job, i, slice_begin + line + lane * 4 + at);
        }
        break;
      }
    }
  }

  // Draws along the order among more tokens than a list holds: a search for each draw.
  __device__ void draw_in_order(const SampleJob& job, const Softmax& softmax, Cut kept) {
    Mass mine = 0;
    for_each([&](float value, int token) {
      const float weight = softmax.weight(value);
      if (weight >= job.weight_floor && keys().key(value, token) <= kept.last) mine += softmax.mass(weight);
    });
    write_sum(1, mine);
    sync();
    const Mass whole = read_sums(1);
    for (int i = job.draws_begin; i < job.draws_end; ++i) {
      const Goal goal{draw_target(params.draws[i].uniform, whole) + 1, true};
      const Cut drawn = find_cut(softmax, goal, locate(goal, block.level[threadIdx.x], {0, 0}));
      if (rank == 0 && threadIdx.x == 0) write_draw(job, i, keys().token(drawn.last));
    }
  }

  __device__ void draw(const SampleJob& job, const Softmax& softmax) {
    const bool cuts_k = job.top_k < params.vocab_size;
    if (!cuts_k && job.top_p >= 1) return draw_by_id<false>(job, softmax, 0);

    // A list gives the masses of its tokens itself.
    const bool needs_mass = !cuts_k || job.top_k > kListLen;
    const Tally whole = count_level(softmax, needs_mass);
    const Goal goal = cuts_k ? Goal{min(static_cast<Mass>(job.top_k), static_cast<Mass>(whole.count)), false}
                             : Goal{mass_goal(job.top_p, whole.mass), true};
    Cut cut;
    Mass top_p_whole = cuts_k ? 0 : whole.mass;
    const Round* list = list_prefix(softmax, goal, cut);
    if (list == nullptr && cuts_k && job.top_p < 1) {
      top_p_whole = cut.through.mass;
      list = list_prefix(softmax, {mass_goal(job.top_p, top_p_whole), true}, cut);
    }
    if (list != nullptr) return draw_from_list(job, softmax, *list, top_p_whole);
    if (cuts_k) return draw_in_order(job, softmax, cut);
    draw_by_id<true>(job, softmax, cut.last);
  }

  __device__ bool is_writer() const { return rank == 0 && threadIdx.x == 0; }

  // The largest logit; begins the job's result.
  template <bool kIsKept>
  __device__ Best begin(const SampleJob& job, JobResult& result) {
    const Best best = find_best(0, load<kIsKept>(params.logits + static_cast<size_t>(job.row) * params.vocab_size));
    const bool is_drawable = job.kind == JobKind::kScore || isfinite(best.value);
    if (is_writer()) result = {0, best.value, 0, is_drawable ? JobStatus::kOk : JobStatus::kNotFinite};
    return best;
  }

  // A greedy job without edits, mask and log-probabilities: one pass that keeps nothing.
  __device__ void run_greedy(const SampleJob& job, JobResult& result) {
    const Best best = begin<false>(job, result);
    if (isfinite(best.value)) write_all_draws(job, best.token);
  }

  __device__ void run(const SampleJob& job, JobResult& result) {
    const float mass_scale = static_cast<float>(Mass{1} << params.weight_bits);
    Best best = begin<true>(job, result);
    if (job.kind != JobKind::kScore && !isfinite(best.value)) return;
    if (job.wants_sum != 0) {
      const Softmax softmax{best.value, 1.0f, mass_scale};
      Mass mine = 0;
      for_each([&](float value, int) { mine += softmax.mass(softmax.weight(value)); });
      write_sum(0, mine);
      sync();
      const int num_top = job.num_top > 0 ? write_top(job, softmax) : 0;
      if (is_writer()) {
        result.sum = read_sums(0);
        result.num_top = num_top;
      }
    }
    if (job.kind == JobKind::kScore) {
      if (rank != 0) return;
      for (int i = job.draws_begin + threadIdx.x; i < job.draws_end; i += kThreads) {
        write_draw(job, i, params.draws[i].token);
      }
      return;
    }
    if (job.edits_begin < job.edits_end || job.mask_words > 0) {
      __syncthreads();
      process(job);
      Best mine{kNegInf, INT32_MAX};
      for_each([&](float value, int token) {
        if (value > mine.value) mine = {value, token};
      });
      best = find_best(1, mine);
      if (!(best.value > kNegInf)) {
        if (is_writer()) result.status = JobStatus::kRuledOut;
        return;
      }
    }
    // A bias may be infinite: then the softmax is all at its token.
    if (job.kind == JobKind::kGreedy || isinf(best.value)) return write_all_draws(job, best.token);
    draw(job, {best.value, job.scale, mass_scale});
  }

  struct Sum {
    __device__ __forceinline__ Tally operator()(Tally a, Tally b) const { return a + b; }
  };
};

// Blocks that run beside one another on a multiprocessor: 8.9 has room for 1536 threads, 8.0 and 9.0 for 2048.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ == 890
constexpr int kGreedyBlocks = 3;
#else
constexpr int kGreedyBlocks = 4;
#endif

// grid: teams * team_size blocks, in clusters of team_size; a team takes every teams-th job. kIsGreedy: all jobs are
// greedy without edits, mask and log-probabilities. Dynamic shared memory: sample_shared_bytes.
template <bool kClusters, bool kIsGreedy>
__global__ void __launch_bounds__(kThreads, kIsGreedy ? kGreedyBlocks : 2)
    sample_kernel(const __grid_constant__ SampleParams params) {
  extern __shared__ __align__(16) unsigned char shared[];
  BlockStorage& block = *reinterpret_cast<BlockStorage*>(shared);
  RowSampler<kClusters> sampler(params, block, reinterpret_cast<float*>(shared + sizeof(BlockStorage)));
  if (sampler.rank == 0) {
    Round& first = sampler.scratch.rounds[0];
    first.count[threadIdx.x] = 0;
    first.mass[threadIdx.x] = 0;
    if (threadIdx.x == 0) first.list_len = 0;
  }
  const int num_teams = gridDim.x / params.team_size;
  for (int job = blockIdx.x / params.team_size; job < params.num_jobs; job += num_teams) {
    if constexpr (kIsGreedy) {
      sampler.run_greedy(params.jobs[job], params.job_results[job]);
    } else {
      sampler.run(params.jobs[job], params.job_results[job]);
    }
    if (job + num_teams < params.num_jobs) sampler.sync();
  }
}

inline size_t sample_shared_bytes(int slice_len, bool is_greedy) {
  return sizeof(BlockStorage) + (is_greedy ? 0 : static_cast<size_t>(slice_len) * sizeof(float));
}

}  // namespace deftree::sampler
