#include "coordinator/planner/expert_placement.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/base/check.h"
#include "common/base/status_util.h"
#include "coordinator/planner/device_packing.h"
#include "coordinator/planner/min_cost_assignment.h"

namespace fathom::planner {
namespace {

constexpr int kNone = -1;
// Pairs of groups for which it is tried whether trading nodes helps.
constexpr int kMaxGroupTrades = 96;

// The shape as the algorithms use it: global placement is one group on one node.
struct Division {
  explicit Division(const ExpertShape& shape)
      : experts(shape.experts),
        groups(shape.hierarchical() ? shape.groups : 1),
        nodes(shape.hierarchical() ? shape.nodes : 1),
        devices_per_node(shape.devices / nodes),
        slots(shape.slots_per_device()),
        group_size(experts / groups),
        experts_per_node(experts / nodes) {}

  int experts, groups, nodes, devices_per_node, slots, group_size, experts_per_node;
};

std::vector<double> GroupLoads(const std::vector<double>& loads, const Division& division) {
  std::vector<double> sums(division.groups, 0);
  for (int e = 0; e < division.experts; ++e) sums[e / division.group_size] += loads[e];
  return sums;
}

DeviceContents ContentsOf(const std::vector<int>& physical, int slots) {
  DeviceContents contents(physical.size() / slots);
  for (size_t i = 0; i < physical.size(); ++i) contents[i / slots].push_back(physical[i]);
  return contents;
}

// --- The published algorithm ---

// The bin and the place in it of each item.
std::vector<std::pair<int, int>> EplbPack(const std::vector<double>& weights, int bins) {
  const int items = static_cast<int>(weights.size());
  const int room = items / bins;
  std::vector<std::pair<int, int>> places(items);
  std::vector<int> order(items);
  std::iota(order.begin(), order.end(), 0);
  if (room == 1) {
    for (int item : order) places[item] = {item, 0};
    return places;
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](int a, int b) { return weights[a] > weights[b]; });
  std::vector<double> sums(bins, 0);
  std::vector<int> filled(bins, 0);
  for (int item : order) {
    int lightest = kNone;
    for (int bin = 0; bin < bins; ++bin) {
      if (filled[bin] == room) continue;
      if (lightest == kNone || sums[bin] < sums[lightest]) lightest = bin;
    }
    places[item] = {lightest, filled[lightest]++};
    sums[lightest] += weights[item];
  }
  return places;
}

std::vector<int> PlaceEplb(const std::vector<double>& loads, const Division& division) {
  const std::vector<std::pair<int, int>> group_places =
      EplbPack(GroupLoads(loads, division), division.nodes);
  const int groups_per_node = division.groups / division.nodes;
  std::vector<std::vector<int>> experts(division.nodes,
                                        std::vector<int>(division.experts_per_node));
  for (int e = 0; e < division.experts; ++e) {
    const auto [node, place] = group_places[e / division.group_size];
    FATHOM_CHECK(place < groups_per_node) << "node " << node << " has too many groups";
    experts[node][place * division.group_size + e % division.group_size] = e;
  }
  const int node_slots = division.devices_per_node * division.slots;
  std::vector<int> physical(static_cast<size_t>(division.nodes) * node_slots);
  for (int node = 0; node < division.nodes; ++node) {
    std::vector<double> node_loads;
    for (int e : experts[node]) node_loads.push_back(loads[e]);
    // One copy of each in order, then the further ones as they were chosen.
    std::vector<int> copies(node_loads.size(), 1);
    std::vector<int> replicas(node_loads.size());
    std::iota(replicas.begin(), replicas.end(), 0);
    while (static_cast<int>(replicas.size()) < node_slots) {
      size_t chosen = 0;
      for (size_t i = 1; i < node_loads.size(); ++i) {
        if (node_loads[i] / copies[i] > node_loads[chosen] / copies[chosen]) chosen = i;
      }
      ++copies[chosen];
      replicas.push_back(static_cast<int>(chosen));
    }
    std::vector<double> weights;
    for (int item : replicas) weights.push_back(node_loads[item] / copies[item]);
    const auto places = EplbPack(weights, division.devices_per_node);
    for (size_t i = 0; i < replicas.size(); ++i) {
      const auto [device, place] = places[i];
      physical[node * node_slots + device * division.slots + place] = experts[node][replicas[i]];
    }
  }
  return physical;
}

// --- The balanced one ---

int Overlap(const std::vector<int>& a, const std::vector<int>& b) {
  return static_cast<int>(std::count_if(
      a.begin(), a.end(), [&](int x) { return std::find(b.begin(), b.end(), x) != b.end(); }));
}

class Balancer {
 public:
  Balancer(const std::vector<double>& loads, const Division& division)
      : loads_(loads), division_(division), group_loads_(GroupLoads(loads, division)) {}

