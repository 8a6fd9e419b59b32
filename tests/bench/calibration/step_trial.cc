#include "tests/bench/calibration/step_trial.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/status_util.h"
#include "coordinator/planner/calibration/machine_step.h"
#include "worker/calibration/training_run.h"

namespace fathom::bench {
namespace {

// Models so small take so many times as many steps, until caches and clocks are as a long training
// leaves them.
constexpr int64_t kSmallHidden = 64;
constexpr int64_t kSmallTimes = 5;
constexpr double kMeanErrorMax = 0.08;
constexpr double kWorstErrorMax = 0.20;

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  if (values.empty()) return 0;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

// Mean and worst, as parts of 1.
std::pair<double, double> Errors(const std::vector<StepTrial>& trials,
                                 double (StepTrial::*error)() const) {
  double sum = 0;
  double worst = 0;
  for (const StepTrial& trial : trials) {
    sum += std::abs((trial.*error)());
    worst = std::max(worst, std::abs((trial.*error)()));
  }
  return {sum / static_cast<double>(trials.size()), worst};
}

}  // namespace

double StepTrial::measured_s() const { return Median(round_s); }
double StepTrial::core() const { return Median(core_s); }

double StepTrial::noise() const {
  const auto [low, high] = std::minmax_element(round_s.begin(), round_s.end());
  return (*high - *low) / measured_s();
}

absl::Status PredictTrial(const v1::JobSpec& spec, const v1::OpTimes& times,
                          const v1::OpTimes& before, StepTrial* trial) {
  FATHOM_ASSIGN_OR_RETURN(
      const planner::CpuStep step,
      planner::PredictOnOneMachine(spec, trial->configuration.ranks_per_node, times));
  FATHOM_ASSIGN_OR_RETURN(
      const planner::CpuStep earlier,

      planner::PredictOnOneMachine(spec, trial->configuration.ranks_per_node, before));
  trial->predicted_s = step.seconds;
  trial->predicted_before_s = earlier.seconds;
  trial->predicted_core_s = step.core_seconds;
  trial->predicted = step.breakdown;
  return absl::OkStatus();
}

absl::Status MeasureTrial(const v1::JobSpec& spec, int64_t steps, const Clock* clock,
                          StepTrial* trial) {
  calibration::TrainingRun run;
  run.spec = spec;
  run.ranks_per_node = trial->configuration.ranks_per_node;
  const int64_t times = spec.model().hidden_size() < kSmallHidden ? kSmallTimes : 1;
  run.warm_steps = 2 * times;
  run.steps = steps * times;
  FATHOM_ASSIGN_OR_RETURN(const calibration::MeasuredTraining measured,
                          calibration::RunTraining(run, clock));
  std::vector<double> seconds;
  for (const v1::StepReport& step : measured.ranks[0].steps) seconds.push_back(step.seconds());
  trial->round_s.push_back(Median(seconds));
  trial->core_s.push_back(measured.core_seconds);
  trial->parts = measured.ranks[0].steps.back();
  return absl::OkStatus();
}

std::string MarkdownOf(const std::vector<StepTrial>& trials, const v1::OpTimes& times) {
  std::string out = absl::StrFormat(
      "%s. Predicted by op times measured in the same rounds as the jobs; before: by a profile "
      "from before the rounds. Measured: medians of %d interleaved rounds, noise: largest less "
      "smallest of them. Layout: pipeline x expert x replicas; ranks share %d cores.\n\n"
      "| job | ranks | predicted ms | measured ms | error | noise | error before | predicted core "
      "ms | measured core ms |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|\n",
      times.machine(), trials.empty() ? 0 : trials[0].round_s.size(), times.cores());
  for (const StepTrial& r : trials) {
    const StepConfiguration& c = r.configuration;
    absl::StrAppendFormat(&out,
                          "| %s | %d | %.1f | %.1f | %+.1f%% | %.1f%% | %+.1f%% | %.1f | %.1f |\n",
                          c.name, c.pipeline * c.expert * c.replicas, 1e3 * r.predicted_s,
                          1e3 * r.measured_s(), 100 * r.error(), 100 * r.noise(),
                          100 * r.error_before(), 1e3 * r.predicted_core_s, 1e3 * r.core());
  }
  const auto [mean, worst] = Errors(trials, &StepTrial::error);
  const auto [mean_before, worst_before] = Errors(trials, &StepTrial::error_before);
  absl::StrAppendFormat(
      &out,
      "\nMean error %.1f%%, worst %.1f%%, over %d jobs; by the profile from before "
      "%.1f%% and %.1f%%.\n",
      100 * mean, 100 * worst, trials.size(), 100 * mean_before, 100 * worst_before);
  return out;
}

std::string JsonOf(const std::vector<StepTrial>& trials, const v1::OpTimes& times) {
  std::string out = absl::StrFormat("{\"machine\": \"%s\", \"cores\": %d, \"jobs\": [",
                                    times.machine(), times.cores());
  for (const StepTrial& r : trials) {
    const StepConfiguration& c = r.configuration;
    absl::StrAppendFormat(
        &out,
        "%s\n  {\"name\": \"%s\", \"ranks\": %d, \"predicted_s\": %.6f, \"measured_s\": %.6f, "
        "\"error\": %.4f, \"error_before\": %.4f, \"noise\": %.4f, \"predicted_core_s\": %.6f, "
        "\"measured_core_s\": %.6f, "
        "\"rounds_s\": [",
        &r == &trials[0] ? "" : ",", c.name, c.pipeline * c.expert * c.replicas, r.predicted_s,
        r.measured_s(), r.error(), r.error_before(), r.noise(), r.predicted_core_s, r.core());
    for (size_t i = 0; i < r.round_s.size(); ++i) {
      absl::StrAppendFormat(&out, "%s%.6f", i == 0 ? "" : ", ", r.round_s[i]);
    }
    absl::StrAppendFormat(
        &out,
        "], \"predicted_parts_s\": {\"forward\": %.6f, \"backward\": %.6f, \"weight\": %.6f, "
        "\"overlapped\": %.6f, \"wait\": %.6f, \"reduce\": %.6f, \"optimizer\": %.6f}, "
        "\"rank_0_parts_s\": {\"forward\": %.6f, \"backward\": %.6f, \"weight\": %.6f, "
        "\"overlapped\": %.6f, \"wait\": %.6f, \"reduce\": %.6f, \"optimizer\": %.6f}}",
        r.predicted.forward_s(), r.predicted.backward_s(), r.predicted.weight_s(),
        r.predicted.overlapped_s(), r.predicted.bubble_s(), r.predicted.reduce_s(),
        r.predicted.optimizer_s(), r.parts.forward_seconds(), r.parts.backward_seconds(),
        r.parts.weight_seconds(), r.parts.overlapped_seconds(), r.parts.wait_seconds(),
        r.parts.reduce_seconds(), r.parts.optimizer_seconds());
  }
  absl::StrAppend(&out, "\n]}\n");
  return out;
}

bool GoodEnough(const std::vector<StepTrial>& trials) {
  const auto [mean, worst] = Errors(trials, &StepTrial::error);
  return mean <= kMeanErrorMax && worst <= kWorstErrorMax;
}

}  // namespace fathom::bench
