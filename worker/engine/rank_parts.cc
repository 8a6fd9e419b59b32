#include "worker/engine/rank_parts.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status_util.h"
#include "common/plan/plan_check.h"
#include "common/plan/plan_layout.h"
#include "common/schedule/dualpipe.h"
#include "common/schedule/schedule_check.h"
#include "worker/transport/token_exchange.h"

namespace fathom::engine {

using kernels::DType;
using model::ExpertExchange;
using model::Lane;
using model::Stage;
using model::StageSlice;

namespace {

// Elements of one round of a collective between a pair of ranks: large enough that a round's fixed
// cost doesn't show, small enough that windows of many peers stay small.
constexpr uint64_t kCollectiveSlotBytes = uint64_t{256} << 10;

DType ActivationType(const model::PrecisionRecipe& recipe) {
  return recipe.activations == model::Format::kBf16 ? DType::kBF16 : DType::kF32;
}

StageSlice SliceOf(const v1::Stage& stage) {
  return {stage.index(), stage.first_layer(), stage.layer_count(), stage.has_embedding(),
          stage.has_head()};
}

absl::StatusOr<model::StageOptions> OptionsFor(const v1::Plan& plan, int stage) {
  const v1::JobSpec& spec = plan.spec();
  model::StageOptions options;
  FATHOM_ASSIGN_OR_RETURN(options.model, model::ResolveModel(spec.model()));
  FATHOM_ASSIGN_OR_RETURN(options.recipe, model::FindRecipe(spec.precision()));
  options.slice = SliceOf(plan.stages(stage));
  options.sequences = spec.training().micro_batch_sequences();
  options.sequence_length = spec.data().sequence_length();
  options.expert_owner.assign(plan.expert_owner().begin(), plan.expert_owner().end());
  options.mtp_loss_weight = spec.training().mtp_loss_weight();
  options.balance_alpha = spec.training().balance_alpha();
  options.sequences_per_step = spec.training().micro_batches() * options.sequences *
                               spec.parallelism().expert() * spec.parallelism().replicas();
  options.tokens_per_step = options.sequences_per_step * options.sequence_length;
  return options;
}

absl::StatusOr<schedule::Schedule> TrainingSchedule(const v1::JobSpec& spec) {
  const int micro_batches = static_cast<int>(spec.training().micro_batches());
  if (spec.parallelism().pipeline() == 1) return schedule::Sequential(micro_batches);
  return schedule::DualPipe(spec.parallelism().pipeline(), micro_batches);
}

std::string PipelineChannel(const char* what, int direction) {
  return absl::StrCat(what, direction);
}

absl::Status AddPipelineChannels(const v1::Plan& plan, std::vector<transport::ChannelSpec>* specs) {
  FATHOM_ASSIGN_OR_RETURN(const schedule::Schedule schedule, TrainingSchedule(plan.spec()));
  FATHOM_ASSIGN_OR_RETURN(const model::StageOptions options, OptionsFor(plan, 0));
  const uint64_t bytes = options.tokens() * options.model.hidden_size *
                         kernels::SizeOf(ActivationType(options.recipe));
  const int slots = std::max(2, schedule::MaxInFlight(schedule));
  for (const v1::RankAssignment& rank : plan.ranks()) {
    for (int direction = 0; direction < schedule.directions; ++direction) {
      const int next = plan::PipelineNeighbour(plan, rank.rank(), direction, 1);
      if (next < 0) continue;
      specs->push_back(
          {PipelineChannel("activations.", direction), rank.rank(), next, slots, bytes});
      specs->push_back({PipelineChannel("gradients.", direction), next, rank.rank(), slots, bytes});
    }
  }
  return absl::OkStatus();
}

absl::Status AddExchangeChannels(const v1::Plan& plan, std::vector<transport::ChannelSpec>* specs) {
  for (const v1::RankAssignment& rank : plan.ranks()) {
    const std::vector<int> members = plan::ExpertGroup(plan, rank.rank());
    if (members.size() < 2 || members[0] != rank.rank()) continue;  // once per group
    for (int stage : plan::StagesOfRank(plan, rank.rank())) {
      FATHOM_ASSIGN_OR_RETURN(const model::StageOptions options, OptionsFor(plan, stage));
      for (int lane = 0; lane < model::kLanes; ++lane) {
        const uint64_t bytes = Stage::MaxExchangeBytes(options, static_cast<Lane>(lane));
        for (transport::ChannelSpec& spec : transport::TokenExchange::Channels(
                 LaneName(stage, static_cast<Lane>(lane)), members, bytes)) {
          specs->push_back(std::move(spec));
        }
      }
    }
  }
  return absl::OkStatus();
}

void AddGroupChannels(const v1::Plan& plan, std::vector<transport::ChannelSpec>* specs) {
  const auto add = [&](const std::string& name, const std::vector<int>& members) {
    for (transport::ChannelSpec& spec :
         transport::Group::Channels(name, members, kCollectiveSlotBytes)) {
      specs->push_back(std::move(spec));
    }
  };
  add("world", plan::AllRanks(plan));
  for (const v1::RankAssignment& rank : plan.ranks()) {
    const std::vector<int> dense = plan::DenseGroup(plan, rank.rank());
    if (dense[0] == rank.rank()) add("dense", dense);
    const std::vector<int> experts = plan::ExpertOwnerGroup(plan, rank.rank());
    if (experts[0] == rank.rank()) add("experts", experts);
  }
}

}  // namespace

absl::StatusOr<transport::ChannelLayout> PlanChannels(const v1::Plan& plan) {
  std::vector<transport::ChannelSpec> specs;
  FATHOM_RETURN_IF_ERROR(AddPipelineChannels(plan, &specs));
  FATHOM_RETURN_IF_ERROR(AddExchangeChannels(plan, &specs));
  AddGroupChannels(plan, &specs);
  FATHOM_ASSIGN_OR_RETURN(const std::shared_ptr<const StateLayout> layout,
                          StateLayout::FromPlan(plan));
  for (transport::ChannelSpec& spec : SnapshotStream::Channels(plan, *layout)) {
    specs.push_back(std::move(spec));
  }
  return transport::LayOutChannels(plan.ranks_size(), std::move(specs));
}

std::vector<Stage*> RankParts::stages_in_order() const {
  std::vector<Stage*> ordered;
  for (const auto& stage : stages) ordered.push_back(stage.get());
  const std::vector<int> indices = plan::StagesOfRank(plan, rank);
  if (indices.size() == 2 && indices[0] > indices[1]) std::swap(ordered[0], ordered[1]);
  return ordered;
}

absl::StatusOr<std::unique_ptr<RankParts>> PrepareRank(const v1::Plan& plan, int rank,
                                                       std::unique_ptr<kernels::Ops> ops,
                                                       const Clock* clock) {
  FATHOM_RETURN_IF_ERROR(plan::CheckPlan(plan));
  if (rank < 0 || rank >= plan.ranks_size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("rank ", rank, " is not in a plan of ", plan.ranks_size(), " ranks"));
  }
  auto parts = std::make_unique<RankParts>();
  parts->plan = plan;
  parts->rank = rank;
  const v1::JobSpec& spec = plan.spec();
  parts->lane = plan::LaneOfRank(plan, rank);
  FATHOM_ASSIGN_OR_RETURN(const model::StageOptions options, OptionsFor(plan, 0));
  parts->model = options.model;
  parts->recipe = options.recipe;
  parts->tokens_per_step = options.tokens_per_step;

