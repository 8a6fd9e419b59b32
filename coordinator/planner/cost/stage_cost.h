// Times of stages and of pairs of stages, for a layout on a topology: which layers lie on a stage,
// on which kinds of devices, and how far apart the ranks of its expert groups are.
#ifndef FATHOM_COORDINATOR_PLANNER_COST_STAGE_COST_H_
#define FATHOM_COORDINATOR_PLANNER_COST_STAGE_COST_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/cluster/topology.h"
#include "common/model/layer_ops.h"
#include "common/model/model_config.h"
#include "common/model/precision_recipe.h"
#include "common/schedule/step_costs.h"
#include "coordinator/planner/cost/layer_time.h"
#include "coordinator/planner/cost/memory_model.h"
#include "coordinator/planner/cost/pair_overlap.h"
#include "coordinator/planner/cost/stage_times.h"
#include "coordinator/planner/rank_placement.h"

namespace fathom::planner {

// What a step is predicted from. The references must outlive what is made of it.
struct CostInput {
  const model::ModelConfig& config;
  const model::PrecisionRecipe& recipe;
  const LayoutShape& layout;
  const cluster::Topology& topology;
  const RankPlacement& placement;
};

// INVALID_ARGUMENT: placement and layout contradict each other. `with_stages`: its stages too.
absl::Status CheckCostInput(const CostInput& input, bool with_stages);

model::MicroBatchShape MicroBatchOf(const CostInput& input);

const RankPlacement::Place& PlaceOf(const CostInput& input, int64_t replica, int64_t expert_rank,
                                    int64_t pipeline_rank);

// Changes a device profile before anything is reckoned with it: to ask what an assumption adds.
using ProfileChange = std::function<void(v1::DeviceProfile&)>;

class StageCostModel {
 public:
  static absl::StatusOr<StageCostModel> Make(const CostInput& input,
                                             const ProfileChange& change = nullptr);

  StageTimes Stage(int stage);
  // A forward of one stage with a full backward of another on the same rank.
  StreamTimes Pair(int forward_stage, int backward_stage);
  // One layer's share of a stage of several; `layer` as in ParameterSpec, the head's with the MTP
  // modules.
  schedule::StageCosts LayerShare(int64_t layer);

  // Kinds of device and surroundings that a pipeline rank has, over the replicas.
  std::vector<LayerTimer*> TimersOf(int pipeline_rank);

 private:
  struct StageLayers {
    std::vector<LayerTimes> beside;
    std::vector<LayerTimes> alone;
    NamedTimes parts;
  };

  explicit StageCostModel(const CostInput& input) : input_(input) {}
  absl::Status AddSites(const ProfileChange& change);
  StageLayers Times(const std::vector<int64_t>& layers, LayerTimer* timer) const;
  std::vector<int64_t> LayersOf(int stage) const;
  std::vector<int> RanksOf(int stage) const;
  std::vector<int> SitesOf(int stage) const;

  CostInput input_;
  std::vector<std::unique_ptr<v1::DeviceProfile>> profiles_;
  std::vector<LayerTimer> timers_;
  std::vector<std::vector<int>> sites_;  // by pipeline rank: indices into timers_
};

}  // namespace fathom::planner

#endif  // FATHOM_COORDINATOR_PLANNER_COST_STAGE_COST_H_
