// Which expert lies in which physical slot of a layer: placement and replication from measured
// loads.
//
// Hierarchical where the nodes divide the groups: a group's experts and all their copies stay on
// one node, so that a token limited to few groups reaches few nodes. Global otherwise.
//   kEplb      the published greedy algorithm, tie for tie.
//   kBalanced  never two copies of one expert on one device; more even (a local search follows the
//              greedy packing); with a present placement, the fewest moved slots it finds among
//              placements within a tolerance of what it would reach from nothing, and no
//              less even than the better of that and the published one. So equal loads move
//              nothing, however often it is asked.
// Pure and deterministic. docs/results/expert-placement.md compares the two.
#ifndef FATHOM_COORDINATOR_PLANNER_EXPERT_PLACEMENT_H_
#define FATHOM_COORDINATOR_PLANNER_EXPERT_PLACEMENT_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace fathom::planner {

inline constexpr int kMaxExperts = 4096;
inline constexpr int kMaxExpertReplicas = 16384;
inline constexpr int kMaxExpertDevices = 1024;  // matching them costs up to the cube of it
inline constexpr double kMaxExpertLoad = 1e18;  // sums and their squares stay finite

enum class PlacementAlgorithm : uint8_t { kBalanced, kEplb };

struct ExpertShape {
  int experts = 0;
  int replicas = 0;  // physical slots, over all devices
  int groups = 1;
  int nodes = 1;
  int devices = 1;  // over all nodes

  bool hierarchical() const { return groups % nodes == 0; }
  int slots_per_device() const { return replicas / devices; }
};

struct PlacementOptions {
  PlacementAlgorithm algorithm = PlacementAlgorithm::kBalanced;
  // How much above the best greatest load a placement may stay, as a part of it, to move less.
  double tolerance = 0.02;
};

struct ExpertPlacement {
  std::vector<int> physical_to_logical;  // by slot: device 0's, then device 1's, ...
  std::vector<int> counts;               // copies of each expert
  double device_max_over_mean = 1;       // of the devices' loads
  std::optional<int64_t> moved;          // slots with another expert than in the present placement
};

// INVALID_ARGUMENT: a size is not positive. FAILED_PRECONDITION: no placement of this shape exists,
// or it is too large; the message has the nearest shape that works.
absl::Status CheckExpertShape(const ExpertShape& shape, PlacementAlgorithm algorithm);

// One layer. `current` is a present physical_to_logical, or empty. CheckExpertShape's codes;
// INVALID_ARGUMENT: loads or `current` don't fit the shape, or a load is no number >= 0.
absl::StatusOr<ExpertPlacement> PlaceExperts(const std::vector<double>& loads,
                                             const ExpertShape& shape,
                                             const PlacementOptions& options,
                                             const std::vector<int>& current);

}  // namespace fathom::planner

#endif  // FATHOM_COORDINATOR_PLANNER_EXPERT_PLACEMENT_H_
