#include "coordinator/planner/cost/memory_model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/model/activation_bytes.h"
#include "common/model/expert_traffic.h"
#include "common/model/model_cost.h"
#include "common/model/parameter_layout.h"
#include "common/schedule/schedule_check.h"
#include "coordinator/planner/cost/stage_layers.h"

namespace fathom::planner {
namespace {

using model::Format;
using model::MicroBatchShape;
using model::ModelConfig;
using model::PrecisionRecipe;
using schedule::Instruction;
using schedule::OpKind;
using schedule::Schedule;

constexpr int64_t kTile = 128;                                // of FP8 scales
constexpr int64_t kCollectiveSlotBytes = int64_t{256} << 10;  // as worker/engine's
constexpr int64_t kSlots = 2;                                 // of every channel, at least

// --- What a layer has, whatever its number ---

// Everything of a layer that memory asks for.
struct LayerBytes {
  int64_t dense_parameters = 0;
  int64_t expert_parameters = 0;  // of the experts of one rank
  int64_t bias_bytes = 0;
  int64_t fp8_bytes = 0;
  int64_t kept = 0;
  int64_t kept_logits = 0;  // of kept
  int64_t deferred = 0;
  model::PeakBytes peak;
};

// Codes and their scales, which begin at a multiple of 64 bytes.
int64_t Fp8Bytes(int64_t rows, int64_t cols) {
  const int64_t codes = (rows * cols + 63) / 64 * 64;
  return codes + ((rows + kTile - 1) / kTile) * ((cols + kTile - 1) / kTile) * 4;
}

class LayerTable {
 public:
  LayerTable(const ModelConfig& config, const PrecisionRecipe& recipe, const LayoutShape& layout)
      : config_(config), recipe_(recipe), layout_(layout) {
    shape_.sequences = layout.micro_batch_sequences;
    shape_.sequence_length = layout.sequence_length;
    shape_.expert_ranks = std::max(1, layout.parallelism.expert());
    shape_.imbalance = layout.imbalance;
  }

  const MicroBatchShape& shape() const { return shape_; }

  // Layers of a kind are all alike and reckoned once.
  const LayerBytes& Of(int64_t layer) {
    const auto [it, fresh] = known_.try_emplace(FirstAlike(config_, layer));
    if (fresh) it->second = Reckon(layer);
    return it->second;
  }

 private:
  void CountParameters(int64_t layer, LayerBytes* out) const {
    int64_t experts = 0;
    for (const model::ParameterSpec& spec : model::LayerParameters(config_, layer)) {
      switch (spec.kind) {
        case model::ParameterKind::kDense:
          out->dense_parameters += spec.size();
          break;
        case model::ParameterKind::kExpert:
          experts += spec.size();
          break;
        case model::ParameterKind::kRouterBias:
          out->bias_bytes += spec.size() * (recipe_.activations == Format::kFp64 ? 8 : 4);
          break;
      }
    }
    const int64_t ranks = shape_.expert_ranks;
    const int64_t local = (config_.n_routed_experts + ranks - 1) / ranks;
    out->expert_parameters = experts / config_.n_routed_experts * local;
  }

  LayerBytes Reckon(int64_t layer) const {
    LayerBytes out;
    CountParameters(layer, &out);
    for (const model::OpCall& call :
         model::RefreshOps(config_, layer, shape_.expert_ranks, recipe_)) {
      if (std::strcmp(call.op, "Quantize") != 0) continue;
      out.fp8_bytes += call.count * (Fp8Bytes(call.m, call.n) + Fp8Bytes(call.n, call.m));
    }
    int64_t selective = 0;
    for (const model::HeldTensor& tensor : model::KeptActivations(
             config_, layer, shape_, recipe_, model::Recomputation::kSelective)) {
      selective += tensor.bytes;
    }
    for (const model::HeldTensor& tensor :
         model::KeptActivations(config_, layer, shape_, recipe_, layout_.recomputation)) {
      out.kept += tensor.bytes;
      if (std::strcmp(tensor.name, "logit gradients") == 0) out.kept_logits += tensor.bytes;
    }
    out.deferred = model::BytesOf(model::DeferredActivations(config_, layer, shape_, recipe_));
    out.peak = model::PeakBytesOf(config_, layer, shape_, recipe_);
    // A pass's peak is that of selective recomputation. Full makes as much again, a layer at a
    // time; none keeps what selective makes, here counted with it: no less than it needs.
    const int64_t more = std::max<int64_t>(0, out.kept - selective);
    for (int64_t* peak : {&out.peak.forward, &out.peak.backward, &out.peak.backward_input}) {
      *peak += more;
    }
    if (out.peak.forward_waiting > 0) {
      out.peak.forward_waiting += more;
      out.peak.backward_waiting += more;
    }
    return out;
  }

