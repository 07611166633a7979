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

// About 20-50 microseconds on current machines: longer than the gap between two regions of one layer, far shorter than
// a scheduler slice.
constexpr int kSpinRounds = 600;

constexpr uint32_t kOpen = 1u << 31;

}  // namespace

struct ThreadPool::Impl {
  int num_threads = 1;
  std::vector<std::thread> threads;

  // A region is open from run()'s start until its last task was taken. Threads enter it by counting themselves into
  // `state` while the open bit is set, and run() waits only for those that entered: a thread that is still asleep, or
  // descheduled by another process, costs nothing.
  std::atomic<uint32_t> state{0};       // kOpen | threads inside
  std::atomic<uint32_t> generation{0};  // bumped when a region opens; what idle threads sleep on
  std::atomic<int> next_task{0};
  std::atomic<bool> stop{false};
  int num_tasks = 0;                              // stable while the region is open or has threads inside
  FunctionRef<void(int, int)>* body = nullptr;    // likewise

  void take_tasks(int thread) {
    for (;;) {
      const int task = next_task.fetch_add(1, std::memory_order_relaxed);
      if (task >= num_tasks) return;
      (*body)(task, thread);
    }
  }

  bool enter() {
    uint32_t seen = state.load(std::memory_order_relaxed);
    while (seen & kOpen) {
      if (state.compare_exchange_weak(seen, seen + 1, std::memory_order_acquire, std::memory_order_relaxed)) return true;
    }
    return false;
  }

  void leave() {
    if (state.fetch_sub(1, std::memory_order_release) == 1) state.notify_one();
  }

  void worker(int thread) {
    uint32_t seen = 0;
    for (;;) {
      for (int i = 0; i < kSpinRounds && generation.load(std::memory_order_acquire) == seen; ++i) cpu_relax();
      generation.wait(seen, std::memory_order_acquire);
      seen = generation.load(std::memory_order_acquire);
      if (stop.load(std::memory_order_relaxed)) return;
      if (enter()) {
        take_tasks(thread);
        leave();
      }
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
  impl_->state.store(kOpen, std::memory_order_release);
  impl_->generation.fetch_add(1, std::memory_order_release);
  impl_->generation.notify_all();
  impl_->take_tasks(0);

  uint32_t inside = impl_->state.fetch_and(~kOpen, std::memory_order_acquire) & ~kOpen;
  for (int i = 0; i < kSpinRounds && inside != 0; ++i) {
    cpu_relax();
    inside = impl_->state.load(std::memory_order_acquire);
  }
  while (inside != 0) {
    impl_->state.wait(inside, std::memory_order_acquire);
    inside = impl_->state.load(std::memory_order_acquire);
  }
}

}  // namespace deftree
