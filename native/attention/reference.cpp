// The oracles: plain loops, double precision, key by key. Slow on purpose.
#include <cmath>
#include <vector>

#include "attention/attention.h"
#include "attention/kv_layout.h"
#include "attention/state.h"

namespace deftree::attention {
namespace {

// Merges the key in slot `slot` of `page` into the state of one query head.
void merge_key(const CpuAttentionParams& params, const float* q, int kv_head, int32_t page, int slot,
               std::vector<double>& value, AttentionState<double>& state) {
  const AttentionShape& shape = params.shape;
  double score = 0;
  for (int d = 0; d < shape.head_dim; ++d) {
    score +=
        static_cast<double>(q[d]) * load_element(params.kv.k, params.kv.type, k_offset(shape, page, kv_head, slot, d));
    value[d] = load_element(params.kv.v, params.kv.type, v_offset(shape, page, kv_head, slot, d));
  }
  state.merge(value.data(), score * params.sm_scale);
}

const float* q_row(const CpuAttentionParams& params, int query, int head) {
  return params.q + (static_cast<int64_t>(query) * params.shape.num_qo_heads + head) * params.shape.head_dim;
}

void write_row(const CpuAttentionParams& params, int query, int head, const double* o) {
  float* out = params.out + (static_cast<int64_t>(query) * params.shape.num_qo_heads + head) * params.shape.head_dim;
  for (int d = 0; d < params.shape.head_dim; ++d) out[d] = static_cast<float>(o[d]);
}

// Whether query j of a node sees token t of the same node.
bool sees_own(const TreeSnapshot& tree, int node, int j, int t) {
  switch (tree.mask[node]) {
    case NodeMask::kNone:
      return true;
    case NodeMask::kCausal:
      return t <= j;
    case NodeMask::kTree: {
      const int32_t* parent = tree.tree_parent.data() + tree.tree_parent_indptr[node];
      int up = j;
      while (up > t) up = parent[up];
      return up == t;
    }
  }
  return false;
}

}  // namespace

void reference_dense_query(const CpuAttentionParams& params, const TreeSnapshot& tree, int node, int query) {
  const AttentionShape& shape = params.shape;
  std::vector<double> o(shape.head_dim), value(shape.head_dim);
  for (int head = 0; head < shape.num_qo_heads; ++head) {
    AttentionState<double> state(o.data(), shape.head_dim);
    for (int above = node; above >= 0; above = tree.parent[above]) {
      int token = 0;
      for (int s = tree.span_indptr[above]; s < tree.span_indptr[above + 1]; ++s) {
        for (int slot = tree.spans[s].begin; slot < tree.spans[s].end; ++slot, ++token) {
          if (above == node && !sees_own(tree, node, query - tree.query_indptr[node], token)) continue;
          merge_key(params, q_row(params, query, head), head / shape.group_size(), tree.spans[s].page, slot, value,
                    state);
        }
      }
    }
    state.normalise();
    write_row(params, query, head, o.data());
  }
}

void reference_dense(const CpuAttentionParams& params, const TreeSnapshot& tree) {
  for (int node = 0; node < tree.num_nodes(); ++node) {
    for (int query = tree.query_indptr[node]; query < tree.query_indptr[node + 1]; ++query)
      reference_dense_query(params, tree, node, query);
  }
}

void reference_plan(const CpuAttentionParams& params, const Plan& plan) {
  const AttentionShape& shape = params.shape;
  std::vector<double> o(shape.head_dim), value(shape.head_dim);
  std::vector<double> partial_o(static_cast<size_t>(plan.num_partials) * shape.num_qo_heads * shape.head_dim);
  std::vector<double> partial_lse(static_cast<size_t>(plan.num_partials) * shape.num_qo_heads);

  for (const WorkItem& item : plan.items) {
    for (int i = item.query_begin; i < item.query_end; ++i) {
      const int in_group = i - item.query_begin;
      const int query = plan.group_queries[i];
      for (int head = 0; head < shape.num_qo_heads; ++head) {
        AttentionState<double> state(o.data(), shape.head_dim);
        int token = 0;
        for (int s = item.span_begin; s < item.span_end; ++s) {
          const PageSpan span = plan.spans[s];
          for (int slot = span.begin; slot < span.end; ++slot, ++token) {
            const int bit = token - item.dense_len;
            if (bit >= 0) {
              const uint64_t word = plan.mask_words[item.mask_begin + in_group * item.mask_stride + bit / 64];
              if (((word >> (bit % 64)) & 1) == 0) continue;
            }
            merge_key(params, q_row(params, query, head), head / shape.group_size(), span.page, slot, value, state);
          }
        }
        const double lse = state.normalise();
        if (item.partial_begin < 0) {
          write_row(params, query, head, o.data());
          continue;
        }
        const size_t row = static_cast<size_t>(item.partial_begin + in_group) * shape.num_qo_heads + head;
        std::copy(o.begin(), o.end(), partial_o.begin() + row * shape.head_dim);
        partial_lse[row] = lse;
      }
    }
  }

  for (int query = 0; query < plan.counters.num_queries; ++query) {
    if (plan.merge_indptr[query] == plan.merge_indptr[query + 1]) continue;
    for (int head = 0; head < shape.num_qo_heads; ++head) {
      AttentionState<double> state(o.data(), shape.head_dim);
      for (int s = plan.merge_indptr[query]; s < plan.merge_indptr[query + 1]; ++s) {
        const size_t row = static_cast<size_t>(plan.merge_slots[s]) * shape.num_qo_heads + head;
        state.merge(partial_o.data() + row * shape.head_dim, partial_lse[row]);
      }
      state.normalise();
      write_row(params, query, head, o.data());
    }
  }
  const std::vector<double> zeros(shape.head_dim, 0.0);
  for (int query : plan.empty_queries) {
    for (int head = 0; head < shape.num_qo_heads; ++head) write_row(params, query, head, zeros.data());
  }
}

}  // namespace deftree::attention
