#include "coordinator/planner/survivability.h"

#include <algorithm>
#include <array>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/limits.h"
#include "common/plan/buddy.h"
#include "common/plan/plan_layout.h"
#include "coordinator/planner/topology_placement.h"

namespace fathom::planner {
namespace {

constexpr int64_t kDefaultSnapshotEverySteps = 1;

bool HasSnapshots(const v1::Plan& plan) {
  const v1::Recovery& recovery = plan.spec().recovery();
  return (recovery.has_snapshot_every_steps() ? recovery.snapshot_every_steps()
                                              : kDefaultSnapshotEverySteps) > 0;
}

// Ranges such as "0-3, 8".
std::string Ranges(const std::set<int>& numbers) {
  std::vector<std::string> parts;
  for (auto at = numbers.begin(); at != numbers.end();) {
    const int first = *at;
    int last = first;
    while (++at != numbers.end() && *at == last + 1) ++last;
    parts.push_back(first == last ? absl::StrCat(first) : absl::StrCat(first, "-", last));
  }
  return absl::StrJoin(parts, ", ");
}

class Holders {
 public:
  explicit Holders(const v1::Plan& plan)
      : plan_(plan),
        shape_(plan.spec().parallelism()),
        has_snapshots_(HasSnapshots(plan)),
        buddies_(plan::BuddiesOf(plan)) {
    for (const v1::RankAssignment& rank : plan.ranks()) {
      const auto [at, is_new] = number_.emplace(rank.node(), static_cast<int>(names_.size()));
      if (is_new) names_.push_back(rank.node());
      node_of_.push_back(at->second);
    }
    for (int expert = 0; expert < plan.expert_owner_size(); ++expert) {
      experts_of_[plan.expert_owner(expert)].insert(expert);
    }
    leaf_.assign(names_.size(), "");
    domain_.assign(names_.size(), "");
    for (const v1::PlannedNode& node : plan.nodes()) {
      const auto found = number_.find(node.name());
      if (found == number_.end()) continue;
      leaf_[static_cast<size_t>(found->second)] = node.leaf();
      domain_[static_cast<size_t>(found->second)] = node.failure_domain();
    }
  }

  int ranks() const { return plan_.ranks_size(); }
  const std::string& name(int node) const { return names_[static_cast<size_t>(node)]; }
  const std::string& leaf(int node) const { return leaf_[static_cast<size_t>(node)]; }
  const std::string& domain(int node) const { return domain_[static_cast<size_t>(node)]; }
  bool has_snapshots() const { return has_snapshots_; }

  // Nodes that hold a rank's shard, the smaller number first; the same twice if there is only one.
  std::pair<int, int> Of(int rank) const {
    const int own = node_of_[static_cast<size_t>(rank)];
    const int buddy = buddies_[static_cast<size_t>(rank)];
    if (!has_snapshots_ || buddy < 0) return {own, own};
    return std::minmax(own, node_of_[static_cast<size_t>(buddy)]);
  }

  // In words, the shards of these ranks, once nodes for which `gone` holds are lost.
  template <typename Gone>
  std::vector<std::string> InWords(const std::vector<int>& ranks, Gone gone) const {
    struct Part {
      std::set<int> expert_ranks;
      int shards = 0;
      bool weights_too = true;
    };
    std::map<int, Part> parts;  // by the first of the two stages
    for (const int rank : ranks) {
      const v1::RankAssignment& at = plan_.ranks(rank);
      const int mirror = shape_.pipeline() - 1 - at.pipeline_rank();
      Part& part = parts[std::min(at.pipeline_rank(), mirror)];
      part.expert_ranks.insert(at.expert_rank());
      ++part.shards;
      part.weights_too = part.weights_too && !AnotherHasWeights(at, gone);
    }
    std::vector<std::string> words;
    for (const auto& [stage, part] : parts) {
      std::set<int> experts;
      for (const int owner : part.expert_ranks) {
        const auto owned = experts_of_.find(owner);
        if (owned != experts_of_.end()) experts.insert(owned->second.begin(), owned->second.end());
      }
      const int mirror = shape_.pipeline() - 1 - stage;
      const int sharers = (mirror == stage ? 1 : 2) * shape_.expert() * shape_.replicas();
      words.push_back(
          absl::StrCat(part.weights_too ? "weights and optimizer state" : "optimizer state", " of ",
                       experts.empty() ? "" : absl::StrCat("experts ", Ranges(experts), " and of "),
                       part.shards, "/", sharers, " of the dense layers of ",
                       mirror == stage ? absl::StrCat("stage ", stage)
                                       : absl::StrCat("stages ", stage, " and ", mirror)));
    }
    return words;
  }

 private:
  // Whether a rank with the same experts and stages is on a node that is left.
  template <typename Gone>
  bool AnotherHasWeights(const v1::RankAssignment& at, Gone gone) const {
    for (int replica = 0; replica < shape_.replicas(); ++replica) {
      for (const int p : {at.pipeline_rank(), shape_.pipeline() - 1 - at.pipeline_rank()}) {
        const int other = plan::RankAt(shape_, replica, at.expert_rank(), p);
        if (!gone(node_of_[static_cast<size_t>(other)])) return true;
      }
    }
    return false;
  }

