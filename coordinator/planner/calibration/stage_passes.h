// A micro-batch's passes through a stage on a measured CPU, as the engine runs them: work, and
// between it the tokens that are posted to the expert group and waited for.
//
// A pass goes in turns; an overlapped pair of passes takes turns. The order of work and posts is
// that of worker/model/stage.cc.
#ifndef FATHOM_COORDINATOR_PLANNER_CALIBRATION_STAGE_PASSES_H_
#define FATHOM_COORDINATOR_PLANNER_CALIBRATION_STAGE_PASSES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/calibration/step_work.h"
#include "common/model/layer_ops.h"
#include "coordinator/planner/calibration/calibrated_time.h"
#include "proto/fathom/v1/prediction.pb.h"

namespace fathom::planner {

// The ways of a MoE layer's tokens, as model::Lane.
enum class TokenWay : uint8_t {
  kDispatchForward,
  kCombineForward,
  kCombineBackward,
  kDispatchBackward,
};
inline constexpr int kTokenWays = 4;

struct PassAction {
  enum class Kind : uint8_t { kWork, kPost, kReceive };
  Kind kind = Kind::kWork;
  TokenWay way = TokenWay::kDispatchForward;
  double seconds = 0;         // of work
  double expert_seconds = 0;  // of those, in proportion to the tokens that this rank's experts get
  double message_bytes = 0;   // of a post, to each other rank of the expert group
};
using Turn = std::vector<PassAction>;
using Turns = std::vector<Turn>;

struct StagePasses {
  Turns forward;
  Turns backward;                    // with weight gradients
  Turns backward_input;              // without
  PassAction weight;                 // the deferred weight gradients
  std::vector<v1::PredictedOp> ops;  // of one micro-batch, all passes
};

double WorkOf(const Turns& turns);

// What all stages of a job have in common.
struct StageSetting {
  calibration::JobShape job;
  model::MicroBatchShape micro_batch;
  model::Recomputation recomputation = model::Recomputation::kSelective;
};

// Errors: as CalibratedTime.
absl::StatusOr<StagePasses> PassesOfStage(const StageSetting& setting, int stage,
                                          const CalibratedTime& time);

}  // namespace fathom::planner

#endif  // FATHOM_COORDINATOR_PLANNER_CALIBRATION_STAGE_PASSES_H_