  const ModelConfig& config_;
  const PrecisionRecipe& recipe_;
  const LayoutShape& layout_;
  MicroBatchShape shape_;
  std::map<int64_t, LayerBytes> known_;
};

// --- Stages ---

struct StageBytes {
  LayerBytes sum;  // parameters, kept, deferred
  int64_t forward_peak = 0;
  int64_t backward_peak = 0;
  int64_t backward_input_peak = 0;
  // The most while a pass waits for other ranks, or is about to begin or has ended.
  int64_t forward_waiting = 0;
  int64_t backward_waiting = 0;
};

StageBytes BytesOfStage(const std::vector<int64_t>& layers, LayerTable* table) {
  StageBytes out;
  int64_t below = 0;  // kept by the layers before
  int64_t deferred = 0;
  for (const int64_t layer : layers) deferred += table->Of(layer).deferred;
  for (size_t i = 0; i < layers.size(); ++i) {
    const LayerBytes& layer = table->Of(layers[i]);
    deferred -= layer.deferred;  // of the layers behind, done first in the backward
    const int64_t carried =
        i + 1 < layers.size() ? table->Of(layers[i + 1]).peak.after_backward : 0;
    out.forward_peak = std::max(out.forward_peak, below + layer.peak.forward);
    out.backward_peak = std::max(out.backward_peak, below + carried + layer.peak.backward);
    out.backward_input_peak =
        std::max(out.backward_input_peak, below + deferred + layer.peak.backward_input);
    if (layer.peak.forward_waiting > 0) {
      out.forward_waiting = std::max(out.forward_waiting, below + layer.peak.forward_waiting);
      out.backward_waiting = std::max(out.backward_waiting, below + layer.peak.backward_waiting);
    }
    below += layer.kept;
    out.sum.dense_parameters += layer.dense_parameters;
    out.sum.expert_parameters += layer.expert_parameters;
    out.sum.bias_bytes += layer.bias_bytes;
    out.sum.fp8_bytes += layer.fp8_bytes;
    out.sum.kept += layer.kept;
    out.sum.kept_logits += layer.kept_logits;
    out.sum.deferred += layer.deferred;
  }
  out.forward_waiting = std::max(out.forward_waiting, below);
  out.backward_waiting = std::max(out.backward_waiting, below);
  return out;
}

// --- A rank ---

struct RankState {
  int64_t weights = 0;
  int64_t embedding_copy = 0;
  int64_t fp8_weights = 0;
  int64_t biases = 0;
  int64_t gradients = 0;
  int64_t shard = 0;  // masters and moments of one step
};

// A part of the parameters, divided over its holders.
void AddPart(int64_t parameters, int64_t sharers, const PrecisionRecipe& recipe, RankState* out) {
  const model::StateBytes bytes =
      model::StateOf({.parameters = parameters, .sharers = sharers}, recipe);
  out->weights += bytes.weights;
  out->gradients += bytes.gradients;
  out->shard += bytes.optimizer;
}

int64_t HoldersOf(const Schedule& schedule, int stage) {
  std::set<int> ranks;
  for (int direction = 0; direction < schedule.directions; ++direction) {
    ranks.insert(schedule::RankOf(schedule, stage, direction));
  }
  return static_cast<int64_t>(ranks.size());
}

// The step's walk on one rank: what is live, and the instruction at which it is most.
class Walk {
 public:
  Walk(const Schedule& schedule, const std::vector<StageBytes>& stages, int rank)
      : schedule_(schedule), stages_(stages), rank_(rank) {}

