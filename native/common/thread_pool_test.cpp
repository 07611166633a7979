#include "common/thread_pool.h"

#include <atomic>
#include <thread>
#include <vector>

#include "common/test.h"

using deftree::ThreadPool;

TEST(thread_pool_runs_each_task_once) {
  for (int num_threads : {1, 2, 3, 5}) {
    ThreadPool pool(num_threads);
    for (int num_tasks : {0, 1, 2, 7, 100}) {
      std::vector<std::atomic<int>> calls(static_cast<size_t>(num_tasks));
      std::atomic<int> bad_thread{0};
      pool.run(num_tasks, [&](int task, int thread) {
        calls[static_cast<size_t>(task)].fetch_add(1);
        if (thread < 0 || thread >= num_threads) bad_thread.fetch_add(1);
      });
      for (const std::atomic<int>& count : calls) CHECK_EQ(count.load(), 1);
      CHECK_EQ(bad_thread.load(), 0);
    }
  }
}

// Regions follow one another closely: what one region wrote must be visible to the next, whoever takes the task.
TEST(thread_pool_orders_regions) {
  ThreadPool pool(3);
  std::vector<long> values(64, 0);
  for (int region = 0; region < 5000; ++region) {
    pool.run(64, [&](int task, int) { values[static_cast<size_t>(task)] += values[static_cast<size_t>(task)] == region; });
  }
  for (long value : values) CHECK_EQ(value, 5000L);
}

TEST(thread_pool_sleeping_threads_wake) {
  ThreadPool pool(4);
  std::atomic<int> sum{0};
  for (int round = 0; round < 5; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    pool.run(32, [&](int task, int) { sum.fetch_add(task); });
  }
  CHECK_EQ(sum.load(), 5 * 31 * 32 / 2);
}
