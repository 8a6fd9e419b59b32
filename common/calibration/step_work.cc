#include "common/calibration/step_work.h"

#include <algorithm>
#include <cmath>

#include "common/model/expert_traffic.h"
#include "common/model/parameter_layout.h"

namespace fathom::calibration {
namespace {

using model::Format;
using model::OpCall;
using model::ParameterKind;

struct Layers {
  int64_t first = 0;
  int64_t count = 0;
  bool has_embedding = false;
  bool has_head = false;
};

Layers LayersOf(const JobShape& job, int stage) {
  Layers layers;
  for (int s = 0; s < stage; ++s) layers.first += job.stage_layers[s];
  layers.count = job.stage_layers[stage];
  layers.has_embedding = stage == 0;
  layers.has_head = static_cast<size_t>(stage) + 1 == job.stage_layers.size();
  return layers;
}

std::vector<int64_t> LayerNumbers(const JobShape& job, int stage) {
  const Layers layers = LayersOf(job, stage);
  std::vector<int64_t> numbers;
  if (layers.has_embedding) numbers.push_back(model::kEmbeddingLayer);
  for (int64_t i = 0; i < layers.count; ++i) numbers.push_back(layers.first + i);
  if (layers.has_head) {
    for (int64_t i = 0; i <= job.config->num_nextn_predict_layers; ++i) {
      numbers.push_back(job.config->num_hidden_layers + i);
    }
  }
  return numbers;
}

// `count` calls over `elements` elements in all, so many bytes each.
OpCall Flat(const char* op, const char* what, Format format, int64_t count, int64_t elements,
            int64_t bytes_per_element) {
  OpCall call;
  call.op = op;
  call.what = what;
  call.format = format;
  call.m = 1;
  call.n = elements / std::max<int64_t>(count, 1);
  call.k = 1;
  call.count = count;
  call.bytes = static_cast<double>(elements * bytes_per_element);
  return call;
}

// The two blocks of a stage: what every rank of it holds, and its experts.
void CountStage(const JobShape& job, int stage, int64_t holders, StepEnd* out) {
  const v1::Parallelism& parallel = job.parallelism;
  HeldParameters dense = {.sharers = holders * parallel.expert() * parallel.replicas()};
  HeldParameters experts = {.sharers = holders * parallel.replicas()};
  for (const int64_t layer : LayerNumbers(job, stage)) {
    for (const model::ParameterSpec& spec : model::LayerParameters(*job.config, layer)) {
      if (spec.kind == ParameterKind::kRouterBias) {
        out->weight_bytes += spec.size() * model::BytesOf(Format::kFp32);
        out->state_bytes += spec.size() * model::BytesOf(Format::kFp32);
        continue;
      }
      HeldParameters& block = spec.kind == ParameterKind::kExpert ? experts : dense;
      block.elements += spec.size();
      ++block.tensors;
    }
    for (const OpCall& call :
         model::RefreshOps(*job.config, layer, parallel.expert(), *job.recipe)) {
      out->ops.push_back(call);
    }
  }
  experts.elements /= parallel.expert();
  experts.tensors /= parallel.expert();
  out->blocks.push_back(dense);
  if (experts.elements > 0) out->blocks.push_back(experts);
}

}  // namespace

LayerExchange ExchangeOf(const model::ModelConfig& config, const model::MicroBatchShape& shape,
                         const model::PrecisionRecipe& recipe) {
  const model::TokenBytes token = model::TokenBytesOf(config, recipe);
  const auto tokens = static_cast<double>(shape.tokens());
  const auto ranks = static_cast<double>(shape.expert_ranks);
  const double sent = tokens * model::RanksPerToken(config, shape.expert_ranks);  // to all ranks
  const double received = sent * shape.imbalance;
  const auto pairs = static_cast<double>(model::ExpertRowsOf(config, shape).pairs);
  const auto row = static_cast<double>(token.combine_forward);
  const auto gradient = static_cast<double>(token.combine_backward);
  const auto record = static_cast<double>(token.dispatch_forward);
  const auto returned = static_cast<double>(token.dispatch_backward);
  LayerExchange out;
  // Out of the backend's memory, into records, and this rank's own once more; then pair by pair
  // into rows, and those into the backend's memory.
  out.dispatch_forward = {tokens * gradient + sent * record * (1 + 1 / ranks), 2 * pairs * gradient,
                          sent * record / ranks};
  out.combine_forward = {received * row * (1 + 1 / ranks), sent * row, received * row / ranks};
  out.combine_backward = {tokens * gradient + sent * gradient * (1 + 1 / ranks),
                          2 * pairs * gradient, sent * gradient / ranks};
  out.dispatch_backward = {received * returned * (1 + 1 / ranks), sent * returned,
                           received * returned / ranks};
  return out;
}

StepEnd StepEndOf(const JobShape& job, const std::vector<int>& stages, int64_t holders) {
  StepEnd out;
  for (const int stage : stages) CountStage(job, stage, holders, &out);
  const int64_t weight = model::BytesOf(job.recipe->activations);
  const int64_t moment = model::BytesOf(job.recipe->optimizer_moments);
  constexpr int64_t kFloat = 4;
  for (const HeldParameters& block : out.blocks) {
    const int64_t own = block.own();
    const int64_t tensors = (block.tensors + block.sharers - 1) / block.sharers;
    out.weight_bytes += block.elements * weight;
    out.state_bytes += own * (kFloat + 2 * moment);
    out.ops.push_back(Flat("Fill", "gradients", Format::kFp32, 1, block.elements, kFloat));
    out.ops.push_back(Flat("SumOfSquares", "gradients", Format::kFp32, 1, own, kFloat));
    out.ops.push_back(Flat("AdamW", "update", job.recipe->optimizer_moments, tensors, own,
                           kFloat + 2 * (kFloat + 2 * moment)));
    out.ops.push_back(Flat("Copy", "rounding", Format::kFp32, 1, own, kFloat + weight));
  }
  return out;
}

}  // namespace fathom::calibration
