// Where cuBLASLt is. It is looked up at run time, never linked: an addon built with CUDA loads on a machine without it.
#pragma once

#include <string>

namespace deftree {

// Opens libcublasLt.so.13 or .12 from, in this order, the loader's own path, CUDA_HOME, CUDA_PATH, the toolkit of the nvcc
// in PATH, the one that this was compiled with, and /usr/local/cuda; for dlsym. Throws kDevice with the places it looked at.
void* open_cublas_lt();

// The file that open_cublas_lt() opens. Throws as it does.
std::string find_cublas_lt();

}  // namespace deftree
