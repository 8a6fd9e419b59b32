#include "worker/engine/state_layout.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status_util.h"
#include "common/model/parameter_layout.h"
#include "common/model/precision_recipe.h"
#include "common/plan/plan_layout.h"
#include "worker/transport/collectives.h"

namespace fathom::engine {

using model::ParameterKind;
using model::ParameterSpec;
using transport::Range;

namespace {

// What determines the pieces, and nothing else of the plan.
v1::Plan Stripped(const v1::Plan& plan) {
  v1::Plan out;
  v1::JobSpec& spec = *out.mutable_spec();
  *spec.mutable_model() = plan.spec().model();
  spec.mutable_model()->clear_preset();
  spec.set_precision(plan.spec().precision());
  *spec.mutable_parallelism() = plan.spec().parallelism();
  *out.mutable_stages() = plan.stages();
  *out.mutable_expert_owner() = plan.expert_owner();
  return out;
}

std::vector<ParameterSpec> StageParameters(const model::ModelConfig& config,
                                           const v1::Stage& stage) {
  std::vector<ParameterSpec> all;
  const auto append = [&](int64_t layer) {
    for (ParameterSpec& spec : model::LayerParameters(config, layer)) {
      all.push_back(std::move(spec));
    }
  };
  if (stage.has_embedding()) append(model::kEmbeddingLayer);
  for (int64_t i = 0; i < stage.layer_count(); ++i) append(stage.first_layer() + i);
  if (stage.has_head()) {
    for (int64_t i = 0; i <= config.num_nextn_predict_layers; ++i) {
      append(config.num_hidden_layers + i);
    }
  }
  return all;
}

int IndexIn(const std::vector<int>& group, int rank) {
  return static_cast<int>(std::find(group.begin(), group.end(), rank) - group.begin());
}

}  // namespace

absl::StatusOr<std::shared_ptr<const StateLayout>> StateLayout::FromPlan(const v1::Plan& plan) {
  auto layout = std::shared_ptr<StateLayout>(new StateLayout);
  layout->grid_ = Stripped(plan);
  layout->key_ = layout->grid_.SerializeAsString();
  const v1::JobSpec& spec = layout->grid_.spec();
  layout->family_ = absl::StrCat(spec.precision(), " ", spec.model().SerializeAsString());
  FATHOM_ASSIGN_OR_RETURN(layout->model_, model::ResolveModel(spec.model()));
  FATHOM_ASSIGN_OR_RETURN(const model::PrecisionRecipe recipe, model::FindRecipe(spec.precision()));
  layout->moment_bytes_ = recipe.optimizer_moments == model::Format::kBf16 ? 2 : 4;
  const v1::Parallelism& shape = spec.parallelism();
  if (shape.pipeline() < 1 || shape.expert() < 1 || shape.replicas() < 1 ||
      layout->grid_.stages_size() != shape.pipeline() ||
      layout->grid_.expert_owner_size() != layout->model_.n_routed_experts) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a layout of ", layout->grid_.stages_size(), " stages and ",
        layout->grid_.expert_owner_size(), " owners of experts for ", shape.ShortDebugString()));
  }
  const int ranks = shape.pipeline() * shape.expert() * shape.replicas();
  for (int rank = 0; rank < ranks; ++rank) {
    v1::RankAssignment* out = layout->grid_.add_ranks();
    out->set_rank(rank);
    out->set_pipeline_rank(rank % shape.pipeline());
    out->set_expert_rank(rank / shape.pipeline() % shape.expert());
    out->set_replica(rank / shape.pipeline() / shape.expert());
  }
  return layout;
}

absl::StatusOr<std::shared_ptr<const StateLayout>> StateLayout::Parse(const std::string& key) {
  v1::Plan plan;
  if (!plan.ParseFromString(key)) return absl::InvalidArgumentError("not the layout of a state");
  return FromPlan(plan);
}

std::vector<StatePiece> StateLayout::Pieces(int shard) const {
  FATHOM_CHECK(shard >= 0 && shard < shards()) << shard << " of " << shards();
  const std::vector<int> dense = plan::DenseGroup(grid_, shard);
  const std::vector<int> experts = plan::ExpertOwnerGroup(grid_, shard);
  const int expert_rank = grid_.ranks(shard).expert_rank();
  std::vector<int> stages = plan::StagesOfRank(grid_, shard);
  std::sort(stages.begin(), stages.end());

  std::vector<StatePiece> pieces;
  std::vector<StatePiece> biases;
  int64_t offset = 0;
  int64_t bias_offset = 0;
  for (const int stage : stages) {
    const std::vector<ParameterSpec> specs = StageParameters(model_, grid_.stages(stage));
    for (const ParameterKind kind : {ParameterKind::kDense, ParameterKind::kExpert}) {
      const auto in_block = [&](const ParameterSpec& spec) {
        return spec.kind == kind &&
               (kind == ParameterKind::kDense ||
                grid_.expert_owner(static_cast<int>(spec.expert)) == expert_rank);
      };
      int64_t size = 0;
      for (const ParameterSpec& spec : specs) size += in_block(spec) ? spec.size() : 0;
      const std::vector<int>& group = kind == ParameterKind::kDense ? dense : experts;
      const Range own = transport::PartitionEvenly(
          size, static_cast<int>(group.size()))[static_cast<size_t>(IndexIn(group, shard))];
      const std::pair<const char*, int64_t> arrays[] = {
          {"", 4}, {"#m", moment_bytes_}, {"#v", moment_bytes_}};
      for (const auto& [suffix, element] : arrays) {
        int64_t at = 0;  // of the tensor in the block
        for (const ParameterSpec& spec : specs) {
          if (!in_block(spec)) continue;
          const int64_t begin = std::max(own.begin, at);
          const int64_t end = std::min(own.end, at + spec.size());
          if (begin < end) {
            pieces.push_back({absl::StrCat(spec.name, suffix), begin - at, end - at,
                              offset + (begin - own.begin) * element, element});
          }
          at += spec.size();
        }
        offset = AlignState(offset + own.size() * element);
      }
    }
    for (const ParameterSpec& spec : specs) {
      if (spec.kind != ParameterKind::kRouterBias) continue;
      biases.push_back({spec.name, 0, spec.size(), bias_offset, 4});
      bias_offset += spec.size() * 4;
    }
    bias_offset = AlignState(bias_offset);
  }
  for (StatePiece& bias : biases) {
    bias.offset += offset;
    pieces.push_back(std::move(bias));
  }
  return pieces;
}

int64_t StateLayout::ShardBytes(int shard) const {
  int64_t bytes = 0;
  for (const StatePiece& piece : Pieces(shard)) {
    bytes = std::max(bytes, piece.offset + (piece.end - piece.begin) * piece.element_bytes);
  }
  return AlignState(bytes);
}

}  // namespace fathom::engine