  const v1::Plan& plan_;
  const v1::Parallelism& shape_;
  const bool has_snapshots_;
  const std::vector<int> buddies_;
  std::map<std::string, int> number_;
  std::vector<std::string> names_;
  std::vector<int> node_of_;  // by rank
  std::map<int, std::set<int>> experts_of_;
  std::vector<std::string> leaf_;  // by node
  std::vector<std::string> domain_;
};

// Of one kind of thing that is lost whole: where shards are lost with it.
struct Losses {
  int64_t shards = 0;
  std::string example;

  void Note(const std::string& what) {
    if (shards++ == 0) example = what;
  }
  void Tell(absl::string_view kind, std::vector<std::string>* why) const {
    if (shards == 0) return;
    why->push_back(absl::StrCat(shards, shards == 1 ? " rank has" : " ranks have",
                                " all copies of their state ", kind, ", such as ", example));
  }
};

v1::Survivability Survey(const Holders& holders) {
  Losses on_node;
  Losses under_leaf;
  Losses in_domain;
  std::set<int> unknown_leaf;
  std::map<std::pair<int, int>, std::vector<int>> pairs;  // to the ranks whose shards they hold
  for (int rank = 0; rank < holders.ranks(); ++rank) {
    const auto [a, b] = holders.Of(rank);
    for (const int node : {a, b}) {
      if (holders.leaf(node).empty()) unknown_leaf.insert(node);
    }
    if (a == b) on_node.Note(holders.name(a));
    if (a != b) pairs[{a, b}].push_back(rank);
    if (a == b || (!holders.leaf(a).empty() && holders.leaf(a) == holders.leaf(b))) {
      under_leaf.Note(holders.leaf(a).empty() ? holders.name(a) : holders.leaf(a));
    }
    if (a == b || (!holders.domain(a).empty() && holders.domain(a) == holders.domain(b))) {
      in_domain.Note(holders.domain(a).empty() ? holders.name(a) : holders.domain(a));
    }
  }
  v1::Survivability result;
  result.set_any_node(on_node.shards == 0);
  result.set_any_leaf(under_leaf.shards == 0 && unknown_leaf.empty());
  result.set_any_failure_domain(in_domain.shards == 0);
  std::vector<std::string> why;
  if (!holders.has_snapshots()) {
    why.push_back("no snapshots are taken (spec.recovery.snapshot_every_steps is 0)");
  }
  on_node.Tell("on one node", &why);
  under_leaf.Tell("under one leaf", &why);
  in_domain.Tell("in one failure domain", &why);
  if (!unknown_leaf.empty()) {
    why.push_back(absl::StrCat("of ", unknown_leaf.size(), " nodes, such as ",
                               holders.name(*unknown_leaf.begin()), ", the leaf isn't known"));
  }
  result.set_what(absl::StrJoin(why, "; "));
  result.set_fatal_pair_count(static_cast<int64_t>(pairs.size()));
  for (const auto& [pair, ranks] : pairs) {
    if (result.fatal_pairs_size() == limits::kMaxListedNodePairs) break;
    v1::NodePair* listed = result.add_fatal_pairs();
    listed->set_first(holders.name(pair.first));
    listed->set_second(holders.name(pair.second));
    const auto gone = [&pair = pair](int node) {
      return node == pair.first || node == pair.second;
    };
    listed->set_holds(absl::StrJoin(holders.InWords(ranks, gone), "; "));
  }
  return result;
}

}  // namespace

v1::Survivability SurvivabilityOf(const v1::Plan& plan) { return Survey(Holders(plan)); }

v1::Survivability SurvivabilityOf(const v1::Parallelism& shape, int64_t routed_experts,
                                  int64_t snapshot_every_steps, const RankPlacement& placement,
                                  const cluster::Topology& topology) {
  v1::Plan plan;
  *plan.mutable_spec()->mutable_parallelism() = shape;
  plan.mutable_spec()->mutable_recovery()->set_snapshot_every_steps(
      static_cast<int32_t>(snapshot_every_steps));
  for (int64_t expert = 0; expert < routed_experts; ++expert) {
    plan.add_expert_owner(static_cast<int32_t>(expert * shape.expert() / routed_experts));
  }
  std::set<int> used;
  for (size_t i = 0; i < placement.places.size(); ++i) {
    const int rank = static_cast<int>(i);
    const RankPlacement::Place& place = placement.places[i];
    v1::RankAssignment* at = plan.add_ranks();
    at->set_rank(rank);
    at->set_node(topology.nodes()[static_cast<size_t>(place.node)].name);
    at->set_device(place.device);
    at->set_pipeline_rank(rank % shape.pipeline());
    at->set_expert_rank(rank / shape.pipeline() % shape.expert());
    at->set_replica(rank / shape.pipeline() / shape.expert());
    used.insert(place.node);
  }
  for (const int node : used) {
    v1::PlannedNode* planned = plan.add_nodes();
    planned->set_name(topology.nodes()[static_cast<size_t>(node)].name);
    planned->set_leaf(LeafName(topology, node));
    planned->set_failure_domain(FailureDomainName(topology, node));
  }
  return SurvivabilityOf(plan);
}

std::vector<std::string> LostWith(const v1::Plan& plan, const std::set<std::string>& nodes) {
  const Holders holders(plan);
  const auto gone = [&](int node) { return nodes.contains(holders.name(node)); };
  std::vector<int> lost;
  for (int rank = 0; rank < holders.ranks(); ++rank) {
    const auto [a, b] = holders.Of(rank);
    if (gone(a) && gone(b)) lost.push_back(rank);
  }
  return holders.InWords(lost, gone);
}

}  // namespace fathom::planner
