// The fields of a prediction from a layout's step and memory: tokens, FLOPs, hours, money, stages,
// ranks, timeline.
#ifndef FATHOM_COORDINATOR_PLANNER_SEARCH_PREDICTION_FIELDS_H_
#define FATHOM_COORDINATOR_PLANNER_SEARCH_PREDICTION_FIELDS_H_

#include <vector>

#include "absl/status/statusor.h"
#include "common/schedule/instruction.h"
#include "coordinator/planner/search/job_setting.h"
#include "coordinator/planner/search/predicted_job.h"
#include "proto/fathom/v1/prediction.pb.h"

namespace fathom::planner {

// A layout on a set of devices, in full.
struct ChosenLayout {
  const DeviceSet* set = nullptr;
  LayoutShape layout;
  schedule::Schedule schedule;
  StepTimes step;
  std::vector<v1::PredictedMemory> memory;  // by pipeline rank
};

absl::StatusOr<PredictedJob> FillPrediction(const JobSetting& setting, const ChosenLayout& chosen);

// Of a job's tokens, at so long a step.
double GpuHoursPerTrillionTokens(double devices, double step_seconds, double tokens_per_step);

}  // namespace fathom::planner

#endif  // FATHOM_COORDINATOR_PLANNER_SEARCH_PREDICTION_FIELDS_H_
