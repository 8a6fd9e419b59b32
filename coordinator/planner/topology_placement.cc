#include "coordinator/planner/topology_placement.h"

#include <algorithm>
#include <numeric>
#include <set>
#include <unordered_map>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status_util.h"
#include "common/plan/plan_layout.h"
#include "coordinator/planner/planner.h"

namespace fathom::planner {
namespace {

using cluster::Topology;
using cluster::TopologyNode;

int64_t RanksIn(const v1::Parallelism& shape) {
  return int64_t{shape.pipeline()} * shape.expert() * shape.replicas();
}

// What is near a node for expert groups: its scale-up domain where that spans nodes, else its leaf.
std::string NearName(const Topology& topology, int node) {
  const TopologyNode& own = topology.nodes()[static_cast<size_t>(node)];
  const v1::Pool& pool = topology.pool_of(node);
  if (pool.scale_up_devices() > pool.devices_per_node()) {
    return absl::StrCat("scale-up-", own.scale_up_domain);
  }
  return LeafName(topology, node);
}

// Nodes of one pool (-1: of all), without spares.
std::vector<NodeCapacity> Capacities(const Topology& topology, int pool) {
  std::vector<NodeCapacity> capacities;
  for (size_t i = 0; i < topology.nodes().size(); ++i) {
    const TopologyNode& node = topology.nodes()[i];
    if (node.spare || (pool >= 0 && node.pool != pool)) continue;
    NodeCapacity& capacity = capacities.emplace_back();
    capacity.name = node.name;
    capacity.free_devices.resize(static_cast<size_t>(node.devices));
    std::iota(capacity.free_devices.begin(), capacity.free_devices.end(), 0);
    capacity.failure_domain = FailureDomainName(topology, static_cast<int>(i));
    capacity.leaf = NearName(topology, static_cast<int>(i));
  }
  return capacities;
}

// Of the first pool that has room for so many ranks, else of all.
std::vector<NodeCapacity> CapacitiesFor(int64_t ranks, const Topology& topology) {
  std::vector<int64_t> room(static_cast<size_t>(topology.spec().pools_size()), 0);
  for (const TopologyNode& node : topology.nodes()) {
    if (!node.spare) room[static_cast<size_t>(node.pool)] += node.devices;
  }
  const auto fits = std::find_if(room.begin(), room.end(), [&](int64_t r) { return r >= ranks; });
  const bool one_pool = fits != room.end();
  return Capacities(topology, one_pool ? static_cast<int>(fits - room.begin()) : -1);
}

}  // namespace

std::string LeafName(const Topology& topology, int node) {
  return absl::StrCat("leaf-", topology.nodes()[static_cast<size_t>(node)].leaf);
}

std::string FailureDomainName(const Topology& topology, int node) {
  return absl::StrCat("domain-", topology.nodes()[static_cast<size_t>(node)].failure_domain);
}

absl::StatusOr<RankPlacement> PlaceLayout(const v1::Parallelism& shape, const Topology& topology) {
  if (shape.pipeline() < 1 || shape.expert() < 1 || shape.replicas() < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("placing a layout of pipeline ", shape.pipeline(), ", expert ", shape.expert(),
                     ", replicas ", shape.replicas(), ": each is at least 1"));
  }
  FATHOM_ASSIGN_OR_RETURN(const std::vector<v1::RankAssignment> ranks,
                          AssignRanks(shape, CapacitiesFor(RanksIn(shape), topology)));
  std::unordered_map<std::string, int> index_of;
  for (size_t i = 0; i < topology.nodes().size(); ++i) {
    index_of.emplace(topology.nodes()[i].name, static_cast<int>(i));
  }
  RankPlacement placement;
  placement.places.reserve(ranks.size());
  for (const v1::RankAssignment& rank : ranks) {
    placement.places.push_back({index_of.at(rank.node()), rank.device()});
  }
  return placement;
}

absl::StatusOr<v1::Plan> PlanOnTopology(const std::string& job_id, uint64_t epoch,
                                        const v1::JobSpec& resolved, const Topology& topology) {
  FATHOM_ASSIGN_OR_RETURN(
      v1::Plan plan,
      MakePlan(job_id, epoch, resolved, CapacitiesFor(RanksIn(resolved.parallelism()), topology)));
  std::unordered_map<std::string, int> index_of;
  for (size_t i = 0; i < topology.nodes().size(); ++i) {
    index_of.emplace(topology.nodes()[i].name, static_cast<int>(i));
  }
  for (v1::PlannedNode& node : *plan.mutable_nodes()) {
    node.set_leaf(LeafName(topology, index_of.at(node.name())));
  }
  return plan;
}

PlacementStatistics StatisticsOf(const v1::Parallelism& shape, const RankPlacement& placement,
                                 const Topology& topology) {
  FATHOM_CHECK(static_cast<int64_t>(placement.places.size()) == RanksIn(shape))
      << placement.places.size() << " places for " << RanksIn(shape) << " ranks";
  PlacementStatistics statistics;
  const auto node_of = [&](int replica, int expert_rank, int pipeline_rank) {
    const int rank = plan::RankAt(shape, replica, expert_rank, pipeline_rank);
    return placement.places[static_cast<size_t>(rank)].node;
  };
  const std::vector<TopologyNode>& nodes = topology.nodes();
  std::set<int> used;
  int64_t pairs = 0;
  int64_t on_node = 0;
  int64_t on_leaf = 0;
  int64_t in_domain = 0;
  for (int replica = 0; replica < shape.replicas(); ++replica) {
    for (int p = 0; p < shape.pipeline(); ++p) {
      std::set<int> group_nodes;
      std::set<int> group_leaves;
      for (int e = 0; e < shape.expert(); ++e) {
        const int own = node_of(replica, e, p);
        group_nodes.insert(own);
        group_leaves.insert(nodes[static_cast<size_t>(own)].leaf);
        if (2 * p + 1 >= shape.pipeline()) continue;
        const int mirror = node_of(replica, e, shape.pipeline() - 1 - p);
        const TopologyNode& a = nodes[static_cast<size_t>(own)];
        const TopologyNode& b = nodes[static_cast<size_t>(mirror)];
        ++pairs;
        on_node += own == mirror;
        on_leaf += a.leaf == b.leaf;
        in_domain += a.failure_domain == b.failure_domain;
      }
      statistics.leaves_per_expert_group =
          std::max(statistics.leaves_per_expert_group, static_cast<int>(group_leaves.size()));
      statistics.nodes_per_expert_group =
          std::max(statistics.nodes_per_expert_group, static_cast<int>(group_nodes.size()));
      used.insert(group_nodes.begin(), group_nodes.end());
    }
  }
  statistics.nodes = static_cast<int>(used.size());
  const auto share = [&](int64_t count) {
    return pairs == 0 ? 0 : static_cast<double>(count) / static_cast<double>(pairs);
  };
  statistics.mirrors_on_one_node = share(on_node);
  statistics.mirrors_on_one_leaf = share(on_leaf);
  statistics.mirrors_in_one_failure_domain = share(in_domain);
  return statistics;
}

}  // namespace fathom::planner
