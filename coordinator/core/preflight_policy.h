// What the fleet's own measurements say a node must reach, and whom it measures its links to.
//
// A threshold comes from the median m of the newest passed reports, one value per node and check
// (a node's worst device), and from the median of their absolute deviations from m, times 1.4826,
// which for normal noise is its standard deviation s. Both stand firm against up to half the fleet
// being bad.
//
//   at least (rates):    m - clamp(6 s, 0.30 m, 0.45 m)   so 0.70 m for a quiet fleet, 0.55 m at
//                                                        worst: a node at half rate always fails
//   at most (latency):   m + clamp(6 s, 2 m, 9 m)         so 3 m for a quiet fleet
//
// Under normal noise of up to 5% a good node is 6 s from the threshold: less than one false alarm
// in 10^8 checks. At 10% noise 4.5 s are left, 3 in 10^6. Fewer than 3 nodes give no threshold:
// their median says nothing. Disk and memory rates get none either: both are shared with what else
// the node does.
//
// Reports of different kinds of devices must not be mixed: the caller groups nodes by kind.
#ifndef FATHOM_COORDINATOR_CORE_PREFLIGHT_POLICY_H_
#define FATHOM_COORDINATOR_CORE_PREFLIGHT_POLICY_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "proto/fathom/v1/cluster.pb.h"
#include "proto/fathom/v1/worker.pb.h"

namespace fathom {

inline constexpr int kMinNodesToCalibrate = 3;
inline constexpr int kPreflightPeers = 3;

// From one report per node; those that did not pass are left out. In order of check names.
std::vector<v1::PreflightThreshold> CalibratePreflight(
    absl::Span<const v1::PreflightReport* const> reports);

// The report as these thresholds judge it: checks that passed are measured against these alone.
// What failed stays failed, until the node is measured again.
v1::PreflightReport JudgePreflight(const v1::PreflightReport& report,
                                   absl::Span<const v1::PreflightThreshold> thresholds);

// Up to kPreflightPeers others of `nodes` that have an echo endpoint, the same for the same
// arguments. `round` is how often this node has been asked before; every other node has its turn
// within (others / kPreflightPeers) rounds, rounded up. Nodes of other failure domains come into it
// like all: a link inside a rack can be as bad.
std::vector<v1::PreflightPeer> ChoosePreflightPeers(const std::string& node,
                                                    absl::Span<const v1::Node* const> nodes,
                                                    uint64_t round);

}  // namespace fathom

#endif  // FATHOM_COORDINATOR_CORE_PREFLIGHT_POLICY_H_
