// The tiled kernel for every machine.
#include "attention/attention_kernel.h"
#include "attention/vec128.h"

namespace deftree::attention {

const KernelSet kVec128Kernels = {attend_item_with<Vec128>, merge_with<Vec128>, ItemKernel<Vec128>::scratch_bytes,
                                  to_half_with<Vec128>};

}  // namespace deftree::attention
