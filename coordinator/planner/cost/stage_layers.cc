#include "coordinator/planner/cost/stage_layers.h"

#include <numeric>

#include "common/model/parameter_layout.h"

namespace fathom::planner {

std::vector<int64_t> LayersOfStage(const model::ModelConfig& config,
                                   const std::vector<int64_t>& stage_layers, size_t stage) {
  const int64_t first =
      std::accumulate(stage_layers.begin(), stage_layers.begin() + stage, int64_t{0});
  std::vector<int64_t> layers;
  if (stage == 0) layers.push_back(model::kEmbeddingLayer);
  for (int64_t i = 0; i < stage_layers[stage]; ++i) layers.push_back(first + i);
  if (stage + 1 == stage_layers.size()) {
    for (int64_t i = 0; i <= config.num_nextn_predict_layers; ++i) {
      layers.push_back(config.num_hidden_layers + i);
    }
  }
  return layers;
}

int64_t FirstAlike(const model::ModelConfig& config, int64_t layer) {
  if (layer < 0 || layer >= config.num_hidden_layers) return layer;
  return config.is_moe_layer(layer) ? config.first_k_dense_replace : 0;
}

std::set<int> StagesOn(const schedule::Schedule& schedule, int rank) {
  std::set<int> stages;
  for (int direction = 0; direction < schedule.directions; ++direction) {
    for (int chunk = 0; chunk < schedule.chunks; ++chunk) {
      stages.insert(schedule::StageOf(schedule, rank, direction, chunk));
    }
  }
  return stages;
}

}  // namespace fathom::planner
