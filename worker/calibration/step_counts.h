// What a step of one rank alone has to do, counted, and what op times say of it.
#ifndef FATHOM_WORKER_CALIBRATION_STEP_COUNTS_H_
#define FATHOM_WORKER_CALIBRATION_STEP_COUNTS_H_

#include "absl/status/statusor.h"
#include "common/model/layer_ops.h"
#include "proto/fathom/v1/hardware.pb.h"
#include "proto/fathom/v1/job.pb.h"

namespace fathom::calibration {

struct StepCounts {
  model::OpCalls ops;
  double calls = 0;
  double exchange_bytes = 0;
  double instructions = 0;
  double hashed_bytes = 0;
};

// `spec`: resolved, of one rank.
absl::StatusOr<StepCounts> CountStep(const v1::JobSpec& spec);

// Seconds; entries that are missing count nothing.
double FittedStep(const v1::OpTimes& times, const StepCounts& counts);

}  // namespace fathom::calibration

#endif  // FATHOM_WORKER_CALIBRATION_STEP_COUNTS_H_
