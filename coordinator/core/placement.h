// Which devices are free, and what a job that finds too few waits for.
//
// A device is held by the ranks of an active job's present and next plan, and stays busy while its
// node still reports a live process of another job's rank that should be gone: nothing is started
// on top of it. A process of an older epoch of the same job is in nobody's way: it moves.
#ifndef FATHOM_COORDINATOR_CORE_PLACEMENT_H_
#define FATHOM_COORDINATOR_CORE_PLACEMENT_H_

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/core/durable_state.h"
#include "coordinator/core/node_table.h"
#include "proto/fathom/v1/cluster.pb.h"
#include "proto/fathom/v1/job.pb.h"
#include "proto/fathom/v1/plan.pb.h"
#include "proto/fathom/v1/prediction.pb.h"

namespace fathom {

struct FreeNode {
  std::string name;
  std::vector<int32_t> free_devices;  // indices, ascending, at least one
  std::string failure_domain;
  std::string leaf;
  bool spare = false;
};

// For a plan made from the job's last one.
struct ReplanInput {
  const v1::Plan* previous = nullptr;
  uint64_t epoch = 0;
  const v1::JobSpec* asked = nullptr;  // by the user; the last plan may have fewer replicas
  std::set<std::string> vacate;        // nodes whose ranks must leave
  std::vector<FreeNode> free;          // with the job's own devices that it may keep
  std::map<std::string, std::string> successor;  // of a vacated node: preferred to take its ranks
};

// What the core asks of common/plan and coordinator/planner. All are pure.
struct PlanningFunctions {
  // Every field filled in, or INVALID_ARGUMENT naming field and remedy.
  std::function<absl::StatusOr<v1::Job>(const v1::Job&)> resolve;
  std::function<absl::StatusOr<v1::Plan>(const std::string& job, uint64_t epoch,
                                         const v1::JobSpec& spec, const std::vector<FreeNode>&)>
      make_plan;
  std::function<absl::Status(const v1::Plan&)> check_plan;
  // The same shape: ranks stay where they can, those of vacated nodes move as blocks.
  // RESOURCE_EXHAUSTED: nothing fits.
  std::function<absl::StatusOr<v1::Plan>(const ReplanInput&)> replan;
  // What a step of each rank costs, in any unit; may be empty: all the same.
  std::function<std::vector<double>(const v1::Plan&)> rank_costs;
  // What a step of the plan takes on these nodes, without ops and profiles; may be empty. Any code
  // but OK: it can't be told, and why.
  std::function<absl::StatusOr<v1::Prediction>(const v1::Plan&, const std::vector<v1::Node>&)>
      predict;
  // The most replicas that fit, at most those asked for and maybe those it has.
  std::function<absl::StatusOr<v1::Plan>(const ReplanInput&)> reshape;
};

int64_t RanksOf(const v1::JobSpec& spec);

// The node has a rank process that has not ended.
bool HasLiveRank(const v1::NodeReport& report);

// Who uses each device of the nodes that are up: made once for all who look.
class DeviceUse {
 public:
  // On nodes in `closed` nothing is free but what the viewer has there.
  DeviceUse(const NodeTable& nodes, const DurableState& state, const std::set<std::string>& closed);

 private:
  friend class DeviceMap;
  struct Holder {
    int64_t job = 0;     // its number
    bool claim = false;  // by its last plan only
    bool next = false;   // by its next plan
  };
  struct Device {
    int32_t index = 0;
    std::vector<Holder> holders;
    std::vector<int64_t> busy;  // numbers of the jobs whose live processes are on it
  };
  struct Node {
    std::string name;
    std::string failure_domain;
    std::string leaf;
    bool spare = false;
    bool closed = false;
    std::vector<Device> devices;   // by index
    std::vector<int64_t> unknown;  // of jobs with a live process that can't be located
  };
  void Hold(const v1::Plan* plan, const Holder& holder);
  void NoteBusy(const NodeEntry& entry, const DurableState& state, Node* node);

  std::vector<Node> nodes_;  // by name
  std::unordered_map<std::string, size_t> place_of_;
};

class DeviceMap {
 public:
  // A job that recovers keeps a claim on the devices of its last plan; `viewer`'s own devices and
  // claims are free to it, those that others claim only if `over_claims`. On nodes in `closed`
  // nothing is free but what the viewer has there.
  DeviceMap(const NodeTable& nodes, const DurableState& state, const JobId& viewer,
            bool over_claims, const std::set<std::string>& closed);
  // `viewer`: the job's number; 0: nobody's.
  DeviceMap(const DeviceUse& use, int64_t viewer, bool over_claims);

  enum class Use { kReadyOnly, kWithSpares };
  // Nodes with free devices, by name; `only` (if not empty) restricts them.
  std::vector<FreeNode> Free(Use use, const std::set<std::string>& only = {}) const;
  int64_t CountFree(Use use) const;
  int64_t CountAll(Use use) const;  // devices of nodes that are up, free or not
  int64_t CountHeld(const std::string& node) const;

  // As if the map were made anew, with another job that has this plan.
  void Hold(const v1::Plan& plan);

 private:
  struct Place {
    FreeNode node;
    bool closed = false;
    int64_t devices = 0;
    int64_t held = 0;
  };
  std::map<std::string, Place> places_;  // nodes that are up
};

// "needs 8 devices, the cluster has 4: 4 missing".
std::string ShortageReason(int64_t needed, const DeviceMap& devices, DeviceMap::Use use);

// Where a job's next epoch begins, if its memory is lost: its own newest checkpoint, or the one it
// was submitted with.
void SetResume(const DurableJob& job, v1::Plan* plan);

// The plan as it is to be committed: with its point to resume from, checked, every rank on a device
// of its own among the free.
absl::StatusOr<v1::Plan> Finished(const PlanningFunctions& planning, const DurableJob& job,
                                  uint64_t epoch, const std::vector<FreeNode>& nodes,
                                  v1::Plan plan);

// A plan for this epoch from nothing, finished.
absl::StatusOr<v1::Plan> PlanOn(const PlanningFunctions& planning, const DurableJob& job,
                                uint64_t epoch, const std::vector<FreeNode>& nodes);

}  // namespace fathom

#endif  // FATHOM_COORDINATOR_CORE_PLACEMENT_H_
