// Predicted against measured steps of CPU jobs: real training with ranks as threads, in rounds that
// go through all jobs in turn.
//
//   step_bench PROFILE.yaml OUTPUT_FOLDER [ROUNDS [STEPS [PART_OF_NAME]]]
//
// Writes steps.json and steps.md, and prints the table. Exits with 1 where the mean error is above
// 8% or the worst above 20%.
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "common/base/atomic_file.h"
#include "common/base/config_loader.h"
#include "common/base/real_clock.h"
#include "common/base/status_util.h"
#include "tests/bench/calibration/step_configurations.h"
#include "tests/bench/calibration/step_trial.h"
#include "worker/calibration/training_run.h"

namespace fathom::bench {
namespace {

absl::StatusOr<bool> Run(int argc, char** argv) {
  const std::string folder = argv[2];
  const int rounds = argc > 3 ? std::atoi(argv[3]) : 3;
  const int64_t steps = argc > 4 ? std::atoi(argv[4]) : 6;
  const std::string part = argc > 5 ? argv[5] : "";
  v1::DeviceProfile profile;
  FATHOM_RETURN_IF_ERROR(LoadYamlFile(argv[1], &profile));
  FATHOM_RETURN_IF_ERROR(EnsureDirectory(folder));
  const std::string tokens = folder + "/tokens.bin";
  FATHOM_RETURN_IF_ERROR(calibration::WriteCalibrationTokens(tokens, 200'000));
  const RealClock clock;
  std::vector<StepTrial> results;
  for (const StepConfiguration& configuration : StepConfigurations()) {
    if (!absl::StrContains(configuration.name, part)) continue;
    results.emplace_back().configuration = configuration;
  }
  for (int round = 0; round < rounds; ++round) {
    for (StepTrial& result : results) {
      FATHOM_ASSIGN_OR_RETURN(const v1::JobSpec spec, SpecOf(result.configuration, tokens));
      if (round == 0) {
        FATHOM_RETURN_IF_ERROR(WithContext(PredictTrial(spec, profile.op_times(), &result),
                                           result.configuration.name));
      }
      FATHOM_RETURN_IF_ERROR(
          WithContext(MeasureTrial(spec, steps, &clock, &result), result.configuration.name));
      std::fprintf(stderr, "round %d: %-22s %.1f ms\n", round + 1, result.configuration.name,
                   1e3 * result.round_s.back());
    }
  }
  const std::string table = MarkdownOf(results, profile.op_times());
  std::fputs(table.c_str(), stdout);
  FATHOM_RETURN_IF_ERROR(WriteFileAtomically(folder + "/steps.md", table));
  FATHOM_RETURN_IF_ERROR(
      WriteFileAtomically(folder + "/steps.json", JsonOf(results, profile.op_times())));
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
