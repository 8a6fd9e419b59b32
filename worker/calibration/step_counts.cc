#include "worker/calibration/step_counts.h"

#include "absl/strings/string_view.h"
#include "common/base/status_util.h"
#include "common/calibration/op_time_formula.h"
#include "common/calibration/op_time_names.h"
#include "common/calibration/step_work.h"
#include "common/model/model_config.h"
#include "common/model/precision_recipe.h"

namespace fathom::calibration {
namespace {

void Append(const model::OpCalls& calls, int64_t times, StepCounts* counts) {
  for (const model::OpCall& call : calls) {
    model::OpCall many = call;
    many.count *= times;
    many.flops *= static_cast<double>(times);
    many.bytes *= static_cast<double>(times);
    counts->calls += static_cast<double>(many.count);
    counts->ops.push_back(many);
  }
}

}  // namespace

absl::StatusOr<StepCounts> CountStep(const v1::JobSpec& spec) {
  FATHOM_ASSIGN_OR_RETURN(const model::ModelConfig config, model::ResolveModel(spec.model()));
  FATHOM_ASSIGN_OR_RETURN(const model::PrecisionRecipe recipe, model::FindRecipe(spec.precision()));
  model::MicroBatchShape shape;
  shape.sequences = spec.training().micro_batch_sequences();
  shape.sequence_length = spec.data().sequence_length();
  const int64_t micro_batches = spec.training().micro_batches();
  StepCounts counts;
  double moe_layers = 0;
  const int64_t last = config.num_hidden_layers + config.num_nextn_predict_layers;
  for (int64_t layer = -1; layer <= last; ++layer) {
    const model::LayerOps ops = model::OpsOfLayer(config, layer, shape, recipe);
    for (const model::PassOps* part : {&ops.attention, &ops.mlp, &ops.head}) {
      Append(part->forward, micro_batches, &counts);
      Append(part->backward_input, micro_batches, &counts);
      Append(part->backward_weight, micro_batches, &counts);
    }
    const bool block = layer >= 0 && layer != config.num_hidden_layers;
    if (block && (layer > config.num_hidden_layers || config.is_moe_layer(layer))) ++moe_layers;
  }
  const LayerExchange x = ExchangeOf(config, shape, recipe);
  for (const ExchangeWork* way :
       {&x.dispatch_forward, &x.combine_forward, &x.combine_backward, &x.dispatch_backward}) {
    counts.exchange_bytes +=
        moe_layers * static_cast<double>(micro_batches) * (way->post_bytes + way->receive_bytes);
  }
  JobShape job = {&config, &recipe, spec.parallelism(), {config.num_hidden_layers}};
  const StepEnd end = StepEndOf(job, {0}, 1);
  Append(end.ops, 1, &counts);
  counts.hashed_bytes = static_cast<double>(2 * end.weight_bytes + end.state_bytes);
  counts.instructions = 2 * static_cast<double>(micro_batches);
  return counts;
}

double FittedStep(const v1::OpTimes& times, const StepCounts& counts) {
  double seconds = 0;
  const auto add = [&](absl::string_view op, absl::string_view format, const CallSums& sums) {
    for (const v1::OpTime& entry : times.ops()) {
      if (entry.op() == op && entry.format() == format) seconds += SecondsOf(entry, sums);
    }
  };
  for (const model::OpCall& call : counts.ops) {
    add(call.op, FormatName(call.format), SumsOf(call));
  }
  add(kOverhead, "", {.count = counts.calls});
  add(kExchange, "", {.count = 0, .bytes = counts.exchange_bytes});
  add(kInstruction, "", {.count = counts.instructions});
  add(kHash, "", {.count = 0, .bytes = counts.hashed_bytes});
  add(kStep, "", {.count = 1});
  return seconds;
}

}  // namespace fathom::calibration
