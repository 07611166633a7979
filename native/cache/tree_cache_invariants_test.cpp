// check_invariants() must be able to fail: each case breaks one rule behind the cache's back.

#include <functional>

#include "cache/tree_cache.h"
#include "cache/tree_cache_impl.h"
#include "common/error.h"
#include "common/test.h"

namespace deftree {

struct TreeCacheTestPeer {
  using Impl = TreeCache::Impl;
  static Impl& impl(TreeCache& cache) { return *cache.impl_; }
};

namespace {

using Impl = TreeCacheTestPeer::Impl;

// A trunk with two forks, a cached leaf that no branch reads, and a draft.
struct Forest {
  Forest() {
    trunk = cache.create();
    cache.append(trunk, std::vector<int32_t>{0, 1, 2, 3, 4, 5});
    cache.commit(trunk);
    const std::vector<BranchId> forks = cache.fork(trunk, 2);
    for (const BranchId fork : forks) {
      cache.append(fork, std::vector<int32_t>{10 + fork, 11, 12});
      cache.commit(fork);
    }
    cached_leaf = impl().branches.at(forks[0]).tip;
    cache.prune(forks[0], true);
    fork = forks[1];
    cache.append_draft(fork, std::vector<int32_t>{7, 8}, std::vector<int32_t>{-1, 0});
    cache.check_invariants();
  }
  Impl& impl() { return TreeCacheTestPeer::impl(cache); }
  Branch& branch(BranchId id) { return impl().branches.at(id); }
  Node& tip(BranchId id) { return impl().nodes[branch(id).tip]; }

  TreeCache cache{{.num_pages = 8, .page_size = 4}};
  BranchId trunk, fork;
  NodeId cached_leaf;
};

void check_noticed(const char* what, const std::function<void(Forest&)>& breaks) {
  Forest forest;
  breaks(forest);
  try {
    forest.cache.check_invariants();
    test::fail(what, 0, "was not noticed");
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::kInternal);
  }
}

}  // namespace

TEST(check_invariants_notices_broken_slots) {
  check_noticed("a page leaked", [](Forest& f) { f.impl().ledger.take_page(); });
  check_noticed("a reader too many", [](Forest& f) { f.impl().ledger.add_span(f.tip(f.trunk).spans[0].page, true); });
  check_noticed("a live span too few",
                [](Forest& f) { f.impl().ledger.set_live(f.tip(f.trunk).spans[0].page, false); });
  check_noticed("a slot not in use", [](Forest& f) { f.impl().ledger.free_slots(f.tip(f.trunk).spans[0]); });
  check_noticed("a slot in use by nobody", [](Forest& f) {
    const PageSpan last = f.branch(f.fork).fresh_spans.back();
    f.impl().ledger.use_slots({last.page, last.end, static_cast<int16_t>(last.end + 1)});
  });
  check_noticed("two nodes with one slot", [](Forest& f) { f.tip(f.fork).spans[0] = f.tip(f.trunk).spans[0]; });
  check_noticed("a span outside of its page", [](Forest& f) { f.tip(f.trunk).spans.back().end = 5; });
  check_noticed("a span of no page", [](Forest& f) { f.tip(f.trunk).spans.back().page = 8; });
}

TEST(check_invariants_notices_broken_nodes) {
  check_noticed("a token without a slot", [](Forest& f) { f.tip(f.trunk).tokens.push_back(1); });
  check_noticed("a wrong beginning", [](Forest& f) { ++f.tip(f.fork).begin; });
  check_noticed("a wrong parent", [](Forest& f) { f.tip(f.fork).parent = kForestRoot; });
  check_noticed("a wrong first token", [](Forest& f) { ++f.tip(f.trunk).children[0].first_token; });
  check_noticed("a child lost", [](Forest& f) { f.tip(f.trunk).children.pop_back(); });
  check_noticed("a child twice", [](Forest& f) { f.tip(f.trunk).children[0] = f.tip(f.trunk).children[1]; });
  check_noticed("a wrong count of live children", [](Forest& f) { ++f.tip(f.trunk).num_live_children; });
  check_noticed("a wrong count of nodes", [](Forest& f) { ++f.impl().num_nodes; });
  check_noticed("a free node in the forest", [](Forest& f) { f.impl().free_nodes.push_back(f.cached_leaf); });
}

TEST(check_invariants_notices_broken_branches) {
  check_noticed("a wrong count of tips", [](Forest& f) { ++f.tip(f.trunk).num_tips; });
  check_noticed("a tip moved alone", [](Forest& f) { f.branch(f.trunk).tip = f.cached_leaf; });
  check_noticed("a tip that is no node", [](Forest& f) { f.branch(f.trunk).tip = 99; });
  check_noticed("a fresh token without a slot", [](Forest& f) { f.branch(f.fork).fresh_tokens.push_back(1); });
  check_noticed("a draft token before its parent", [](Forest& f) { f.branch(f.fork).draft_parents[0] = 1; });
  check_noticed("a wrong draft depth", [](Forest& f) { f.branch(f.fork).draft_depths[1] = 0; });
}

TEST(check_invariants_notices_broken_eviction_order) {
  check_noticed("a cached leaf forgotten", [](Forest& f) { f.impl().evictable.clear(); });
  check_noticed("a live node to be evicted", [](Forest& f) { f.impl().evictable.insert({0, f.branch(f.fork).tip}); });
  check_noticed("a stale time", [](Forest& f) { ++f.impl().nodes[f.cached_leaf].last_used; });
}

}  // namespace deftree
