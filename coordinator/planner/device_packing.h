// Copies of weighted items on equal devices: every item at least once, never two copies of one on
// a device, every slot filled, the heaviest device as light as a local search gets it.
//
// An item's load is shared equally by its copies. Copies go where the load per copy is greatest;
// packing begins with the heaviest copy on the lightest device; then single changes (two copies
// trade places, or one copy becomes one of another item) are made while they help the heaviest
// device. Starting from a present packing instead, it makes only the changes that a target needs,
// cheapest first, so that little moves. Pure and deterministic; the search has a bounded effort.
#ifndef FATHOM_COORDINATOR_PLANNER_DEVICE_PACKING_H_
#define FATHOM_COORDINATOR_PLANNER_DEVICE_PACKING_H_

#include <vector>

namespace fathom::planner {

// The items on each device, ascending.
using DeviceContents = std::vector<std::vector<int>>;

// Needs slots_per_device <= items <= devices * slots_per_device.
struct PackingProblem {
  std::vector<double> loads;  // by item, >= 0
  int devices = 0;
  int slots_per_device = 0;
};

// Copies of each item, at most `copies_max`: one each, then always another of the item with the
// most load per copy (ties: the lowest index).
std::vector<int> SpreadCopies(const std::vector<double>& loads, int copies, int copies_max);

// The packing from nothing.
DeviceContents Pack(const PackingProblem& problem);

// From another packing, whose entries that can't stay (second copies on a device, and what is no
// item, such as -1) are replaced first.
DeviceContents Improve(const PackingProblem& problem, const DeviceContents& start);

// From a present packing, moving little: what can't stay is replaced, then changes are made
// until no device is above `target`, or none helps.
DeviceContents Repack(const PackingProblem& problem, const DeviceContents& present, double target);

// The load of each device, wherever an item's copies lie. Items without a copy add nothing.
std::vector<double> DeviceLoads(const std::vector<double>& loads, const DeviceContents& contents);

// The greatest of them.
double GreatestLoad(const std::vector<double>& loads, const DeviceContents& contents);

// Two loads that differ by less than this part of themselves count as equal.
inline constexpr double kLoadTolerance = 1e-9;

}  // namespace fathom::planner

#endif  // FATHOM_COORDINATOR_PLANNER_DEVICE_PACKING_H_