  // The better of two starts: even nodes, and the published placement without its second copies.
  DeviceContents FromNothing() const {
    DeviceContents groups = Pack(GroupProblem());
    DeviceContents own =
        OnNodes(groups, [](const PackingProblem& problem, int) { return Pack(problem); });
    const DeviceContents published = ContentsOf(PlaceEplb(loads_, division_), division_.slots);
    const DeviceContents published_groups = GroupsByNode(published);
    const DeviceContents improved =
        OnNodes(published_groups, [&](const PackingProblem& problem, int node) {
          return Improve(problem, ItemsOf(published_groups, published, node));
        });
    if (GreatestLoad(loads_, improved) < GreatestLoad(loads_, own) * (1 - kLoadTolerance)) {
      own = improved;
      groups = published_groups;
    }
    TradeGroups(groups, own);
    return own;
  }

  // Not above `tolerance` over the greatest load of FromNothing.
  DeviceContents From(const DeviceContents& present, double tolerance) const {
    const DeviceContents fresh = FromNothing();
    const double best_known = GreatestLoad(loads_, fresh);
    const double published =
        GreatestLoad(loads_, ContentsOf(PlaceEplb(loads_, division_), division_.slots));
    const double target = std::max(best_known, std::min(best_known * (1 + tolerance), published));
    const DeviceContents fresh_groups = NearestNodes(GroupsByNode(fresh), present);
    DeviceContents best = Matched(fresh_groups, fresh, present);
    int64_t best_moved = Moved(best, present);
    double best_load = GreatestLoad(loads_, best);
    const auto consider = [&](const DeviceContents& groups) {
      const DeviceContents one = Near(groups, present, target);
      const double load = GreatestLoad(loads_, one);
      const int64_t moved = Moved(one, present);
      if (load > target * (1 + 2 * kLoadTolerance)) return;
      if (moved > best_moved || (moved == best_moved && load >= best_load)) return;
      best = one;
      best_moved = moved;
      best_load = load;
    };
    consider(fresh_groups);
    const DeviceContents present_groups = GroupsByNode(present);
    if (IsWhole(present_groups)) {
      // Nodes may not use all of the slack, lest their devices get none.
      const double node_fresh = GreatestLoad(group_loads_, GroupsByNode(fresh));
      const double node_target = target * division_.devices_per_node;
      for (double part : {1.0, 0.5, 0.0}) {
        const double aim = std::min(node_target, node_fresh + part * (node_target - node_fresh));
        consider(Repack(GroupProblem(), present_groups, aim));
      }
    }
    return best;
  }

 private:
  PackingProblem GroupProblem() const {
    return {group_loads_, division_.nodes, division_.groups / division_.nodes};
  }

  PackingProblem NodeProblem(const std::vector<int>& experts) const {
    PackingProblem problem{{}, division_.devices_per_node, division_.slots};
    for (int e : experts) problem.loads.push_back(loads_[e]);
    return problem;
  }

  DeviceContents PackNode(const std::vector<int>& groups) const {
    const std::vector<int> experts = ExpertsOf(groups);
    DeviceContents contents = Pack(NodeProblem(experts));
    for (std::vector<int>& device : contents) {
      for (int& item : device) item = experts[item];
    }
    return contents;
  }

  // The node's devices, with experts as the items of the node's problem; -1: of another node.
  DeviceContents ItemsOf(const DeviceContents& groups, const DeviceContents& contents,
                         int node) const {
    const std::vector<int> experts = ExpertsOf(groups[node]);
    std::vector<int> item_of(division_.experts, kNone);
    for (size_t i = 0; i < experts.size(); ++i) item_of[experts[i]] = static_cast<int>(i);
    DeviceContents items = NodeOf(contents, node);
    for (std::vector<int>& device : items) {
      for (int& entry : device) entry = item_of[entry];
    }
    return items;
  }

  DeviceContents NodeOf(const DeviceContents& contents, int node) const {
    const auto begin = contents.begin() + int64_t{node} * division_.devices_per_node;
    return DeviceContents(begin, begin + division_.devices_per_node);
  }

