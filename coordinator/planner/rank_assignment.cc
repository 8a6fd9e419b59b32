#include "coordinator/planner/rank_assignment.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <numeric>
#include <set>
#include <tuple>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status_util.h"
#include "common/plan/plan_layout.h"

namespace fathom::planner {
namespace {

struct Device {
  int node = 0;  // index into the nodes given
  int index = 0;
};
using Group = std::vector<Device>;  // by expert rank

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

int64_t FreeOn(const NodeCapacity& node) { return static_cast<int64_t>(node.free_devices.size()); }

// Nodes with the most free devices first; among equals as given, or taking turns between failure
// domains.
std::vector<int> SortNodes(const std::vector<NodeCapacity>& nodes, bool take_turns) {
  std::vector<int> turn(nodes.size(), 0);
  std::map<std::string, int> seen;
  for (size_t i = 0; take_turns && i < nodes.size(); ++i) {
    if (!nodes[i].failure_domain.empty()) turn[i] = seen[nodes[i].failure_domain]++;
  }
  std::vector<int> order(nodes.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
    return std::pair(-FreeOn(nodes[a]), turn[a]) < std::pair(-FreeOn(nodes[b]), turn[b]);
  });
  return order;
}

// The nodes to use, only as many as are needed.
std::vector<int> ChooseNodes(const v1::Parallelism& shape, const std::vector<NodeCapacity>& nodes,
                             bool use_domains) {
  const int64_t groups = int64_t{shape.pipeline()} * shape.replicas();
  const int64_t pairs = shape.pipeline() > 1 ? groups / 2 : groups;
  int64_t all_whole = 0;
  for (const NodeCapacity& node : nodes) all_whole += FreeOn(node) / shape.expert();
  // Groups that span nodes stay within a failure domain's neighbourhood: the order given.
  std::vector<int> order = SortNodes(nodes, use_domains && all_whole >= groups);

  int64_t devices = 0;  // on the first nodes
  int64_t whole = 0;    // groups that fit there whole
  int64_t apart = 0;    // of those, how many can be used with each pair on two nodes
  std::vector<size_t> enough(3, 0);
  for (size_t i = 0; i < order.size(); ++i) {
    const int64_t slots = FreeOn(nodes[order[i]]) / shape.expert();
    devices += FreeOn(nodes[order[i]]);
    whole += slots;
    apart += std::min(slots, pairs);
    if (enough[0] == 0 && apart >= groups) enough[0] = i + 1;
    if (enough[1] == 0 && whole >= groups) enough[1] = i + 1;
    if (enough[2] == 0 && devices >= groups * shape.expert()) enough[2] = i + 1;
  }
  for (size_t count : enough) {
    if (count == 0) continue;
    order.resize(count);
    break;
  }
  return order;
}

class Assigner {
 public:
  Assigner(const v1::Parallelism& shape, const std::vector<NodeCapacity>& nodes, bool use_domains)
      : shape_(shape),
        nodes_(nodes),
        use_domains_(use_domains),
        order_(ChooseNodes(shape, nodes, use_domains)),
        free_(nodes.size()) {
    for (int node : order_) {
      free_[node] = nodes[node].free_devices;
      std::sort(free_[node].rbegin(), free_[node].rend());  // taken from the back: lowest first
    }
  }

  void Run() {
    groups_.resize(shape_.pipeline() * shape_.replicas());
    for (int replica = 0; replica < shape_.replicas(); ++replica) {
      Group* const first = &groups_[replica * shape_.pipeline()];
      for (int p = 0; p < (shape_.pipeline() + 1) / 2; ++p) {
        const int mirror = shape_.pipeline() - 1 - p;
        first[p] = Place(nullptr);
        if (mirror == p) continue;
        first[mirror] = Place(&first[p]);
        SetApart(first[p], &first[mirror]);
        CountTogether(first[p], first[mirror]);
      }
    }
  }

  // Fewer is better: mirrors on one node, then mirrors in one failure domain.
  std::pair<int, int> score() const { return {same_node_, same_domain_}; }
  // [replica * pipeline + pipeline rank]
  const std::vector<Group>& groups() const { return groups_; }

 private:
  bool SameDomain(int a, int b) const {
    return !nodes_[a].failure_domain.empty() &&
           nodes_[a].failure_domain == nodes_[b].failure_domain;
  }

