#include "coordinator/planner/cost/step_fields.h"

#include <cstddef>
#include <cstdint>

namespace fathom::planner {

std::string ToString(model::Recomputation recomputation) {
  switch (recomputation) {
    case model::Recomputation::kNone:
      return "none";
    case model::Recomputation::kSelective:
      return "selective";
    case model::Recomputation::kFull:
      return "full";
  }
  return "";
}

v1::PredictedLayout ToProto(const LayoutShape& layout, const std::string& schedule) {
  v1::PredictedLayout proto;
  *proto.mutable_parallelism() = layout.parallelism;
  proto.set_schedule(schedule);
  proto.set_micro_batches(layout.micro_batches);
  proto.set_micro_batch_sequences(layout.micro_batch_sequences);
  proto.set_recomputation(ToString(layout.recomputation));
  for (int64_t layers : layout.stage_layers) proto.add_stage_layers(layers);
  return proto;
}

void FillStep(const LayoutShape& layout, const StepTimes& step, v1::Prediction* prediction) {
  prediction->mutable_step()->set_seconds(step.seconds);
  *prediction->mutable_step()->mutable_breakdown() = step.breakdown;
  const int stages = static_cast<int>(step.stages.size());
  int64_t layer = 0;
  for (int i = 0; i < stages; ++i) {
    const StageTimes& times = step.stages[i];
    v1::PredictedStage& stage = *prediction->add_stages();
    stage.set_index(i);
    stage.set_first_layer(layer);
    stage.set_layer_count(layout.stage_layers[i]);
    layer += layout.stage_layers[i];
    stage.set_has_embedding(i == 0);
    stage.set_has_head(i == stages - 1);
    stage.set_forward_s(times.costs.forward);
    stage.set_backward_s(times.costs.backward);
    stage.set_backward_input_s(times.costs.backward_input);
    stage.set_weight_s(times.costs.weight);
    stage.set_overlapped_s(times.costs.overlapped);
    stage.set_compute_s(times.compute_s);
    stage.set_communication_s(times.communication_s);
    if (i + 1 < stages) stage.set_message_s(step.message_s);
  }
  for (size_t i = 0; i < step.simulation.ranks.size(); ++i) {
    const schedule::SimulatedRank& simulated = step.simulation.ranks[i];
    v1::PredictedRank& rank = *prediction->add_ranks();
    rank.set_pipeline_rank(static_cast<int32_t>(i));
    rank.set_busy_s(simulated.busy);
    rank.set_idle_s(simulated.idle);
    rank.set_peak_activations(simulated.peak_live);
  }
  for (const v1::Assumption& assumption : step.assumptions) {
    *prediction->add_assumptions() = assumption;
  }
}

}  // namespace fathom::planner