  const int pipeline = spec.parallelism().pipeline();
  const int pipeline_rank = plan.ranks(rank).pipeline_rank();
  FATHOM_ASSIGN_OR_RETURN(schedule::Schedule training, TrainingSchedule(spec));
  parts->micro_batches_per_direction = training.micro_batches / training.directions;
  parts->train_list = std::move(training.lists[pipeline_rank]);
  parts->validation_micro_batches = spec.training().validation_batches();
  FATHOM_ASSIGN_OR_RETURN(
      schedule::Schedule validation,
      schedule::ForwardOnly(pipeline, static_cast<int>(parts->validation_micro_batches)));
  parts->validation_list = std::move(validation.lists[pipeline_rank]);
  parts->validation_tokens = parts->validation_micro_batches * options.tokens() *
                             spec.parallelism().expert() * spec.parallelism().replicas();

  FATHOM_ASSIGN_OR_RETURN(DataReader data, DataReader::Open(spec, options.model));
  parts->data = std::make_unique<DataReader>(std::move(data));
  parts->ops = std::move(ops);
  parts->meter = std::make_unique<StepMeter>(clock);
  return parts;
}

namespace {

Chunk ConnectChunk(const RankParts& parts, int direction) {
  Chunk chunk;
  chunk.stage = parts.stages[direction].get();
  const std::string activations = PipelineChannel("activations.", direction);
  const std::string gradients = PipelineChannel("gradients.", direction);
  if (const int from = plan::PipelineNeighbour(parts.plan, parts.rank, direction, -1); from >= 0) {
    chunk.activations_in = parts.channels->receiver(activations, from);
    chunk.gradients_out = parts.channels->sender(gradients, from);
  }
  if (const int to = plan::PipelineNeighbour(parts.plan, parts.rank, direction, 1); to >= 0) {
    chunk.activations_out = parts.channels->sender(activations, to);
    chunk.gradients_in = parts.channels->receiver(gradients, to);
  }
  return chunk;
}

absl::Status BuildStages(RankParts* parts) {
  const v1::Plan& plan = parts->plan;
  const std::vector<int> expert_group = plan::ExpertGroup(plan, parts->rank);
  std::vector<Chunk> chunks;
  int direction = 0;
  for (int index : plan::StagesOfRank(plan, parts->rank)) {
    FATHOM_ASSIGN_OR_RETURN(const model::StageOptions options, OptionsFor(plan, index));
    if (expert_group.size() > 1) {
      parts->exchanges.push_back(std::make_unique<ExchangeAdapter>(
          index, expert_group, parts->rank, parts->channels.get(), parts->meter.get()));
    } else {
      parts->exchanges.push_back(std::make_unique<model::LocalExchange>());
    }
    FATHOM_ASSIGN_OR_RETURN(std::unique_ptr<Stage> stage,
                            Stage::Create(options, parts->ops.get(), parts->store.get(),
                                          parts->exchanges.back().get()));
    parts->stages.push_back(std::move(stage));
    chunks.push_back(ConnectChunk(*parts, direction++));
  }
  FATHOM_ASSIGN_OR_RETURN(const model::StageOptions options, OptionsFor(plan, 0));
  parts->executor = std::make_unique<ScheduleExecutor>(
      std::move(chunks), parts->ops.get(), options.tokens(), options.model.hidden_size,
      ActivationType(options.recipe), parts->meter.get());
  return absl::OkStatus();
}

}  // namespace