  void Run() {
    for (const Instruction& instruction : schedule_.lists[rank_]) {
      // A pass's peak counts what is kept of its own micro-batch.
      const schedule::Op& last = instruction.overlapped ? instruction.second : instruction.first;
      int64_t working = PassBytes(instruction.first);
      if (instruction.overlapped) {  // one runs while the other waits
        working = std::max(working + WaitingBytes(instruction.second),
                           WaitingBytes(instruction.first) + PassBytes(instruction.second));
      }
      const bool frees = last.kind == OpKind::kBackward || last.kind == OpKind::kBackwardInput;
      const LayerBytes* own = frees ? &StageFor(last).sum : nullptr;
      const int64_t others = kept_ - (frees ? own->kept : 0);
      if (others + deferred_ + working > peak_ || at_ == nullptr) {
        peak_ = others + deferred_ + working;
        at_ = &instruction;
        kept_at_peak_ = others;
        logits_at_peak_ = logits_ - (frees ? own->kept_logits : 0);
        deferred_at_peak_ = deferred_;
      }
      Apply(instruction.first);
      if (instruction.overlapped) Apply(instruction.second);
    }
  }

  int64_t peak() const { return peak_; }
  const Instruction* at() const { return at_; }
  int64_t kept_at_peak() const { return kept_at_peak_; }
  int64_t logits_at_peak() const { return logits_at_peak_; }
  int64_t deferred_at_peak() const { return deferred_at_peak_; }

 private:
  const StageBytes& StageFor(const schedule::Op& op) const {
    return stages_[schedule::StageOf(schedule_, rank_, op.direction, op.chunk)];
  }
  int64_t PassBytes(const schedule::Op& op) const {
    const StageBytes& stage = StageFor(op);
    switch (op.kind) {
      case OpKind::kForward:
        return stage.forward_peak;
      case OpKind::kBackward:
        return stage.backward_peak;
      case OpKind::kBackwardInput:
        return stage.backward_input_peak;
      case OpKind::kWeight:
        return 0;
    }
    return 0;
  }
  int64_t WaitingBytes(const schedule::Op& op) const {
    const StageBytes& stage = StageFor(op);
    switch (op.kind) {
      case OpKind::kForward:
        return stage.forward_waiting;
      case OpKind::kBackward:
        return stage.backward_waiting;
      case OpKind::kBackwardInput:  // never in a pair
        return stage.backward_input_peak;
      case OpKind::kWeight:
        return 0;
    }
    return 0;
  }
  void Apply(const schedule::Op& op) {
    const LayerBytes& sum = StageFor(op).sum;
    switch (op.kind) {
      case OpKind::kForward:
        kept_ += sum.kept;
        logits_ += sum.kept_logits;
        break;
      case OpKind::kBackward:
        kept_ -= sum.kept;
        logits_ -= sum.kept_logits;
        break;
      case OpKind::kBackwardInput:
        kept_ -= sum.kept;
        logits_ -= sum.kept_logits;
        deferred_ += sum.deferred;
        break;
      case OpKind::kWeight:
        deferred_ -= sum.deferred;
        break;
    }
  }

