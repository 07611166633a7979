#if defined(__x86_64__)

#include "model/ops_kernels.h"

namespace deftree {

const RowKernels& row_kernels_avx512() { return kRowKernels; }

}  // namespace deftree

#endif