  // How much each node is to be avoided by the mirror of `other`.
  std::vector<int> Closeness(const Group* other) const {
    std::vector<int> closeness(nodes_.size(), 0);
    if (other == nullptr) return closeness;
    std::set<std::string> domains;
    for (const Device& device : *other) domains.insert(nodes_[device.node].failure_domain);
    for (int node : order_) {
      const std::string& domain = nodes_[node].failure_domain;
      if (use_domains_ && !domain.empty() && domains.count(domain) > 0) closeness[node] = 1;
    }
    for (const Device& device : *other) closeness[device.node] = 2;
    return closeness;
  }

  Group Place(const Group* other) {
    const size_t size = shape_.expert();
    const std::vector<int> closeness = Closeness(other);
    // Whole first; then far from the mirror; then where most room is left.
    auto key = [&](int node) {
      const auto room = static_cast<int64_t>(free_[node].size());
      return std::tuple(room == 0, room < static_cast<int64_t>(size), closeness[node], -room);
    };
    Group group;
    while (group.size() < size) {
      const int node = *std::min_element(order_.begin(), order_.end(),
                                         [&](int a, int b) { return key(a) < key(b); });
      FATHOM_CHECK(!free_[node].empty()) << "no room for " << size - group.size() << " ranks";
      while (!free_[node].empty() && group.size() < size) {
        group.push_back({node, free_[node].back()});
        free_[node].pop_back();
      }
    }
    return group;
  }

  int Together(const Group& a, const Group& b, size_t shift) const {
    int together = 0;
    for (size_t i = 0; i < a.size(); ++i) {
      together += a[i].node == b[(i + shift) % b.size()].node;
    }
    return together;
  }

  // Where two spread groups share nodes: turn one so that as few pairs as possible meet.
  void SetApart(const Group& fixed, Group* turned) const {
    size_t best = 0;
    int fewest = Together(fixed, *turned, 0);
    for (size_t shift = 1; shift < turned->size() && fewest > 0; ++shift) {
      const int together = Together(fixed, *turned, shift);
      if (together < fewest) {
        fewest = together;
        best = shift;
      }
    }
    std::rotate(turned->begin(), turned->begin() + static_cast<int64_t>(best), turned->end());
  }

  void CountTogether(const Group& a, const Group& b) {
    for (size_t i = 0; i < a.size(); ++i) {
      same_node_ += a[i].node == b[i].node;
      same_domain_ += SameDomain(a[i].node, b[i].node);
    }
  }

  const v1::Parallelism& shape_;
  const std::vector<NodeCapacity>& nodes_;
  const bool use_domains_;
  const std::vector<int> order_;
  std::vector<std::vector<int>> free_;  // by node, descending
  std::vector<Group> groups_;
  int same_node_ = 0;
  int same_domain_ = 0;
};

}  // namespace

absl::StatusOr<std::vector<v1::RankAssignment>> AssignRanks(
    const v1::Parallelism& shape, const std::vector<NodeCapacity>& nodes) {
  FATHOM_RETURN_IF_ERROR(CheckNodes(nodes));
  FATHOM_CHECK(shape.pipeline() >= 1 && shape.expert() >= 1 && shape.replicas() >= 1)
      << "a shape that no job resolver lets through";
  const int64_t needed = int64_t{shape.pipeline()} * shape.expert() * shape.replicas();
  int64_t free_devices = 0;
  for (const NodeCapacity& node : nodes) free_devices += node.free_devices.size();
  if (free_devices < needed) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "needs ", needed, " devices (pipeline ", shape.pipeline(), " x expert ", shape.expert(),
        " x replicas ", shape.replicas(), "), and ", free_devices, " are free on ", nodes.size(),
        " nodes; wait for other jobs, add nodes, or lower spec.parallelism"));
  }
  Assigner plain(shape, nodes, /*use_domains=*/false);
  plain.Run();
  Assigner by_domain(shape, nodes, /*use_domains=*/true);
  by_domain.Run();
  const Assigner& best = by_domain.score() < plain.score() ? by_domain : plain;

  std::vector<v1::RankAssignment> ranks(needed);
  for (int replica = 0; replica < shape.replicas(); ++replica) {
    for (int p = 0; p < shape.pipeline(); ++p) {
      const Group& group = best.groups()[replica * shape.pipeline() + p];
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

}  // namespace fathom::planner
