// What would become of a job if nodes died or were drained, or if it ran on another cluster: the
// new plan by the very functions that the coordinator uses, where the state would come from, and
// what that costs in time and money. Pure; docs/recovery.md has the protocol that is reckoned with.
#ifndef FATHOM_COORDINATOR_PLANNER_WHATIF_H_
#define FATHOM_COORDINATOR_PLANNER_WHATIF_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/cluster/topology.h"
#include "proto/fathom/v1/hardware.pb.h"
#include "proto/fathom/v1/job.pb.h"
#include "proto/fathom/v1/plan.pb.h"
#include "proto/fathom/v1/prediction.pb.h"

namespace fathom::planner {

struct SourcedSeconds {
  double seconds = 0;
  std::string source;
};

// What recovery costs beside moving state and redoing steps.
struct RecoveryCosts {
  SourcedSeconds detect;     // from a node's death to the coordinator's noticing
  SourcedSeconds plan;       // to the new plan at the node that takes its place
  SourcedSeconds start;      // of a rank process that is not there yet, until it listens
  SourcedSeconds reconnect;  // of all ranks
};

// As measured, or as assumed where it was not, for devices of this kind.
RecoveryCosts RecoveryCostsFor(const v1::DeviceProfile& profile);

struct WhatIfJob {
  // As it runs now; its nodes are named as the topology's (PlanOnTopology makes one).
  const v1::Plan* plan = nullptr;
  // Resolved, what the user asked for; null: plan->spec().
  const v1::JobSpec* asked = nullptr;
  const cluster::Topology* topology = nullptr;
  double step_seconds = 0;  // predicted or measured, as it runs now
  // Predicted, of the job with fewer replicas and more micro-batches; empty: by micro-batches per
  // lane.
  std::function<absl::StatusOr<double>(const v1::JobSpec&)> step_seconds_of;
  std::optional<int64_t> steps_done;  // unknown: it dies somewhere on the way
};

// INVALID_ARGUMENT: no node is named, or one that the cluster hasn't got (the nearest is named), or
// one twice; the plan is on other nodes than the topology's; a step time that is not positive.
absl::StatusOr<v1::WhatIf> WhatIfKill(const WhatIfJob& job, const std::vector<std::string>& nodes);
absl::StatusOr<v1::WhatIf> WhatIfDrain(const WhatIfJob& job, const std::vector<std::string>& nodes);

// The same job predicted on the cluster it is on and on another. INVALID_ARGUMENT: a prediction
// without a step time, or of different models.
absl::StatusOr<v1::WhatIf> WhatIfCluster(const v1::Prediction& here, const v1::Prediction& there);

}  // namespace fathom::planner

#endif  // FATHOM_COORDINATOR_PLANNER_WHATIF_H_
