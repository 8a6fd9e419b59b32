// What every rank of a CPU job does in a step, as programs for SimulateShared.
#ifndef FATHOM_COORDINATOR_PLANNER_CALIBRATION_RANK_PROGRAMS_H_
#define FATHOM_COORDINATOR_PLANNER_CALIBRATION_RANK_PROGRAMS_H_

#include <vector>

#include "absl/status/statusor.h"
#include "common/calibration/step_work.h"
#include "common/schedule/instruction.h"
#include "coordinator/planner/calibration/calibrated_time.h"
#include "coordinator/planner/calibration/shared_cores.h"
#include "coordinator/planner/calibration/stage_passes.h"

namespace fathom::planner {

struct RankProgramSetting {
  StageSetting stages;
  std::vector<int> node_of_rank;  // by rank: (replica * expert + expert_rank) * pipeline + its own
  bool snapshots = true;
  bool verify_weights = true;
  // Standard deviation of an expert's tokens in a micro-batch, over the mean.
  double expert_load_spread = 0;
};

// Marks of a rank with n instructions: instruction i runs from 1 + 2i (its messages are there) to
// 2 + 2i; then these, from 1 + 2n on.
enum class EndMark : int { kReduce, kOptimizer, kGather, kRefresh, kEnd };
constexpr int MarkOf(size_t instructions, EndMark mark) {
  return 1 + 2 * static_cast<int>(instructions) + static_cast<int>(mark);
}

struct RankPrograms {
  std::vector<SharedRank> ranks;  // their machines are left 0
  int channels = 0;
  std::vector<SharedGroup> groups;
};

// What each rank of an expert group gets of tokens beyond the mean, over the mean, in ascending
// order: the expected order statistics of normal loads (Blom 1958), of `experts` experts spread so.
// At least -1, and their sum is 0 where none is cut there.
std::vector<double> ExcessLoads(int64_t experts, int ranks, double spread);

// The ranks' places in that order change from layer to layer. `passes`: of each stage. Errors: as
// CalibratedTime.
absl::StatusOr<RankPrograms> WriteRankPrograms(const RankProgramSetting& setting,
                                               const schedule::Schedule& schedule,
                                               const std::vector<StagePasses>& passes,
                                               const CalibratedTime& time);

}  // namespace fathom::planner

#endif  // FATHOM_COORDINATOR_PLANNER_CALIBRATION_RANK_PROGRAMS_H_
