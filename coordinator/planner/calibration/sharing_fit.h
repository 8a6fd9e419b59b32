// How ranks that share a machine slow each other down, from the profile's runs of several ranks:
// what those took beyond what the op times say of them.
#ifndef FATHOM_COORDINATOR_PLANNER_CALIBRATION_SHARING_FIT_H_
#define FATHOM_COORDINATOR_PLANNER_CALIBRATION_SHARING_FIT_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/fathom/v1/hardware.pb.h"

namespace fathom::planner {

// A group run, and what the fitted op times say of it; of a step.
struct FittedGroup {
  std::string name;  // "hidden 96 fp32 2x1x1": pipeline, expert ranks, replicas
  double measured_s = 0;
  double fitted_s = 0;
  double measured_core_s = 0;
  double fitted_core_s = 0;
};

// Sets busy_slowdown, turns_slowdown, group_slowdown and the entry of a turn from `times`'
// group_runs, and leaves those out. Each run's work is first scaled by what its job on one rank
// took over what is predicted of it, so that the errors of op times don't pass for sharing. Without
// runs, and on errors, nothing changes. INVALID_ARGUMENT: a run of no job, or without its times;
// NOT_FOUND as CalibratedTime.
absl::StatusOr<std::vector<FittedGroup>> FitSharing(v1::OpTimes* times);

}  // namespace fathom::planner

#endif  // FATHOM_COORDINATOR_PLANNER_CALIBRATION_SHARING_FIT_H_
