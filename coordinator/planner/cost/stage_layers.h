// Which layers a stage has and which stages a rank has, as memory and time both ask.
#ifndef FATHOM_COORDINATOR_PLANNER_COST_STAGE_LAYERS_H_
#define FATHOM_COORDINATOR_PLANNER_COST_STAGE_LAYERS_H_

#include <cstddef>
#include <cstdint>
#include <set>
#include <vector>

#include "common/model/model_config.h"
#include "common/schedule/instruction.h"

namespace fathom::planner {

// Of a stage, in the order of its forward, as in ParameterSpec: the first has the embedding too,
// the last the head and the MTP modules. `stage_layers` as in LayoutShape.
std::vector<int64_t> LayersOfStage(const model::ModelConfig& config,
                                   const std::vector<int64_t>& stage_layers, size_t stage);

// The first layer of the same kind: what is reckoned for that one holds for this one.
int64_t FirstAlike(const model::ModelConfig& config, int64_t layer);

std::set<int> StagesOn(const schedule::Schedule& schedule, int rank);

}  // namespace fathom::planner

#endif  // FATHOM_COORDINATOR_PLANNER_COST_STAGE_LAYERS_H_
