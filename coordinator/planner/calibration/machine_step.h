// A step of a job whose ranks all share one machine, as tests, benchmarks and the profile run them.
#ifndef FATHOM_COORDINATOR_PLANNER_CALIBRATION_MACHINE_STEP_H_
#define FATHOM_COORDINATOR_PLANNER_CALIBRATION_MACHINE_STEP_H_

#include "absl/status/statusor.h"
#include "coordinator/planner/calibration/cpu_step.h"
#include "proto/fathom/v1/hardware.pb.h"
#include "proto/fathom/v1/job.pb.h"

namespace fathom::planner {

// `spec`: resolved. Stages and ranks are as in plan::EvenPlan; the nodes share times.cores() cores.
// Errors: as PredictCpuStep; of the model or the schedule.
absl::StatusOr<CpuStep> PredictOnOneMachine(const v1::JobSpec& spec, int ranks_per_node,
                                            const v1::OpTimes& times);

}  // namespace fathom::planner

#endif  // FATHOM_COORDINATOR_PLANNER_CALIBRATION_MACHINE_STEP_H_
