// What the cache's bookkeeping costs per step: a trunk, forks of it, and a decode step of all forks.
//
//   tree_cache_bench [trunk_len] [branches]     prints a table and, last, one JSON line; medians, in microseconds

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <numeric>
#include <span>
#include <vector>

#include "cache/tree_cache.h"

namespace deftree {
namespace {

double median_us(int repetitions, const std::function<void()>& prepare, const std::function<void()>& timed) {
  std::vector<double> times;
  for (int i = 0; i < repetitions; ++i) {
    prepare();
    const auto start = std::chrono::steady_clock::now();
    timed();
    times.push_back(std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count());
  }
  std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
  return times[times.size() / 2];
}

void run(int trunk_len, int num_branches) {
  TreeCache cache({.num_pages = trunk_len / 16 + num_branches * 80 + 64, .page_size = 16});
  std::vector<int32_t> prompt(trunk_len);
  std::iota(prompt.begin(), prompt.end(), 0);
  const BranchId trunk = cache.create();
  cache.append(trunk, prompt);
  cache.commit(trunk);

  std::vector<BranchId> forks;
  const auto prune_forks = [&] {
    for (const BranchId fork : forks) cache.prune(fork, false);
    forks.clear();
  };
  const double fork_us = median_us(200, prune_forks, [&] { forks = cache.fork(trunk, num_branches); });

  std::vector<StepBranch> steps;
  for (const BranchId fork : forks) steps.push_back({fork, 1});
  int32_t token = 0;
  const auto append = [&] {
    for (const BranchId fork : forks) cache.append(fork, std::span<const int32_t>(&token, 1));
    ++token;
  };
  const auto commit = [&] {
    for (const BranchId fork : forks) cache.commit(fork);
  };
  const auto nothing = [] {};
  StepSnapshot step;
  append();
  const double snapshot_us = median_us(500, nothing, [&] { cache.snapshot(steps, step); });
  commit();
  const double append_us = median_us(500, [&] { commit(); }, append);
  const double commit_us = median_us(500, [&] { append(); }, commit);
  commit();

  BranchId late = cache.create();
  const double attach_us = median_us(
      200,
      [&] {
        cache.prune(late, true);
        late = cache.create();
      },
      [&] { cache.attach_prefix(late, prompt, INT32_MAX); });

  std::printf("%d tokens in the trunk, %d branches; per step of all branches\n", trunk_len, num_branches);
  std::printf("  snapshot       %8.2f us\n  append         %8.2f us\n  commit         %8.2f us\n", snapshot_us,
              append_us, commit_us);
  std::printf("once\n  fork(%3d)      %8.2f us\n  attach_prefix  %8.2f us\n", num_branches, fork_us, attach_us);
  std::printf(
      "{\"bench\":\"tree_cache\",\"trunk_len\":%d,\"branches\":%d,\"snapshot_us\":%.2f,\"append_us\":%.2f,"
      "\"commit_us\":%.2f,\"fork_us\":%.2f,\"attach_prefix_us\":%.2f}\n",
      trunk_len, num_branches, snapshot_us, append_us, commit_us, fork_us, attach_us);
}

}  // namespace
}  // namespace deftree

int main(int argc, char** argv) {
  try {
    const int trunk_len = argc > 1 ? std::atoi(argv[1]) : 2048;
    const int num_branches = argc > 2 ? std::atoi(argv[2]) : 20;
    deftree::run(std::max(1, trunk_len), std::max(1, num_branches));
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
