import { loadAddon } from "./addon-loader.js";
import type { NativeAttentionBench, NativeAttentionBenchRequest } from "./native-addon.js";
import { fromAddon } from "./step-dispatcher.js";

/**
 * Measures the attention of one decode step on a tree, without a model; not for use while an engine decodes.
 * @throws E_BAD_ARGUMENT, E_OOM, E_DEVICE, E_ABORTED, E_ADDON_MISSING
 */
export async function benchAttention(
  request: NativeAttentionBenchRequest,
  signal?: AbortSignal,
): Promise<NativeAttentionBench> {
  let cancel = () => {};
  try {
    const task = loadAddon().benchAttention(request);
    cancel = task.cancel;
    signal?.addEventListener("abort", cancel, { once: true });
    if (signal?.aborted) cancel();
    return await task.result;
  } catch (cause) {
    throw fromAddon(cause);
  } finally {
    signal?.removeEventListener("abort", cancel);
  }
}
