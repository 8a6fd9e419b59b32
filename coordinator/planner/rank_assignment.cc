#include "coordinator/planner/rank_assignment.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status_util.h"
#include "common/plan/plan_layout.h"
#include "coordinator/planner/free_devices.h"

namespace fathom::planner {
namespace {

absl::Status CheckNodes(const std::vector<NodeCapacity>& nodes) {
  std::set<std::string> names;
  for (const NodeCapacity& node : nodes) {
    if (node.name.empty()) return absl::InvalidArgumentError("nodes: one has no name");
    if (!names.insert(node.name).second) {
      return absl::InvalidArgumentError(absl::StrCat("nodes: ", node.name, " is there twice"));
    }
    std::set<int> devices;
    for (int device : node.free_devices) {
      if (device < 0 || !devices.insert(device).second) {
        return absl::InvalidArgumentError(absl::StrCat("nodes: device ", device, " of ", node.name,
                                                       " is negative or there twice"));
      }
    }
  }
  return absl::OkStatus();
}

// One way to do it, and how good it came out.
class Assigner {
 public:
  Assigner(const v1::Parallelism& shape, const std::vector<NodeCapacity>& nodes, NodeOrder how,
           Closeness counted)
      : shape_(shape), free_(nodes, ChooseNodes(shape, nodes, how), shape.expert(), counted) {}

  void Run() {
    groups_.resize(static_cast<size_t>(shape_.pipeline()) * shape_.replicas());
    for (int replica = 0; replica < shape_.replicas(); ++replica) {
      DeviceGroup* const first = &groups_[static_cast<size_t>(replica) * shape_.pipeline()];
      for (int p = 0; p < (shape_.pipeline() + 1) / 2; ++p) {
        const int mirror = shape_.pipeline() - 1 - p;
        first[p] = free_.Take(nullptr);
        if (mirror == p) continue;
        first[mirror] = free_.Take(&first[p]);
        SetApart(first[p], &first[mirror]);
      }
    }
    for (const DeviceGroup& group : groups_) {
      leaves_ += free_.LeavesOf(group);
      for (const FreeDevice& device : group) used_.insert(device.node);
    }
  }

  // Smaller is better: mirrors on one node, leaves that expert groups span, mirrors in one failure
  // domain, mirrors under one leaf, nodes used.
  std::tuple<int, int64_t, int, int, size_t> score() const {
    return {met_.node, leaves_, met_.domain, met_.leaf, used_.size()};
  }
  // [replica * pipeline + pipeline rank]
  const std::vector<DeviceGroup>& groups() const { return groups_; }

 private:
  // Pairs that have something in common.
  struct Meetings {
    int node = 0;
    int domain = 0;
    int leaf = 0;
    bool operator<(const Meetings& other) const {
      return std::tie(node, domain, leaf) < std::tie(other.node, other.domain, other.leaf);
    }
  };

  Meetings Together(const DeviceGroup& a, const DeviceGroup& b, size_t shift) const {
    Meetings together;
    for (size_t i = 0; i < a.size(); ++i) {
      const int other = b[(i + shift) % b.size()].node;
      together.node += a[i].node == other;
      together.domain += free_.SameDomain(a[i].node, other);
      together.leaf += free_.SameLeaf(a[i].node, other);
    }
    return together;
  }

  // Where two groups have something in common: turn one so that as few pairs as possible meet.
  void SetApart(const DeviceGroup& fixed, DeviceGroup* turned) {
    size_t best = 0;
    Meetings fewest = Together(fixed, *turned, 0);
    const bool spread =
        fixed.front().node != fixed.back().node || turned->front().node != turned->back().node;
    for (size_t shift = 1; spread && shift < turned->size() && Meetings() < fewest; ++shift) {
      const Meetings together = Together(fixed, *turned, shift);
      if (together < fewest) {
        fewest = together;
        best = shift;
      }
    }
    std::rotate(turned->begin(), turned->begin() + static_cast<int64_t>(best), turned->end());
    met_.node += fewest.node;
    met_.domain += fewest.domain;
    met_.leaf += fewest.leaf;
  }

