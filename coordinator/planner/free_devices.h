// The free devices of the nodes a layout may use, and where its next expert group goes: on one node
// where one has room, else under as few leaves as possible, as far from another group as can be.
//
// Nodes lie in cells (one leaf and one failure domain), cells in regions (a failure domain, or the
// leaf where no domain is known). Of places equally far, the one in the region with most room is
// taken, then in the cell, then on the node: so what is left stays balanced, and the groups that
// come last can still be kept apart.
#ifndef FATHOM_COORDINATOR_PLANNER_FREE_DEVICES_H_
#define FATHOM_COORDINATOR_PLANNER_FREE_DEVICES_H_

#include <cstdint>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/planner/node_order.h"

namespace fathom::planner {

struct FreeDevice {
  int node = 0;  // index into the nodes given
  int index = 0;
};
using DeviceGroup = std::vector<FreeDevice>;  // by expert rank

// What is taken into account; what is unknown or not counted is near nothing.
struct Closeness {
  bool domains = false;
  bool leaves = false;
};

class FreeDevices {
 public:
  // `order`: the nodes that may be used, indices into `nodes`. All groups are of `size` ranks.
  FreeDevices(const std::vector<NodeCapacity>& nodes, const std::vector<int>& order, int size,
              Closeness counted);

  // There must be as many devices as that. `apart_from` may be null.
  DeviceGroup Take(const DeviceGroup* apart_from);

  // Whether both are known and the same, counted or not.
  bool SameDomain(int node_a, int node_b) const;
  bool SameLeaf(int node_a, int node_b) const;
  // How many a group lies under; unknown ones count as one.
  int LeavesOf(const DeviceGroup& group) const;

 private:
  struct Node {
    std::vector<int> free;  // descending: taken from the back
    int place = 0;          // in the order given
    int cell = -1;
    int leaf = -1;    // -1: unknown
    int domain = -1;  // -1: unknown
  };
  using Ordered = std::set<std::pair<int64_t, int>>;  // (-room, place or index)
  struct Cell {
    int leaf = -1;  // -1: unknown or not counted, as domain
    int domain = -1;
    int region = 0;
    int unit = 0;  // of leaves_
    int64_t room = 0;
    Ordered nodes;  // by place
  };
  struct Region {
    int64_t room = 0;
    Ordered cells;  // those with a node that has room for a whole group
  };
  // What a spread group wants to lie in: a leaf, or all nodes where leaves don't count.
  struct Unit {
    std::vector<int> cells;
    int64_t room = 0;
  };

  int64_t RoomOf(int node) const { return static_cast<int64_t>(nodes_[node].free.size()); }
  void MakeCells();
  void Mark(const DeviceGroup* other);
  // 0 far, 1 the same leaf, 2 the same domain.
  int NearnessOf(const Cell& cell) const;
  // The roomiest node of the cell for `wanted` that isn't marked; one that is, if there is no
  // other; -1: none.
  int NodeIn(const Cell& cell, int64_t wanted) const;

  int NodeForWhole() const;
  int UnitFor(int64_t wanted, bool first) const;
  int CellIn(const Unit& unit, int64_t wanted, const std::set<int>& begun) const;
  void TakeInUnit(int unit, int64_t count, DeviceGroup* group);
  void TakeOn(int node, int64_t count, DeviceGroup* group);

  // Constant.
  const int64_t size_;
  std::vector<int> order_;  // node by place
  std::vector<Unit> units_;

  std::vector<Node> nodes_;
  std::vector<Cell> cells_;
  std::vector<Region> regions_;
  Ordered by_room_;  // regions that have cells

  // What the group at hand is to be kept apart from: the number of the last Take that marked it.
  int taking_ = 0;
  std::vector<int> node_marked_;
  std::vector<int> domain_marked_;
  std::vector<int> leaf_marked_;
};

}  // namespace fathom::planner

#endif  // FATHOM_COORDINATOR_PLANNER_FREE_DEVICES_H_
