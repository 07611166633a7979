import { loadAddon } from "./addon-loader.js";
import type { AttentionPolicy, NativeAttentionPlan } from "./native-addon.js";
import { fromAddon } from "./step-dispatcher.js";

/** The tree of one step: where its tokens and its queries are. */
export interface PlanTree {
  /** Node 0 is the root, with parent -1; a parent comes before its children. `len`: tokens of the node. */
  nodes: { parent: number; len: number }[];
  /** The node of each query: it attends to every token from the root to the end of that node. */
  queries: number[];
}

/** For whom it is planned; by default Llama-3-8B's heads on 2 cores. */
export interface PlanOptions {
  policy?: AttentionPolicy;
  numQoHeads?: number;
  numKvHeads?: number;
  headDim?: number;
  /** Cores among which work is balanced. */
  numProcessors?: number;
}

/**
 * How a policy cuts the attention of one step into work items, as the engine does it on a CPU for each step
 * (docs/tree-attention.md): nothing is computed, no model is needed.
 * @throws E_BAD_ARGUMENT for a tree or a shape that is wrong, E_ADDON_MISSING
 */
export function planAttention(tree: PlanTree, options: PlanOptions = {}): NativeAttentionPlan {
  const { policy = "deft-flatten", numQoHeads = 32, numKvHeads = 8, headDim = 128, numProcessors = 2 } = options;
  try {
    return loadAddon().plan(tree, { policy, numQoHeads, numKvHeads, headDim, numProcessors });
  } catch (cause) {
    throw fromAddon(cause);
  }
}
