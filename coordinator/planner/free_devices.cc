#include "coordinator/planner/free_devices.h"

#include <algorithm>
#include <map>
#include <tuple>

#include "common/base/check.h"

namespace fathom::planner {
namespace {

// Dense numbers for names; empty: -1.
class Numbers {
 public:
  int Of(const std::string& name) {
    if (name.empty()) return -1;
    return numbers_.emplace(name, static_cast<int>(numbers_.size())).first->second;
  }
  size_t size() const { return numbers_.size(); }

 private:
  std::map<std::string, int> numbers_;
};

}  // namespace

FreeDevices::FreeDevices(const std::vector<NodeCapacity>& nodes, const std::vector<int>& order,
                         int size, Closeness counted)
    : size_(size), order_(order), nodes_(nodes.size()), node_marked_(nodes.size(), 0) {
  Numbers leaves;
  Numbers domains;
  for (size_t place = 0; place < order_.size(); ++place) {
    const NodeCapacity& given = nodes[order_[place]];
    Node& node = nodes_[order_[place]];
    node.free = given.free_devices;
    std::sort(node.free.rbegin(), node.free.rend());
    node.place = static_cast<int>(place);
    node.leaf = leaves.Of(given.leaf);
    node.domain = domains.Of(given.failure_domain);
  }
  leaf_marked_.assign(leaves.size(), 0);
  domain_marked_.assign(domains.size(), 0);

  std::map<std::pair<int, int>, int> cell_of;
  std::map<std::pair<int, int>, int> region_of;
  std::map<int, int> unit_of;
  for (const int index : order_) {
    Node& node = nodes_[index];
    const int leaf = counted.leaves ? node.leaf : -1;
    const int domain = counted.domains ? node.domain : -1;
    const auto [at, is_new] =
        cell_of.emplace(std::pair(leaf, domain), static_cast<int>(cells_.size()));
    node.cell = at->second;
    if (is_new) {
      Cell& cell = cells_.emplace_back();
      cell.leaf = leaf;
      cell.domain = domain;
      const std::pair region(domain, domain < 0 ? leaf : -1);
      cell.region = region_of.emplace(region, static_cast<int>(region_of.size())).first->second;
      cell.unit = unit_of.emplace(leaf, static_cast<int>(unit_of.size())).first->second;
    }
    Cell& cell = cells_[node.cell];
    cell.room += RoomOf(index);
    cell.nodes.emplace(-RoomOf(index), node.place);
  }
  regions_.resize(region_of.size());
  units_.resize(unit_of.size());
  MakeCells();
}

void FreeDevices::MakeCells() {
  for (size_t i = 0; i < cells_.size(); ++i) {
    const Cell& cell = cells_[i];
    Unit& unit = units_[cell.unit];
    unit.cells.push_back(static_cast<int>(i));
    unit.room += cell.room;
    Region& region = regions_[cell.region];
    region.room += cell.room;
    if (-cell.nodes.begin()->first >= size_) {
      region.cells.emplace(-cell.room, static_cast<int>(i));
    }
  }
  for (size_t i = 0; i < regions_.size(); ++i) {
    if (!regions_[i].cells.empty()) by_room_.emplace(-regions_[i].room, static_cast<int>(i));
  }
}

bool FreeDevices::SameDomain(int node_a, int node_b) const {
  return nodes_[node_a].domain >= 0 && nodes_[node_a].domain == nodes_[node_b].domain;
}

bool FreeDevices::SameLeaf(int node_a, int node_b) const {
  return nodes_[node_a].leaf >= 0 && nodes_[node_a].leaf == nodes_[node_b].leaf;
}

int FreeDevices::LeavesOf(const DeviceGroup& group) const {
  std::set<int> leaves;
  for (const FreeDevice& device : group) leaves.insert(nodes_[device.node].leaf);
  return static_cast<int>(leaves.size());
}

void FreeDevices::Mark(const DeviceGroup* other) {
  ++taking_;
  if (other == nullptr) return;
  for (const FreeDevice& device : *other) {
    node_marked_[device.node] = taking_;
    const Cell& cell = cells_[nodes_[device.node].cell];
    if (cell.domain >= 0) domain_marked_[cell.domain] = taking_;
    if (cell.leaf >= 0) leaf_marked_[cell.leaf] = taking_;
  }
}

int FreeDevices::NearnessOf(const Cell& cell) const {
  if (cell.domain >= 0 && domain_marked_[cell.domain] == taking_) return 2;
  return cell.leaf >= 0 && leaf_marked_[cell.leaf] == taking_ ? 1 : 0;
}

DeviceGroup FreeDevices::Take(const DeviceGroup* apart_from) {
  Mark(apart_from);
  DeviceGroup group;
  group.reserve(static_cast<size_t>(size_));
  const int node = NodeForWhole();
  if (node >= 0) {
    TakeOn(node, size_, &group);
    return group;
  }
  while (static_cast<int64_t>(group.size()) < size_) {
    const int64_t left = size_ - static_cast<int64_t>(group.size());
    const int unit = UnitFor(left, group.empty());
    TakeInUnit(unit, std::min(left, units_[unit].room), &group);
  }
  return group;
}

int FreeDevices::NodeIn(const Cell& cell, int64_t wanted) const {
  int marked = -1;
  for (const auto& [room, place] : cell.nodes) {
    if (-room < wanted) break;
    const int node = order_[place];
    if (node_marked_[node] != taking_) return node;
    if (marked < 0) marked = node;
  }
  return marked;
}

int FreeDevices::NodeForWhole() const {
  int best = -1;
  int best_nearness = 4;
  for (const auto& [region_room, region] : by_room_) {
    for (const auto& [cell_room, index] : regions_[region].cells) {
      const Cell& cell = cells_[index];
      int nearness = NearnessOf(cell);
      if (nearness >= best_nearness) continue;
      const int node = NodeIn(cell, size_);
      if (node_marked_[node] == taking_) nearness = 3;
      if (nearness >= best_nearness) continue;
      best = node;
      best_nearness = nearness;
      if (nearness == 0) return best;
    }
  }
  return best;
}

// The first part of a group goes where all of it fits, far away, where most is left; the rest where
// it breaks up least.
int FreeDevices::UnitFor(int64_t wanted, bool first) const {
  int best = -1;
  std::tuple<bool, int64_t, int, int64_t, int64_t> best_key;
  for (size_t i = 0; i < units_.size(); ++i) {
    const Unit& unit = units_[i];
    if (unit.room == 0) continue;
    const bool fits = unit.room >= wanted;
    int64_t far = 0;  // room away from what is to be avoided
    int64_t bulk = unit.room;
    int near = 0;
    for (const int index : unit.cells) {
      const Cell& cell = cells_[index];
      const int nearness = NearnessOf(cell);
      if (nearness == 2) near = 2;
      if (nearness < 2) far += cell.room;
      if (nearness == 1) near = std::max(near, 1);
      if (cell.room > 0) bulk = std::max(bulk, regions_[cell.region].room);
    }
    if (near == 2 && far >= wanted) near = 1;
    const int64_t broken = fits && !first ? unit.room / size_ - (unit.room - wanted) / size_ : 0;
    const std::tuple key(!fits, fits ? broken : -unit.room, near, -bulk, -unit.room);
    if (best < 0 || key < best_key) {
      best = static_cast<int>(i);
      best_key = key;
    }
  }
  FATHOM_CHECK(best >= 0) << "no room for " << wanted << " ranks";
  return best;
}

int FreeDevices::CellIn(const Unit& unit, int64_t wanted, const std::set<int>& begun) const {
  int best = -1;
  std::tuple<bool, int, bool, int64_t> best_key;
  for (const int index : unit.cells) {
    const Cell& cell = cells_[index];
    if (cell.room == 0) continue;
    const std::tuple key(cell.room < wanted, NearnessOf(cell), begun.count(cell.domain) == 0,
                         -cell.room);
    if (best < 0 || key < best_key) {
      best = index;
      best_key = key;
    }
  }
  FATHOM_CHECK(best >= 0) << "no room for " << wanted << " ranks under a leaf";
  return best;
}

void FreeDevices::TakeInUnit(int unit, int64_t count, DeviceGroup* group) {
  std::set<int> begun;
  while (count > 0) {
    const int index = CellIn(units_[unit], count, begun);
    begun.insert(cells_[index].domain);
    for (int64_t here = std::min(count, cells_[index].room); here > 0;) {
      const Cell& cell = cells_[index];
      int node = NodeIn(cell, 1);
      const int64_t room = RoomOf(node);
      if (room > here) {
        // The smallest that holds the rest, unless that one is to be avoided.
        const auto above = cell.nodes.lower_bound({-here + 1, 0});
        const int64_t smallest = std::prev(above)->first;
        const int snug = order_[cell.nodes.lower_bound({smallest, 0})->second];
        if (node_marked_[snug] != taking_) node = snug;
      }
      const int64_t taken = std::min(here, RoomOf(node));
      TakeOn(node, taken, group);
      here -= taken;
      count -= taken;
    }
  }
}

void FreeDevices::TakeOn(int node, int64_t count, DeviceGroup* group) {
  Node& from = nodes_[node];
  Cell& cell = cells_[from.cell];
  Region& region = regions_[cell.region];
  by_room_.erase({-region.room, cell.region});
  region.cells.erase({-cell.room, from.cell});
  cell.nodes.erase({-RoomOf(node), from.place});
  for (int64_t i = 0; i < count; ++i) {
    group->push_back({node, from.free.back()});
    from.free.pop_back();
  }
  units_[cell.unit].room -= count;
  region.room -= count;
  cell.room -= count;
  if (!from.free.empty()) cell.nodes.emplace(-RoomOf(node), from.place);
  if (!cell.nodes.empty() && -cell.nodes.begin()->first >= size_) {
    region.cells.emplace(-cell.room, from.cell);
  }
  if (!region.cells.empty()) by_room_.emplace(-region.room, cell.region);
}

}  // namespace fathom::planner
