// One job whose step is predicted and measured, and the tables of all of them.
#ifndef FATHOM_TESTS_BENCH_CALIBRATION_STEP_TRIAL_H_
#define FATHOM_TESTS_BENCH_CALIBRATION_STEP_TRIAL_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/base/clock.h"
#include "proto/fathom/v1/hardware.pb.h"
#include "proto/fathom/v1/job.pb.h"
#include "proto/fathom/v1/prediction.pb.h"
#include "proto/fathom/v1/worker.pb.h"
#include "tests/bench/calibration/step_configurations.h"

namespace fathom::bench {

struct StepTrial {
  StepConfiguration configuration;
  double predicted_s = 0;
  double predicted_before_s = 0;  // by a profile from before the rounds
  double predicted_core_s = 0;    // of all ranks together
  v1::StepBreakdown predicted;
  std::vector<double> round_s;  // median step of each round
  std::vector<double> core_s;
  v1::StepReport parts;  // of rank 0, means

  double measured_s() const;
  double core() const;
  double error() const { return predicted_s / measured_s() - 1; }
  double error_before() const { return predicted_before_s / measured_s() - 1; }
  double noise() const;  // largest less smallest round, over the median
};

// `times`: measured in rounds with the trial; `before`: before them. Errors: as PredictCpuStep.
absl::Status PredictTrial(const v1::JobSpec& spec, const v1::OpTimes& times,
                          const v1::OpTimes& before, StepTrial* trial);
// One more round of so many steps, small models' being more. Errors: of the training.
absl::Status MeasureTrial(const v1::JobSpec& spec, int64_t steps, const Clock* clock,
                          StepTrial* trial);

// Mean error at most 8%, worst at most 20%.
bool GoodEnough(const std::vector<StepTrial>& trials);
std::string MarkdownOf(const std::vector<StepTrial>& trials, const v1::OpTimes& times);
std::string JsonOf(const std::vector<StepTrial>& trials, const v1::OpTimes& times);

}  // namespace fathom::bench

#endif  // FATHOM_TESTS_BENCH_CALIBRATION_STEP_TRIAL_H_
