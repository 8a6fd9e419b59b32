// Real training steps on this machine, measured: a job whose ranks are threads with real windows
// between them, a few steps long.
#ifndef FATHOM_WORKER_CALIBRATION_TRAINING_RUN_H_
#define FATHOM_WORKER_CALIBRATION_TRAINING_RUN_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/clock.h"
#include "proto/fathom/v1/job.pb.h"
#include "proto/fathom/v1/worker.pb.h"
#include "worker/calibration/metered_ops.h"

namespace fathom::calibration {

struct TrainingRun {
  v1::JobSpec spec;              // resolved; ranks are as in plan::EvenPlan
  int ranks_per_node = 1 << 20;  // ranks of different nodes meet over TCP
  int64_t warm_steps = 2;        // not measured
  int64_t steps = 3;
  // As many steps more, in turn with those: their calls of ops are measured, which slows them.
  bool meter_ops = false;
  const Clock* meter_clock = nullptr;  // for those; none: as the steps
};

struct MeasuredRank {
  std::vector<v1::StepReport> steps;
  OpSamples ops;  // of as many steps
};

struct MeasuredTraining {
  std::vector<MeasuredRank> ranks;
  double core_seconds = 0;  // of a step, all ranks and their transport together
};

// `clock` may be one that counts each thread's time alone. Errors: the first rank's that failed.
absl::StatusOr<MeasuredTraining> RunTraining(const TrainingRun& run, const Clock* clock);

// Text with some order in it, as a token file. Errors of the file system.
absl::Status WriteCalibrationTokens(const std::string& path, int64_t tokens);

}  // namespace fathom::calibration

#endif  // FATHOM_WORKER_CALIBRATION_TRAINING_RUN_H_
