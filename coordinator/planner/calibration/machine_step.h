// A step of a job whose ranks all share one machine, as tests, benchmarks and the profile run them.
#ifndef FATHOM_COORDINATOR_PLANNER_CALIBRATION_MACHINE_STEP_H_
#define FATHOM_COORDINATOR_PLANNER_CALIBRATION_MACHINE_STEP_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/planner/calibration/cpu_step.h"
#include "proto/fathom/v1/hardware.pb.h"
#include "proto/fathom/v1/job.pb.h"

namespace fathom::planner {

// `spec`: resolved. `stage_layers`: of its pipeline's stages. Ranks are numbered along the pipeline
// first and fill one node after another; nodes share the machine's times.cores(). Errors: as
// PredictCpuStep; of the model or the schedule.
absl::StatusOr<CpuStep> PredictOnOneMachine(const v1::JobSpec& spec,
                                            const std::vector<int64_t>& stage_layers,
                                            int ranks_per_node, const v1::OpTimes& times);

}  // namespace fathom::planner

#endif  // FATHOM_COORDINATOR_PLANNER_CALIBRATION_MACHINE_STEP_H_