  // Even nodes are not the aim, even devices are: groups of the node with the heaviest device trade
  // places with others as long as that lowers the greatest load of the two nodes.
  void TradeGroups(DeviceContents& groups, DeviceContents& contents) const {
    const int devices = division_.devices_per_node;
    int trades_left = kMaxGroupTrades;
    while (trades_left > 0) {
      const std::vector<double> sums = DeviceLoads(loads_, contents);
      const auto greatest = std::max_element(sums.begin(), sums.end());
      const int node = static_cast<int>(greatest - sums.begin()) / devices;
      double best_load = *greatest * (1 - kLoadTolerance);
      int partner = kNone;
      std::vector<int> best_own, best_other;
      for (int other = 0; other < division_.nodes && trades_left > 0; ++other) {
        if (other == node) continue;
        for (size_t i = 0; i < groups[node].size(); ++i) {
          for (size_t j = 0; j < groups[other].size() && trades_left > 0; ++j) {
            --trades_left;
            std::vector<int> own = groups[node], their = groups[other];
            std::swap(own[i], their[j]);
            std::sort(own.begin(), own.end());
            std::sort(their.begin(), their.end());
            const double own_load = GreatestLoad(loads_, PackNode(own));
            if (own_load >= best_load) continue;
            const double load = std::max(own_load, GreatestLoad(loads_, PackNode(their)));
            if (load >= best_load) continue;
            best_load = load;
            partner = other;
            best_own = std::move(own);
            best_other = std::move(their);
          }
        }
      }
      if (partner == kNone) return;
      for (const auto& [at, with] : {std::pair(node, best_own), std::pair(partner, best_other)}) {
        groups[at] = with;
        const DeviceContents packed = PackNode(with);
        std::copy(packed.begin(), packed.end(), contents.begin() + int64_t{at} * devices);
      }
    }
  }

  // The devices of all nodes, from each node's problem; `pack` also gets the node.
  template <typename Packer>
  DeviceContents OnNodes(const DeviceContents& groups, Packer pack) const {
    DeviceContents all;
    for (int node = 0; node < division_.nodes; ++node) {
      const std::vector<int> experts = ExpertsOf(groups[node]);
      for (std::vector<int>& device : pack(NodeProblem(experts), node)) {
        for (int& item : device) item = experts[item];
        all.push_back(std::move(device));
      }
    }
    return all;
  }

  // Ascending, as the groups are.
  std::vector<int> ExpertsOf(const std::vector<int>& groups) const {
    std::vector<int> experts;
    for (int group : groups) {
      for (int i = 0; i < division_.group_size; ++i) {
        experts.push_back(group * division_.group_size + i);
      }
    }
    return experts;
  }

  // Those with any copy there.
  DeviceContents GroupsByNode(const DeviceContents& contents) const {
    DeviceContents groups(division_.nodes);
    for (size_t device = 0; device < contents.size(); ++device) {
      std::vector<int>& node = groups[device / division_.devices_per_node];
      for (int e : contents[device]) node.push_back(e / division_.group_size);
    }
    for (std::vector<int>& node : groups) {
      std::sort(node.begin(), node.end());
      node.erase(std::unique(node.begin(), node.end()), node.end());
    }
    return groups;
  }

  // Each group on one node, as many on each.
  bool IsWhole(const DeviceContents& groups) const {
    std::vector<int> homes(division_.groups, 0);
    for (const std::vector<int>& node : groups) {
      if (static_cast<int>(node.size()) * division_.nodes != division_.groups) return false;
      for (int group : node) ++homes[group];
    }
    return std::all_of(homes.begin(), homes.end(), [](int count) { return count == 1; });
  }

  // The nodes' groups dealt to the nodes that hold most of them already.
  DeviceContents NearestNodes(const DeviceContents& groups, const DeviceContents& present) const {
    std::vector<std::vector<int64_t>> copies(division_.nodes,
                                             std::vector<int64_t>(division_.groups, 0));
    for (size_t device = 0; device < present.size(); ++device) {
      for (int e : present[device]) {
        ++copies[device / division_.devices_per_node][e / division_.group_size];
      }
    }
    std::vector<std::vector<int64_t>> costs(division_.nodes,
                                            std::vector<int64_t>(division_.nodes, 0));
    for (int from = 0; from < division_.nodes; ++from) {
      for (int to = 0; to < division_.nodes; ++to) {
        for (int group : groups[from]) costs[from][to] -= copies[to][group];
      }
    }
    const std::vector<int> to = MinCostAssignment(costs);
    DeviceContents dealt(division_.nodes);
    for (int from = 0; from < division_.nodes; ++from) dealt[to[from]] = groups[from];
    return dealt;
  }

