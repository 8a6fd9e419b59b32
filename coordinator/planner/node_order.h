// Which of the nodes offered a layout uses, and in what order they are taken: no more than it
// needs. There are several good answers; rank_assignment tries them all and keeps the best.
#ifndef FATHOM_COORDINATOR_PLANNER_NODE_ORDER_H_
#define FATHOM_COORDINATOR_PLANNER_NODE_ORDER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "proto/fathom/v1/job.pb.h"

namespace fathom::planner {

struct NodeCapacity {
  std::string name;
  std::vector<int> free_devices;
  std::string failure_domain;  // such as a rack or a power feed; empty: unknown
  std::string leaf;            // switch that it is under; empty: unknown
};

enum class NodeOrder : uint8_t {
  kRoom,     // most free devices first, among equals as given
  kDomains,  // the same, but equals take turns between failure domains
  kLeaves,   // whole expert groups' worth of nodes of a leaf, a few leaves taking turns
};

// Indices into `nodes`. There are free devices enough.
std::vector<int> ChooseNodes(const v1::Parallelism& shape, const std::vector<NodeCapacity>& nodes,
                             NodeOrder how);

}  // namespace fathom::planner

#endif  // FATHOM_COORDINATOR_PLANNER_NODE_ORDER_H_
