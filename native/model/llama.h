// The Llama forward pass (Touvron et al., arXiv 2302.13971; Llama 3: arXiv 2407.21783) over a tree of branches.
#pragma once

#include <atomic>
#include <vector>

#include "attention/plan.h"
#include "common/error.h"
#include "model/step_batch.h"

namespace deftree {

// Runs all layers on the batch's rows and returns the hidden states of batch.logit_rows after the last norm, ready for
// the lm_head: [num_logits, hidden_size], owned by `ops` and valid until its next step. K and V of rows with a slot are
// written to their pages on the way.
//
// `Ops` is what a device can do (CpuOps in ops.h, CudaOps in cuda/ops_cuda.h). A row's result depends on its own tokens
// only, never on the other rows of the step. Throws kAborted when `cancel` turns true, looked at before each layer.
template <class Ops>
auto forward(Ops& ops, const StepBatch& batch, const attention::Plan& plan, const std::atomic<bool>& cancel) {
  const auto& weights = ops.weights();
  const auto& config = weights.config;
  const int hidden = config.hidden_size;
  const int attention_width = config.num_qo_heads * config.head_dim;
  int rows = batch.num_queries();
  auto a = ops.activations(rows);

  ops.embed(weights.embedding, batch.tokens, a.x);
  ops.rope_angles(batch.positions, a);
  ops.rms_norm(a.x, weights.layers.front().attention_norm, rows, a.h);
  for (int i = 0; i < config.num_layers; ++i) {
    if (cancel.load(std::memory_order_relaxed)) throw Error(ErrorCode::kAborted, "the step was cancelled");
    const auto& layer = weights.layers[i];
    const bool is_last = i + 1 == config.num_layers;

    ops.linear(layer.qkv, a.h, hidden, rows, a.qkv);
    ops.rope_append_kv(i, a, batch.slots);
    ops.attention(i, plan, a);
    if (is_last) rows = ops.keep_rows(batch.logit_rows, a);  // the others were needed for their K and V only
    ops.linear(layer.attention_out, a.attention, attention_width, rows, a.out);
    ops.add_rms_norm(a, layer.mlp_norm, rows);

    ops.linear(layer.gate_up, a.h, hidden, rows, a.gate_up);
    ops.silu_mul(a, rows);
    ops.linear(layer.down, a.mlp, a.mlp_stride, rows, a.out);
    ops.add_rms_norm(a, is_last ? weights.final_norm : weights.layers[i + 1].attention_norm, rows);
  }
  return a.h;
}

}  // namespace deftree
