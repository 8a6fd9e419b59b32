#include "coordinator/planner/state_bytes.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_util.h"
#include "common/model/model_config.h"
#include "common/model/model_cost.h"
#include "common/model/parameter_layout.h"
#include "common/model/precision_recipe.h"

namespace fathom::planner {
namespace {

struct StageParameters {
  int64_t dense = 0;
  int64_t experts = 0;  // of all routed experts
};

void AddLayer(const model::ModelConfig& config, int64_t layer, StageParameters* stage) {
  for (const model::ParameterSpec& spec : model::LayerParameters(config, layer)) {
    (spec.kind == model::ParameterKind::kExpert ? stage->experts : stage->dense) += spec.size();
  }
}

StageParameters ParametersOf(const model::ModelConfig& config, const v1::Stage& stage) {
  StageParameters sum;
  if (stage.has_embedding()) AddLayer(config, model::kEmbeddingLayer, &sum);
  for (int64_t i = 0; i < stage.layer_count(); ++i) AddLayer(config, stage.first_layer() + i, &sum);
  if (stage.has_head()) {
    for (int64_t i = 0; i <= config.num_nextn_predict_layers; ++i) {
      AddLayer(config, config.num_hidden_layers + i, &sum);
    }
  }
  return sum;
}

}  // namespace

absl::StatusOr<PlanStateBytes> StateBytesOf(const v1::Plan& plan) {
  FATHOM_ASSIGN_OR_RETURN(const model::ModelConfig config,
                          model::ResolveModel(plan.spec().model()));
  FATHOM_ASSIGN_OR_RETURN(const model::PrecisionRecipe recipe,
                          model::FindRecipe(plan.spec().precision()));
  const v1::Parallelism& shape = plan.spec().parallelism();
  if (plan.stages_size() != shape.pipeline() || shape.expert() < 1 || shape.replicas() < 1) {
    return absl::InvalidArgumentError(absl::StrCat("sizes of state: ", plan.stages_size(),
                                                   " stages for ", shape.ShortDebugString()));
  }
  std::vector<StageParameters> stages;
  for (const v1::Stage& stage : plan.stages()) stages.push_back(ParametersOf(config, stage));
  const int64_t holders = (shape.pipeline() == 1 ? 1 : 2) * int64_t{shape.replicas()};
  PlanStateBytes bytes;
  for (int p = 0; p < shape.pipeline(); ++p) {
    StageParameters held = stages[static_cast<size_t>(p)];
    if (shape.pipeline() > 1) {
      const StageParameters& other = stages[static_cast<size_t>(shape.pipeline() - 1 - p)];
      held.dense += other.dense;
      held.experts += other.experts;
    }
    const model::StateBytes state =
        model::StateOf({held.dense, holders * shape.expert()}, recipe) +
        model::StateOf({held.experts / shape.expert(), holders}, recipe);
    bytes.shard.push_back(state.optimizer);
    bytes.weights.push_back(state.weights);
    bytes.all_shards += state.optimizer * shape.expert() * shape.replicas();
  }
  return bytes;
}

}  // namespace fathom::planner