  const v1::Parallelism& shape_;
  FreeDevices free_;
  std::vector<DeviceGroup> groups_;
  Meetings met_;
  int64_t leaves_ = 0;
  std::set<int> used_;
};

bool SeveralLeaves(const std::vector<NodeCapacity>& nodes) {
  const std::string* known = nullptr;
  for (const NodeCapacity& node : nodes) {
    if (node.leaf.empty()) continue;
    if (known != nullptr && *known != node.leaf) return true;
    known = &node.leaf;
  }
  return false;
}

std::vector<DeviceGroup> BestGroups(const v1::Parallelism& shape,
                                    const std::vector<NodeCapacity>& nodes) {
  std::vector<std::pair<NodeOrder, Closeness>> ways = {{NodeOrder::kRoom, {}},
                                                       {NodeOrder::kDomains, {.domains = true}}};
  if (SeveralLeaves(nodes)) {
    ways.push_back({NodeOrder::kRoom, {.domains = true, .leaves = true}});
    ways.push_back({NodeOrder::kLeaves, {.domains = true, .leaves = true}});
  }
  std::optional<Assigner> best;
  for (const auto& [order, counted] : ways) {
    Assigner next(shape, nodes, order, counted);
    next.Run();
    if (!best.has_value() || next.score() < best->score()) best.emplace(std::move(next));
  }
  return best->groups();
}

}  // namespace

absl::StatusOr<std::vector<v1::RankAssignment>> AssignRanks(
    const v1::Parallelism& shape, const std::vector<NodeCapacity>& nodes) {
  FATHOM_RETURN_IF_ERROR(CheckNodes(nodes));
  FATHOM_CHECK(shape.pipeline() >= 1 && shape.expert() >= 1 && shape.replicas() >= 1)
      << "a shape that no job resolver lets through";
  const int64_t needed = int64_t{shape.pipeline()} * shape.expert() * shape.replicas();
  int64_t free_devices = 0;
  for (const NodeCapacity& node : nodes) {
    free_devices += static_cast<int64_t>(node.free_devices.size());
  }
  if (free_devices < needed) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "needs ", needed, " devices (pipeline ", shape.pipeline(), " x expert ", shape.expert(),
        " x replicas ", shape.replicas(), "), and ", free_devices, " are free on ", nodes.size(),
        " nodes; wait for other jobs, add nodes, or lower spec.parallelism"));
  }
  const std::vector<DeviceGroup> groups = BestGroups(shape, nodes);
  std::vector<v1::RankAssignment> ranks(static_cast<size_t>(needed));
  for (int replica = 0; replica < shape.replicas(); ++replica) {
    for (int p = 0; p < shape.pipeline(); ++p) {
      const DeviceGroup& group = groups[static_cast<size_t>(replica) * shape.pipeline() + p];
      for (int e = 0; e < shape.expert(); ++e) {
        const int rank = plan::RankAt(shape, replica, e, p);
        v1::RankAssignment& at = ranks[rank];
        at.set_rank(rank);
        at.set_node(nodes[group[e].node].name);
        at.set_device(group[e].index);
        at.set_pipeline_rank(p);
        at.set_expert_rank(e);
        at.set_replica(replica);
      }
    }
  }
  return ranks;
}

void SetPlannedNodes(const std::vector<NodeCapacity>& nodes, v1::Plan* plan) {
  std::map<std::string, const NodeCapacity*> known;
  for (const NodeCapacity& node : nodes) known.emplace(node.name, &node);
  std::set<std::string> used;
  for (const v1::RankAssignment& rank : plan->ranks()) used.insert(rank.node());
  plan->clear_nodes();
  for (const std::string& name : used) {
    v1::PlannedNode* node = plan->add_nodes();
    node->set_name(name);
    const auto found = known.find(name);
    if (found == known.end()) continue;
    node->set_leaf(found->second->leaf);
    node->set_failure_domain(found->second->failure_domain);
  }
}

}  // namespace fathom::planner