  // The devices of `fresh` dealt within the nodes that `groups` gives them, most overlap first.
  DeviceContents Matched(const DeviceContents& groups, const DeviceContents& fresh,
                         const DeviceContents& present) const {
    const DeviceContents fresh_groups = GroupsByNode(fresh);
    const int devices = division_.devices_per_node;
    DeviceContents dealt(fresh.size());
    for (int node = 0; node < division_.nodes; ++node) {
      const int source = static_cast<int>(
          std::find(fresh_groups.begin(), fresh_groups.end(), groups[node]) - fresh_groups.begin());
      FATHOM_CHECK(source < division_.nodes) << "the groups of node " << node << " are nowhere";
      std::vector<std::vector<int64_t>> costs(devices, std::vector<int64_t>(devices));
      for (int from = 0; from < devices; ++from) {
        for (int to = 0; to < devices; ++to) {
          costs[from][to] = -Overlap(fresh[source * devices + from], present[node * devices + to]);
        }
      }
      const std::vector<int> to = MinCostAssignment(costs);
      for (int from = 0; from < devices; ++from) {
        dealt[node * devices + to[from]] = fresh[source * devices + from];
      }
    }
    return dealt;
  }

  // The present placement with only the changes that `groups` and `target` need.
  DeviceContents Near(const DeviceContents& groups, const DeviceContents& present,
                      double target) const {
    return OnNodes(groups, [&](const PackingProblem& problem, int node) {
      return Repack(problem, ItemsOf(groups, present, node), target);
    });
  }

  int64_t Moved(const DeviceContents& contents, const DeviceContents& present) const {
    int64_t moved = 0;
    for (size_t device = 0; device < contents.size(); ++device) {
      moved += division_.slots - Overlap(contents[device], present[device]);
    }
    return moved;
  }

  const std::vector<double>& loads_;
  const Division& division_;
  const std::vector<double> group_loads_;
};

// Each expert that stays on its device keeps its slot there; the others fill up, ascending.
std::vector<int> SlotsOf(const DeviceContents& contents, const std::vector<int>& current,
                         int slots) {
  std::vector<int> physical;
  for (size_t device = 0; device < contents.size(); ++device) {
    std::vector<int> coming = contents[device];
    std::vector<int> own(slots, kNone);
    for (int slot = 0; slot < slots && !current.empty(); ++slot) {
      const int expert = current[device * slots + slot];
      const auto found = std::find(coming.begin(), coming.end(), expert);
      if (found == coming.end()) continue;
      own[slot] = expert;
      coming.erase(found);
    }
    auto next = coming.begin();
    for (int& expert : own) {
      if (expert == kNone) expert = *next++;
    }
    physical.insert(physical.end(), own.begin(), own.end());
  }
  return physical;
}

// --- Checks ---

// " is ..., the nearest that works: 4 or 6".
std::string NearestDivisors(int64_t number, int64_t wanted) {
  int64_t below = wanted, above = wanted;
  while (below > 1 && number % below != 0) --below;
  while (above < number && number % above != 0) ++above;
  if (wanted >= number) return absl::StrCat(number);
  return absl::StrCat(below, " or ", above);
}

absl::Status CheckLimit(absl::string_view name, int64_t value, int64_t most) {
  if (value < 1) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": ", value, " is not positive"));
  }
  if (value <= most) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(name, ": ", value, " is more than the ", most, " that can be planned"));
}

// Every device as many slots, none without room for another expert.
absl::Status CheckReplicas(const ExpertShape& shape, PlacementAlgorithm algorithm) {
  const int64_t devices = shape.devices;
  const int experts_per_node = Division(shape).experts_per_node;
  const int64_t least = (shape.experts + devices - 1) / devices * devices;
  const int64_t most = algorithm == PlacementAlgorithm::kEplb
                           ? kMaxExpertReplicas / devices * devices
                           : experts_per_node * devices;
  if (shape.replicas < shape.experts) {
    return absl::FailedPreconditionError(absl::StrCat(
        "replicas: ", shape.replicas, " slots can't hold one copy of each of ", shape.experts,
        " experts; the nearest number that works on ", devices, " devices is ", least));
  }
  if (shape.replicas % devices != 0) {
    const int64_t below = std::min(shape.replicas / devices * devices, most);
    const int64_t above = std::min(below + devices, most);
    return absl::FailedPreconditionError(
        absl::StrCat("replicas: ", shape.replicas, " can't be spread evenly over ", devices,
                     " devices; the nearest number that works is ",
                     below >= least && below < above ? absl::StrCat(below, " or ") : "", above));
  }
  if (shape.replicas <= most) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "replicas: ", shape.replicas, " on ", devices, " devices make ", shape.slots_per_device(),
      " slots on each, but ",
      shape.hierarchical() && shape.nodes > 1 ? "a node has only " : "there are only ",
      experts_per_node, " experts to fill them without two copies of one on a device; at most ",
      most, " replicas work, or --algorithm eplb, which allows such copies"));
}

