// Which layers each stage of a pipeline holds.
//
// A step is paced by the stage that takes longest, so that is made as short as runs of whole layers
// allow; among the splits that reach it, the most even. The head and the MTP modules count with the
// last stage, the embedding with the first; a stage at an end may be left with them alone.
#ifndef FATHOM_COORDINATOR_PLANNER_STAGE_SPLIT_H_
#define FATHOM_COORDINATOR_PLANNER_STAGE_SPLIT_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "common/model/model_config.h"
#include "proto/fathom/v1/plan.pb.h"

namespace fathom::planner {

// What runs of layers cost, in any unit.
struct LayerCosts {
  std::vector<double> layers;
  double embedding = 0;
  double head = 0;  // with MTP modules
};

LayerCosts CostsOf(const model::ModelConfig& config, int64_t sequence_length);

// layer_count of each stage. INVALID_ARGUMENT unless 1 <= stages <= layers.
absl::StatusOr<std::vector<int64_t>> SplitLayers(const LayerCosts& costs, int stages);

// As the plan says it.
absl::StatusOr<std::vector<v1::Stage>> SplitStages(const model::ModelConfig& config,
                                                   int64_t sequence_length, int stages);

}  // namespace fathom::planner

#endif  // FATHOM_COORDINATOR_PLANNER_STAGE_SPLIT_H_
