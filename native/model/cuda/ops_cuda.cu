// The operations of a Llama step on a GPU.
#include "cuda/launch.cuh"
