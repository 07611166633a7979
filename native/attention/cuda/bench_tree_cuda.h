// run_attention_bench on a GPU.
#pragma once

#include <atomic>

#include "attention/bench_tree.h"

namespace deftree::attention {

// bf16 K, V, Q and O. The layers of a step are one CUDA graph; the copy rate is that of a device-to-device copy of 2 GiB;
// the matrix rate and the cost of a launch are those of an H100 (750 TFLOP/s, 2.5 us). flash-decoding reads the pages that
// radix reads: private copies of every path would not fit. Throws as the one on the CPU, and kDevice.
TreeBench run_attention_bench_cuda(const TreeSnapshot& tree, const TreeBenchOptions& options,
                                   const std::atomic<bool>& cancel);

}  // namespace deftree::attention
