// Predicted against measured steps of CPU jobs: real training with ranks as threads, in rounds that
// go through all jobs in turn. Each round begins with one of a profile of the machine, which so
// sees the machine as fast and as slow as the jobs do.
//
//   step_bench PROFILE.yaml OUTPUT_FOLDER [ROUNDS [STEPS [PART_OF_NAME]]]
//
// PROFILE.yaml is what `fathomctl profile` made before; its errors are told beside. Writes
// profile.yaml, steps.json and steps.md, and prints the table. Exits with 1 where the mean error is
// above 8% or the worst above 20%.
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "common/base/atomic_file.h"
#include "common/base/config_loader.h"
#include "common/base/real_clock.h"
#include "common/base/status_util.h"
#include "coordinator/planner/calibration/sharing_fit.h"
#include "tests/bench/calibration/step_configurations.h"
#include "tests/bench/calibration/step_trial.h"
#include "worker/calibration/profile_run.h"
#include "worker/calibration/training_run.h"

namespace fathom::bench {
namespace {

// The op times of a profile in rounds, with what several ranks do to each other.
absl::StatusOr<v1::DeviceProfile> Finished(const calibration::MachineProfile& profile) {
  FATHOM_ASSIGN_OR_RETURN(calibration::Profiled profiled, profile.Finish());
  FATHOM_RETURN_IF_ERROR(planner::FitSharing(profiled.profile.mutable_op_times()).status());
  return profiled.profile;
}

absl::StatusOr<bool> Run(int argc, char** argv) {
  const std::string folder = argv[2];
  const int rounds = argc > 3 ? std::atoi(argv[3]) : 5;
  const int64_t steps = argc > 4 ? std::atoi(argv[4]) : 6;
  const std::string part = argc > 5 ? argv[5] : "";
  v1::DeviceProfile before;
  FATHOM_RETURN_IF_ERROR(LoadYamlFile(argv[1], &before));
  FATHOM_RETURN_IF_ERROR(EnsureDirectory(folder));
  const std::string tokens = folder + "/tokens.bin";
  FATHOM_RETURN_IF_ERROR(calibration::WriteCalibrationTokens(tokens, 200'000));
  const RealClock clock;
  calibration::ProfileOptions options;
  options.scratch_folder = folder;
  options.cores = before.op_times().cores();
  options.machine = before.op_times().machine();
  FATHOM_ASSIGN_OR_RETURN(const auto profile, calibration::MachineProfile::Start(options, &clock));
  std::vector<StepTrial> results;
  for (const StepConfiguration& configuration : StepConfigurations()) {
    if (!absl::StrContains(configuration.name, part)) continue;
    results.emplace_back().configuration = configuration;
  }
  for (int round = 0; round < rounds; ++round) {
    FATHOM_RETURN_IF_ERROR(profile->RunRound());
    for (StepTrial& result : results) {
      FATHOM_ASSIGN_OR_RETURN(const v1::JobSpec spec, SpecOf(result.configuration, tokens));
      FATHOM_RETURN_IF_ERROR(
          WithContext(MeasureTrial(spec, steps, &clock, &result), result.configuration.name));
      std::fprintf(stderr, "round %d: %-22s %.1f ms\n", round + 1, result.configuration.name,
                   1e3 * result.round_s.back());
    }
  }
  FATHOM_ASSIGN_OR_RETURN(const v1::DeviceProfile during, Finished(*profile));
  for (StepTrial& result : results) {
    FATHOM_ASSIGN_OR_RETURN(const v1::JobSpec spec, SpecOf(result.configuration, tokens));
    FATHOM_RETURN_IF_ERROR(
        WithContext(PredictTrial(spec, during.op_times(), before.op_times(), &result),
                    result.configuration.name));
  }
  FATHOM_RETURN_IF_ERROR(WriteFileAtomically(folder + "/profile.yaml", ToYaml(during)));
  const std::string table = MarkdownOf(results, during.op_times());
  std::fputs(table.c_str(), stdout);
  FATHOM_RETURN_IF_ERROR(WriteFileAtomically(folder + "/steps.md", table));
  FATHOM_RETURN_IF_ERROR(
      WriteFileAtomically(folder + "/steps.json", JsonOf(results, during.op_times())));
  return GoodEnough(results);
}

}  // namespace
}  // namespace fathom::bench

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr,
                 "usage: step_bench PROFILE.yaml OUTPUT_FOLDER [ROUNDS [STEPS [PART_OF_NAME]]]\n");
    return 2;
  }
  const absl::StatusOr<bool> good = fathom::bench::Run(argc, argv);
  if (!good.ok()) {
    std::fprintf(stderr, "step_bench: %s\n", good.status().ToString().c_str());
    return 1;
  }
  return *good ? 0 : 1;
}