  const Schedule& schedule_;
  const std::vector<StageBytes>& stages_;
  const int rank_;
  int64_t kept_ = 0;
  int64_t logits_ = 0;  // of kept_
  int64_t deferred_ = 0;
  int64_t peak_ = 0;
  const Instruction* at_ = nullptr;
  int64_t kept_at_peak_ = 0;
  int64_t logits_at_peak_ = 0;
  int64_t deferred_at_peak_ = 0;
};

absl::Status CheckLayout(const ModelConfig& config, const LayoutShape& layout,
                         const Schedule& schedule) {
  const auto invalid = [](const std::string& what) {
    return absl::InvalidArgumentError(absl::StrCat("reckoning memory: ", what));
  };
  if (schedule.ranks < 1 || static_cast<int>(schedule.lists.size()) != schedule.ranks) {
    return invalid(absl::StrCat("a schedule of ", schedule.lists.size(), " lists for ",
                                schedule.ranks, " ranks"));
  }
  if (static_cast<int>(layout.stage_layers.size()) != schedule.stages) {
    return invalid(absl::StrCat("a layout of ", layout.stage_layers.size(),
                                " stages on a schedule of ", schedule.stages));
  }
  if (layout.parallelism.pipeline() > 0 && layout.parallelism.pipeline() != schedule.ranks) {
    return invalid(absl::StrCat("a pipeline of ", layout.parallelism.pipeline(),
                                " ranks on a schedule of ", schedule.ranks));
  }
  int64_t layers = 0;
  for (const int64_t stage : layout.stage_layers) {
    if (stage < 0) return invalid("a stage of fewer than no layers");
    layers += stage;
  }
  if (layers != config.num_hidden_layers) {
    return invalid(absl::StrCat("stages of ", layers, " layers in all, and the model has ",
                                config.num_hidden_layers));
  }
  if (layout.micro_batch_sequences < 1 || layout.sequence_length < 1 || layout.imbalance <= 0) {
    return invalid(absl::StrCat("micro-batches of ", layout.micro_batch_sequences, " sequences of ",
                                layout.sequence_length, " tokens, imbalance ", layout.imbalance));
  }
  return absl::OkStatus();
}

// Buffers for messages on one rank.
struct MessageBytes {
  int64_t pipeline = 0;
  int64_t exchange = 0;
  int64_t collectives = 0;
};

class Reckoner {
 public:
  Reckoner(const ModelConfig& config, const PrecisionRecipe& recipe, const LayoutShape& layout,
           const Schedule& schedule)
      : config_(config),
        recipe_(recipe),
        layout_(layout),
        schedule_(schedule),
        table_(config, recipe, layout),
        experts_(std::max(1, layout.parallelism.expert())),
        replicas_(std::max(1, layout.parallelism.replicas())) {
    for (size_t stage = 0; stage < layout.stage_layers.size(); ++stage) {
      stages_.push_back(BytesOfStage(LayersOfStage(config, layout.stage_layers, stage), &table_));
    }
    if (layout.device_is_host) slots_ = std::max<int64_t>(kSlots, schedule::MaxInFlight(schedule));
  }

  v1::PredictedMemory OfRank(int rank) {
    const RankState state = StateOf(rank);
    const MessageBytes messages = MessagesOf(rank);
    Walk walk(schedule_, stages_, rank);
    walk.Run();
    v1::PredictedMemory memory;
    memory.set_pipeline_rank(rank);
    if (walk.at() != nullptr) memory.set_at(schedule::ToString(*walk.at()));
    Add("weights", state.weights, &memory);
    Add("copy of the embedding for MTP", state.embedding_copy, &memory);
    Add("FP8 copies of the weights", state.fp8_weights, &memory);
    Add("router biases", state.biases, &memory);
    Add("gradients", state.gradients, &memory);
    Add("optimizer state, two steps", 2 * state.shard, &memory);
    if (layout_.device_is_host && layout_.snapshots_on_buddy && Ranks() > 1) {
      Add("snapshots of another rank, two steps", 2 * (state.shard + state.biases), &memory);
    }
    Add("activations kept", walk.kept_at_peak() - walk.logits_at_peak(), &memory);
    Add("logit gradients kept", walk.logits_at_peak(), &memory);
    Add("inputs of deferred weight gradients", walk.deferred_at_peak(), &memory);
    // With what is kept of the micro-batch at work.
    Add("passes at work", walk.peak() - walk.kept_at_peak() - walk.deferred_at_peak(), &memory);
    Add("messages between stages", messages.pipeline, &memory);
    Add("token exchange", messages.exchange, &memory);
    Add("collectives", messages.collectives, &memory);
    return memory;
  }

 private:
  static void Add(const char* name, int64_t bytes, v1::PredictedMemory* memory) {
    if (bytes == 0) return;
    v1::MemoryPart* part = memory->add_parts();
    part->set_name(name);
    part->set_bytes(bytes);
    memory->set_peak_bytes(memory->peak_bytes() + bytes);
  }

