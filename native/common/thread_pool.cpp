#include "common/thread_pool.h"

#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace deftree {
namespace {

void cpu_relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// About 10 microseconds on current machines: longer than the gap between two regions of one layer, far shorter than a
// scheduler slice.
constexpr int kSpinRounds = 400;

}  // namespace

struct ThreadPool::Impl {
  int num_threads = 1;
  std::vector<std::thread> threads;

  // A region is published by bumping `generation`; a thread that sees a new generation takes tasks until none is left,
  // then counts itself out. The next region starts only after all threads counted out, so body and num_tasks are stable.
  std::atomic<uint32_t> generation{0};
  std::atomic<int> next_task{0};
  std::atomic<uint32_t> running{0};
  std::atomic<bool> stop{false};
  int num_tasks = 0;
  FunctionRef<void(int, int)>* body = nullptr;

  void take_tasks(int thread) {
    for (;;) {
      const int task = next_task.fetch_add(1, std::memory_order_relaxed);
      if (task >= num_tasks) return;
      (*body)(task, thread);
    }
  }

  void worker(int thread) {
    uint32_t seen = 0;
    for (;;) {
      for (int round = 0; round < kSpinRounds && generation.load(std::memory_order_acquire) == seen; ++round) cpu_relax();
      generation.wait(seen, std::memory_order_acquire);
      seen = generation.load(std::memory_order_acquire);
      if (stop.load(std::memory_order_relaxed)) return;
      take_tasks(thread);
      running.fetch_sub(1, std::memory_order_acq_rel);
      running.notify_one();
    }
  }
};

ThreadPool::ThreadPool(int num_threads) : impl_(std::make_unique<Impl>()) {
  impl_->num_threads = num_threads < 1 ? 1 : num_threads;
  for (int i = 1; i < impl_->num_threads; ++i) impl_->threads.emplace_back([this, i] { impl_->worker(i); });
}

ThreadPool::~ThreadPool() {
  impl_->stop.store(true, std::memory_order_relaxed);
  impl_->generation.fetch_add(1, std::memory_order_release);
  impl_->generation.notify_all();
  for (std::thread& thread : impl_->threads) thread.join();
}

int ThreadPool::num_threads() const noexcept { return impl_->num_threads; }

void ThreadPool::run(int num_tasks, FunctionRef<void(int, int)> body) {
  if (num_tasks <= 0) return;
  if (num_tasks == 1 || impl_->num_threads == 1) {
    for (int task = 0; task < num_tasks; ++task) body(task, 0);
    return;
  }
  impl_->body = &body;
  impl_->num_tasks = num_tasks;
  impl_->next_task.store(0, std::memory_order_relaxed);
  impl_->running.store(static_cast<uint32_t>(impl_->num_threads - 1), std::memory_order_relaxed);
  impl_->generation.fetch_add(1, std::memory_order_release);
  impl_->generation.notify_all();
  impl_->take_tasks(0);
  for (int round = 0; round < kSpinRounds && impl_->running.load(std::memory_order_acquire) != 0; ++round) cpu_relax();
  for (uint32_t left = impl_->running.load(std::memory_order_acquire); left != 0;
       left = impl_->running.load(std::memory_order_acquire)) {
    impl_->running.wait(left, std::memory_order_acquire);
  }
}

}  // namespace deftree
