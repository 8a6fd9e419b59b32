// The short profile run: real training steps of a few small models and precisions on one rank, the
// same on several ranks, and probes of messages between ranks; from these the op times by which the
// planner predicts steps on this machine.
//
// Ops are measured inside training, so that caches are as training leaves them. What a step takes
// beside its ops (the executor, copies around the token exchange) is fitted to whole steps. All is
// measured in rounds, of which medians count: machines that others use too are faster one minute
// and slower the next.
#ifndef FATHOM_WORKER_CALIBRATION_PROFILE_RUN_H_
#define FATHOM_WORKER_CALIBRATION_PROFILE_RUN_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/base/clock.h"
#include "proto/fathom/v1/hardware.pb.h"

namespace fathom::calibration {

struct ProfileOptions {
  std::string scratch_folder;           // for a token file
  std::vector<std::string> precisions;  // empty: all
  int rounds = 4;
  int cores = 1;             // of this machine
  int64_t memory_bytes = 0;  // of this machine
  std::string machine;       // its processor, in words
};

// A run of the profile, and what the finished profile says of it.
struct ProfiledRun {
  std::string name;       // "hidden 96 fp32"
  double measured_s = 0;  // of a step
  double ops_s = 0;       // of it, measured in ops
  double fitted_s = 0;
};

// The slowdowns and the cost of a turn are left to the planner, which counts what groups do
// (coordinator/planner/calibration/sharing_fit): op_times hold the runs of groups.
struct Profiled {
  v1::DeviceProfile profile;
  std::vector<ProfiledRun> runs;
};

// A profile under way. Work is measured by the time that cores spend on it, so that others who want
// them meanwhile disturb little.
class MachineProfile {
 public:
  // `clock` outlives it. Errors: of the file system, of a precision's name.
  static absl::StatusOr<std::unique_ptr<MachineProfile>> Start(const ProfileOptions& options,
                                                               const Clock* clock);
  ~MachineProfile();

  // Errors: of the training or the transport.
  absl::Status RunRound();
  // After one round at least.
  absl::StatusOr<Profiled> Finish() const;

 private:
  class Measured;
  explicit MachineProfile(std::unique_ptr<Measured> measured);

  std::unique_ptr<Measured> measured_;
};

// All rounds. `progress` is told what comes next.
absl::StatusOr<Profiled> RunProfile(const ProfileOptions& options, const Clock* clock,
                                    const std::function<void(absl::string_view)>& progress);

// What was fitted and how well, for people: a line per run.
std::string SummaryOf(const Profiled& profiled);

}  // namespace fathom::calibration

#endif  // FATHOM_WORKER_CALIBRATION_PROFILE_RUN_H_