  int64_t Ranks() const { return schedule_.ranks * experts_ * replicas_; }

  RankState StateOf(int rank) {
    RankState state;
    const std::set<int> held = StagesOn(schedule_, rank);
    const int last = schedule_.stages - 1;
    for (const int stage : held) {
      const LayerBytes& sum = stages_[stage].sum;
      const int64_t holders = HoldersOf(schedule_, stage) * replicas_;
      AddPart(sum.dense_parameters, holders * experts_, recipe_, &state);
      AddPart(sum.expert_parameters, holders, recipe_, &state);
      state.fp8_weights += sum.fp8_bytes;
      state.biases += sum.bias_bytes;
    }
    if (config_.num_nextn_predict_layers > 0 && held.contains(last) && !held.contains(0)) {
      const int64_t table = config_.vocab_size * config_.hidden_size;
      state.embedding_copy = table * (model::BytesOf(recipe_.activations) + 4);
    }
    return state;
  }

  MessageBytes MessagesOf(int rank) const {
    MessageBytes out;
    const int64_t tokens = table_.shape().tokens();
    const int64_t boundary = tokens * config_.hidden_size * model::BytesOf(recipe_.activations);
    const std::set<int> held = StagesOn(schedule_, rank);
    out.pipeline = 2 * boundary;  // the executor's output and input gradient
    for (int direction = 0; direction < schedule_.directions; ++direction) {
      for (int chunk = 0; chunk < schedule_.chunks; ++chunk) {
        const int stage = schedule::StageOf(schedule_, rank, direction, chunk);
        if (stage > 0) out.pipeline += slots_ * boundary;                     // activations
        if (stage + 1 < schedule_.stages) out.pipeline += slots_ * boundary;  // gradients
      }
    }
    const model::TokenBytes token = model::TokenBytesOf(config_, recipe_);
    const int64_t both_ways = token.dispatch_forward + token.combine_forward +
                              token.combine_backward + token.dispatch_backward;
    if (experts_ == 1) return WithCollectives(rank, out);
    if (layout_.device_is_host) {
      out.exchange =
          static_cast<int64_t>(held.size()) * kSlots * (experts_ - 1) * tokens * both_ways;
    } else {
      // A forward and a backward in flight, each with what it receives of one way and of the other.
      const double sent = static_cast<double>(tokens) * model::RanksPerToken(config_, experts_);
      const auto dispatched = static_cast<double>(token.dispatch_forward + token.combine_backward);
      const auto combined = static_cast<double>(token.combine_forward + token.dispatch_backward);
      out.exchange = std::llround(sent * (layout_.imbalance * dispatched + combined));
    }
    return WithCollectives(rank, out);
  }

  MessageBytes WithCollectives(int rank, MessageBytes out) const {
    if (!layout_.device_is_host) return out;
    const int stage = *StagesOn(schedule_, rank).begin();
    const int64_t owners = HoldersOf(schedule_, stage) * replicas_;
    const int64_t peers = (Ranks() - 1) + (owners * experts_ - 1) + (owners - 1);
    out.collectives = peers * kSlots * kCollectiveSlotBytes;
    return out;
  }

  const ModelConfig& config_;
  const PrecisionRecipe& recipe_;
  const LayoutShape& layout_;
  const Schedule& schedule_;
  LayerTable table_;
  const int64_t experts_;
  const int64_t replicas_;
  int64_t slots_ = kSlots;
  std::vector<StageBytes> stages_;
};

}  // namespace

absl::StatusOr<std::vector<v1::PredictedMemory>> MemoryOfRanks(const ModelConfig& config,
                                                               const PrecisionRecipe& recipe,
                                                               const LayoutShape& layout,
                                                               const Schedule& schedule) {
  if (absl::Status checked = CheckLayout(config, layout, schedule); !checked.ok()) return checked;
  Reckoner reckoner(config, recipe, layout, schedule);
  std::vector<v1::PredictedMemory> ranks;
  ranks.reserve(schedule.ranks);
  for (int rank = 0; rank < schedule.ranks; ++rank) ranks.push_back(reckoner.OfRank(rank));
  return ranks;
}

}  // namespace fathom::planner