absl::Status CheckLoads(const std::vector<double>& loads, const ExpertShape& shape) {
  if (static_cast<int64_t>(loads.size()) != shape.experts) {
    return absl::InvalidArgumentError(absl::StrCat(
        "there are ", loads.size(), " loads, not one for each of ", shape.experts, " experts"));
  }
  for (size_t e = 0; e < loads.size(); ++e) {
    if (loads[e] >= 0 && loads[e] <= kMaxExpertLoad) continue;
    return absl::InvalidArgumentError(absl::StrCat("the load of expert ", e, " is ", loads[e],
                                                   ", not a number from 0 to ", kMaxExpertLoad));
  }
  return absl::OkStatus();
}

absl::Status CheckCurrent(const std::vector<int>& current, const ExpertShape& shape) {
  if (current.empty()) return absl::OkStatus();
  if (static_cast<int64_t>(current.size()) != shape.replicas) {
    return absl::InvalidArgumentError(
        absl::StrCat("the present placement has ", current.size(), " slots, not ", shape.replicas));
  }
  for (size_t slot = 0; slot < current.size(); ++slot) {
    if (current[slot] >= 0 && current[slot] < shape.experts) continue;
    return absl::InvalidArgumentError(absl::StrCat("slot ", slot, " of the present placement is ",
                                                   current[slot], ", not an expert from 0 to ",
                                                   shape.experts - 1));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckExpertShape(const ExpertShape& shape, PlacementAlgorithm algorithm) {
  FATHOM_RETURN_IF_ERROR(CheckLimit("experts", shape.experts, kMaxExperts));
  FATHOM_RETURN_IF_ERROR(CheckLimit("replicas", shape.replicas, kMaxExpertReplicas));
  FATHOM_RETURN_IF_ERROR(CheckLimit("groups", shape.groups, kMaxExperts));
  FATHOM_RETURN_IF_ERROR(CheckLimit("nodes", shape.nodes, kMaxExpertDevices));
  FATHOM_RETURN_IF_ERROR(CheckLimit("devices", shape.devices, kMaxExpertDevices));
  if (shape.experts % shape.groups != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("groups: ", shape.experts, " experts can't be divided into ", shape.groups,
                     " equal groups; the nearest number that works is ",
                     NearestDivisors(shape.experts, shape.groups)));
  }
  if (shape.devices % shape.nodes != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("nodes: ", shape.devices, " devices can't be divided among ", shape.nodes,
                     " nodes equally; the nearest number that works is ",
                     NearestDivisors(shape.devices, shape.nodes)));
  }
  return CheckReplicas(shape, algorithm);
}

absl::StatusOr<ExpertPlacement> PlaceExperts(const std::vector<double>& loads,
                                             const ExpertShape& shape,
                                             const PlacementOptions& options,
                                             const std::vector<int>& current) {
  FATHOM_RETURN_IF_ERROR(CheckExpertShape(shape, options.algorithm));
  FATHOM_RETURN_IF_ERROR(CheckLoads(loads, shape));
  FATHOM_RETURN_IF_ERROR(CheckCurrent(current, shape));
  if (!(options.tolerance >= 0 && options.tolerance <= 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("tolerance: ", options.tolerance, " is not between 0 and 1"));
  }
  const Division division(shape);
  const int slots = shape.slots_per_device();
  ExpertPlacement placement;
  if (options.algorithm == PlacementAlgorithm::kEplb) {
    placement.physical_to_logical = PlaceEplb(loads, division);
  } else {
    const Balancer balancer(loads, division);
    placement.physical_to_logical =
        SlotsOf(current.empty() ? balancer.FromNothing()
                                : balancer.From(ContentsOf(current, slots), options.tolerance),
                current, slots);
  }
  placement.counts.assign(shape.experts, 0);
  for (int e : placement.physical_to_logical) ++placement.counts[e];
  const std::vector<double> sums =
      DeviceLoads(loads, ContentsOf(placement.physical_to_logical, slots));
  const double mean = std::accumulate(loads.begin(), loads.end(), 0.0) / shape.devices;
  if (mean > 0) {
    placement.device_max_over_mean = *std::max_element(sums.begin(), sums.end()) / mean;
  }
  if (!current.empty()) {
    int64_t moved = 0;
    for (size_t slot = 0; slot < current.size(); ++slot) {
      if (placement.physical_to_logical[slot] != current[slot]) ++moved;
    }
    placement.moved = moved;
  }
  return placement;
}

}  // namespace fathom::planner