absl::Status ConnectRank(const transport::ChannelLayout& layout,
                         std::unique_ptr<transport::Window> window, RankParts* parts,
                         const Clock* clock, StateMemory* memory) {
  const v1::Plan& plan = parts->plan;
  const int rank = parts->rank;
  if (memory == nullptr) parts->own_memory = std::make_unique<StateMemory>();
  parts->memory = memory != nullptr ? memory : parts->own_memory.get();
  parts->window = std::make_unique<transport::MeteredWindow>(std::move(window), clock);
  parts->channels = std::make_unique<transport::ChannelSet>(parts->window.get(), layout);
  const auto group = [&](const std::string& name, std::vector<int> members) {
    return std::make_unique<transport::Group>(name, std::move(members), rank,
                                              parts->channels.get());
  };
  parts->world = group("world", plan::AllRanks(plan));
  parts->dense = group("dense", plan::DenseGroup(plan, rank));
  parts->experts = group("experts", plan::ExpertOwnerGroup(plan, rank));

  std::vector<int> stages = plan::StagesOfRank(plan, rank);
  std::sort(stages.begin(), stages.end());
  std::vector<StageSlice> slices;
  for (int stage : stages) slices.push_back(SliceOf(plan.stages(stage)));
  const std::vector<int32_t> owner(plan.expert_owner().begin(), plan.expert_owner().end());
  parts->store = model::ParameterStore::Create(parts->ops.get(), parts->model, slices, owner,
                                               plan.ranks(rank).expert_rank(),
                                               ActivationType(parts->recipe), DType::kF32);
  FATHOM_RETURN_IF_ERROR(BuildStages(parts));
  FATHOM_ASSIGN_OR_RETURN(parts->state_layout, StateLayout::FromPlan(plan));
  parts->optimizer = std::make_unique<Optimizer>(
      parts->ops.get(), parts->store.get(), parts->dense.get(), parts->experts.get(), parts->recipe,
      parts->memory->OwnBuffers(parts->state_layout, rank, parts->ops), plan.epoch());
  parts->snapshots = std::make_unique<SnapshotStream>(plan, rank, parts->state_layout,
                                                      parts->channels.get(), parts->memory, clock);
  parts->executor->SetBetween([parts] { return parts->snapshots->Pump(); });
  return absl::OkStatus();
}

}  // namespace fathom::engine
