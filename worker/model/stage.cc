#include "worker/model/stage.h"

#include <algorithm>
#include <functional>
#include <optional>
#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "worker/model/embedding_and_head.h"
#include "worker/model/moe_layer.h"
#include "worker/model/mtp_module.h"
#include "worker/model/numerics.h"
#include "worker/model/parameter_reader.h"
#include "worker/model/tensor.h"
#include "worker/model/transformer_block.h"

namespace fathom::model {
namespace {

using kernels::Matrix;

// What a micro-batch holds between its forward and its backward.
struct MicroBatch {
  std::vector<int32_t> samples;  // [sequences, sample_length]
  Buffer tokens_T;               // of the embedding
  std::vector<TransformerBlock::Activations> blocks;
  MtpModule::Activations mtp;
  Head::Activations head;
  Head::Activations mtp_head;
};

// Blocks of a stage in the order of the forward; MTP's, if any, is the last.
struct StageLayers {
  std::optional<Embedding> embedding;
  std::vector<std::unique_ptr<TransformerBlock>> blocks;
  std::vector<int64_t> load_row;  // of each block in expert_loads, -1 for a dense one
  std::optional<Head> head;
  std::optional<MtpModule> mtp;
  std::optional<Head> mtp_head;

  bool is_mtp(size_t block) const { return mtp.has_value() && block + 1 == blocks.size(); }
};

class StageImpl : public Stage {
 public:
  StageImpl(const StageOptions& options, const Numerics& numerics, kernels::Ops* ops,
            ExpertExchange* exchange);

  absl::Status Build(ParameterStore* store);

  void RefreshWeights() override;
  std::unique_ptr<Pass> Forward(int micro_batch, const int32_t* samples, const Matrix& input,
                                const Matrix& output, bool keep) override;
  std::unique_ptr<Pass> Backward(int micro_batch, const Matrix& grad_output,
                                 const Matrix& grad_input, WeightWork* deferred) override;
  MicroBatchLoss loss(int micro_batch) const override;
  absl::Span<const int64_t> expert_loads() const override { return loads_; }
  void ResetExpertLoads() override { std::fill(loads_.begin(), loads_.end(), 0); }
  std::vector<Parameter*> router_biases() override;
  int live_micro_batches() const override { return static_cast<int>(live_.size()); }

  PoolBytes pool_bytes() const override { return pool_.bytes(); }

  const StageLayers& layers() const { return layers_; }
  TransformerBlock& block(size_t i) { return *layers_.blocks[i]; }
  const StageOptions& options() const { return options_; }
  const LayerContext& context() const { return context_; }
  absl::Span<int64_t> loads_of(size_t block);
  void SetLoss(int micro_batch, const MicroBatchLoss& loss) { losses_[micro_batch] = loss; }
  void Drop(int micro_batch) { live_.erase(micro_batch); }

  // Tokens [offset, offset + S) of every sample, one sample behind another.
  std::vector<int32_t> TokensAt(const MicroBatch& state, int64_t offset) const;
  // A copy of [T, D] in the activations' format.
  Tensor CopyIn(const Matrix& from) const;

 private:
  StageOptions options_;
  TensorPool pool_;
  LayerContext context_;
  ExpertGroup group_;
  StageLayers layers_;
  std::vector<int64_t> loads_;  // [MoE layers, E]
  absl::flat_hash_map<int, MicroBatchLoss> losses_;
  absl::flat_hash_map<int, std::unique_ptr<MicroBatch>> live_;
};

enum class Phase : uint8_t { kStart, kBegin, kExperts, kFinish, kDone };

class ForwardPass : public Pass {
 public:
  // Without keep, `own` is the state; else it is the stage's.
  ForwardPass(StageImpl* stage, int micro_batch, MicroBatch* state, std::unique_ptr<MicroBatch> own,
              const Matrix& input, const Matrix& output)
      : stage_(stage),
        micro_batch_(micro_batch),
        keep_(own == nullptr),
        own_(std::move(own)),
        state_(state),
        input_(input),
        output_(output) {}

  bool done() const override { return phase_ == Phase::kDone; }
  absl::Status Advance() override;

 private:
  void Start();
  absl::Status Begin();
  void EndBlock();
  void Finish();
  void RunHead(const Head& head, const Tensor& x, int64_t label_offset, double weight, double* loss,
               Head::Activations* kept);

  StageImpl* stage_;
  const int micro_batch_;
  const bool keep_;
  std::unique_ptr<MicroBatch> own_;
  MicroBatch* state_;
  Matrix input_;
  Matrix output_;
  Phase phase_ = Phase::kStart;
  size_t block_ = 0;
  Tensor x_TD_;
  MicroBatchLoss loss_;
};

class BackwardPass : public Pass {
 public:
  BackwardPass(StageImpl* stage, int micro_batch, MicroBatch* state, const Matrix& grad_output,
               const Matrix& grad_input, WeightWork* deferred)
      : stage_(stage),
        micro_batch_(micro_batch),
        state_(state),
        grad_output_(grad_output),
        grad_input_(grad_input),
        work_(deferred == nullptr ? &immediate_ : deferred),
        block_(stage->layers().blocks.size()) {}

  bool done() const override { return phase_ == Phase::kDone; }
  absl::Status Advance() override;

 private:
  void Start();
  absl::Status Begin();
  void EndBlock();
  void Finish();
  // Weight gradients of what has been passed, unless they are left for later. Called after a post,
  // so that they run while it travels.
  void RunWeightWork();

  StageImpl* stage_;
  const int micro_batch_;
  MicroBatch* state_;
  Matrix grad_output_;
  Matrix grad_input_;
  WeightWork immediate_;
  WeightWork* work_;
  Phase phase_ = Phase::kStart;
  size_t block_;  // the one at work is block_ - 1
  Tensor grad_TD_;
  Tensor main_head_grad_TD_;
};

// --- Stage ---

StageImpl::StageImpl(const StageOptions& options, const Numerics& numerics, kernels::Ops* ops,
                     ExpertExchange* exchange)
    : options_(options), pool_(ops), context_({ops, &pool_, numerics}) {
  group_.exchange = exchange;
  group_.map = ExpertMap::Make(options.expert_owner, exchange->size(), exchange->index());
}

absl::Status StageImpl::Build(ParameterStore* store) {
  const ModelConfig& model = options_.model;
  const StageSlice& slice = options_.slice;
  const RouterOptions routing = {.sequences = options_.sequences,
                                 .sequence_length = options_.sequence_length,
                                 .balance_alpha = options_.balance_alpha,
                                 .sequences_per_step = options_.sequences_per_step};
  ParameterReader reader(context_, store);
  int64_t moe_layers = 0;
  const auto add_block = [&](int64_t layer, bool moe) {
    layers_.blocks.push_back(std::make_unique<TransformerBlock>(
        context_, model, routing, absl::StrCat("model.layers.", layer, "."), moe, &group_,
        &reader));
    layers_.load_row.push_back(moe ? moe_layers++ : -1);
  };
  if (slice.has_embedding) layers_.embedding.emplace(context_, model, &reader);
  for (int64_t i = 0; i < slice.layer_count; ++i) {
    const int64_t layer = slice.first_layer + i;
    add_block(layer, model.is_moe_layer(layer));
  }
  if (slice.has_head) {
    layers_.head.emplace(context_, model, "model.norm.weight", &reader);
    if (model.num_nextn_predict_layers > 0) {
      const std::string prefix = absl::StrCat("model.layers.", model.num_hidden_layers, ".");
      layers_.mtp.emplace(context_, model, prefix, &reader);
      layers_.mtp_head.emplace(context_, model, absl::StrCat(prefix, "shared_head.norm.weight"),
                               &reader);
      add_block(model.num_hidden_layers, /*moe=*/true);
    }
  }
  loads_.assign(moe_layers * model.n_routed_experts, 0);
  return reader.status();
}

void StageImpl::RefreshWeights() {
  for (const auto& block : layers_.blocks) block->RefreshWeights();
  if (layers_.mtp) layers_.mtp->RefreshWeights();
}

std::unique_ptr<Pass> StageImpl::Forward(int micro_batch, const int32_t* samples,
                                         const Matrix& input, const Matrix& output, bool keep) {
  auto state = std::make_unique<MicroBatch>();
  if (layers_.embedding || layers_.head) {
    FATHOM_CHECK(samples != nullptr) << "stage " << options_.slice.stage << " needs the samples";
    state->samples.assign(samples, samples + options_.sequences * options_.sample_length());
  }
  state->blocks.resize(layers_.blocks.size());
  MicroBatch* raw = state.get();
  if (keep) live_[micro_batch] = std::move(state);
  return std::make_unique<ForwardPass>(this, micro_batch, raw, std::move(state), input, output);
}

std::unique_ptr<Pass> StageImpl::Backward(int micro_batch, const Matrix& grad_output,
                                          const Matrix& grad_input, WeightWork* deferred) {
  const auto it = live_.find(micro_batch);
  FATHOM_CHECK(it != live_.end()) << "no forward of micro-batch " << micro_batch << " is held";
  return std::make_unique<BackwardPass>(this, micro_batch, it->second.get(), grad_output,
                                        grad_input, deferred);
}

MicroBatchLoss StageImpl::loss(int micro_batch) const {
  const auto it = losses_.find(micro_batch);
  FATHOM_CHECK(it != losses_.end()) << "no forward of micro-batch " << micro_batch << " is done";
  return it->second;
}

std::vector<Parameter*> StageImpl::router_biases() {
  std::vector<Parameter*> biases;
  for (const auto& block : layers_.blocks) {
    if (block->is_moe()) biases.push_back(block->router_bias());
  }
  return biases;
}

absl::Span<int64_t> StageImpl::loads_of(size_t block) {
  const int64_t experts = options_.model.n_routed_experts;
  if (layers_.load_row[block] < 0) return {};
  return absl::MakeSpan(loads_).subspan(layers_.load_row[block] * experts, experts);
}

std::vector<int32_t> StageImpl::TokensAt(const MicroBatch& state, int64_t offset) const {
  std::vector<int32_t> tokens;
  tokens.reserve(options_.tokens());
  for (int64_t s = 0; s < options_.sequences; ++s) {
    const auto first = state.samples.begin() + s * options_.sample_length() + offset;
    tokens.insert(tokens.end(), first, first + options_.sequence_length);
  }
  return tokens;
}

Tensor StageImpl::CopyIn(const Matrix& from) const {
  Tensor to = context_.pool->Dense(options_.tokens(), options_.model.hidden_size,
                                   context_.numerics.activation);
  context_.ops->Copy(from, to);
  return to;
}

// --- Forward ---

absl::Status ForwardPass::Advance() {
  if (phase_ == Phase::kStart) {
    Start();
    phase_ = Phase::kBegin;
  }
  const size_t blocks = stage_->layers().blocks.size();
  while (phase_ != Phase::kDone) {
    if (phase_ == Phase::kExperts) {
      phase_ = Phase::kFinish;
      return stage_->block(block_).ForwardExperts(keep_, &state_->blocks[block_]);
    }
    if (phase_ == Phase::kFinish) {
      const absl::Status status = stage_->block(block_).ForwardFinish(&state_->blocks[block_]);
      if (!status.ok()) return status;
      EndBlock();
    } else if (block_ == blocks) {
      Finish();
    } else {
      const absl::Status status = Begin();
      if (!status.ok() || phase_ == Phase::kExperts) return status;
    }
  }
  return absl::OkStatus();
}

void ForwardPass::Start() {
  if (!stage_->layers().embedding) {
    x_TD_ = stage_->CopyIn(input_);
    return;
  }
  const Embedding& embedding = *stage_->layers().embedding;
  state_->tokens_T = embedding.Upload(stage_->TokensAt(*state_, 0));
  x_TD_ = embedding.Forward(state_->tokens_T, stage_->options().tokens());
}

void ForwardPass::RunHead(const Head& head, const Tensor& x, int64_t label_offset, double weight,
                          double* loss, Head::Activations* kept) {
  const double scale = weight / static_cast<double>(stage_->options().tokens_per_step);
  *loss = head.Forward(x, stage_->TokensAt(*state_, label_offset), scale, keep_ ? kept : nullptr);
}

absl::Status ForwardPass::Begin() {
  const StageLayers& layers = stage_->layers();
  const Tensor hidden_TD = x_TD_;
  if (layers.is_mtp(block_)) {
    x_TD_ = layers.mtp->Forward(hidden_TD, stage_->TokensAt(*state_, 1),
                                keep_ ? &state_->mtp : nullptr);
  }
  const absl::Span<int64_t> loads = keep_ ? stage_->loads_of(block_) : absl::Span<int64_t>();
  const absl::Status status =
      stage_->block(block_).ForwardBegin(x_TD_, keep_, loads, &state_->blocks[block_]);
  if (!status.ok()) return status;
  if (layers.is_mtp(block_)) {  // the main head's work hides the dispatch
    RunHead(*layers.head, hidden_TD, 1, 1, &loss_.loss, &state_->head);
  }
  if (stage_->block(block_).is_moe()) {
    phase_ = Phase::kExperts;
  } else {
    EndBlock();
  }
  return absl::OkStatus();
}

void ForwardPass::EndBlock() {
  TransformerBlock::Activations& state = state_->blocks[block_];
  x_TD_ = std::move(state.result_TD);
  state.result_TD = Tensor();
  if (keep_) {
    loss_.balance_loss += state.moe.routing.balance_loss;
  } else {
    state = TransformerBlock::Activations();
  }
  ++block_;
  phase_ = Phase::kBegin;
}

void ForwardPass::Finish() {
  const StageLayers& layers = stage_->layers();
  if (layers.mtp_head) {
    RunHead(*layers.mtp_head, x_TD_, 2, stage_->options().mtp_loss_weight, &loss_.mtp_loss,
            &state_->mtp_head);
  } else if (layers.head) {
    RunHead(*layers.head, x_TD_, 1, 1, &loss_.loss, &state_->head);
  } else {
    stage_->context().ops->Copy(x_TD_, output_);
  }
  x_TD_ = Tensor();
  stage_->SetLoss(micro_batch_, loss_);
  phase_ = Phase::kDone;
}

// --- Backward ---

void BackwardPass::RunWeightWork() {
  for (const std::function<void()>& work : immediate_) work();
  immediate_.clear();
}

absl::Status BackwardPass::Advance() {
  if (phase_ == Phase::kStart) {
    Start();
    phase_ = Phase::kBegin;
  }
  while (phase_ != Phase::kDone) {
    if (phase_ == Phase::kExperts) {
      phase_ = Phase::kFinish;
      const absl::Status status =
          stage_->block(block_ - 1).BackwardExperts(&state_->blocks[block_ - 1], work_);
      if (status.ok()) RunWeightWork();
      return status;
    }
    if (phase_ == Phase::kFinish) {
      const absl::Status status =
          stage_->block(block_ - 1).BackwardFinish(&state_->blocks[block_ - 1], work_);
      if (!status.ok()) return status;
      EndBlock();
    } else if (block_ == 0) {
      Finish();
    } else {
      const absl::Status status = Begin();
      if (!status.ok() || phase_ == Phase::kExperts) return status;
    }
  }
  return absl::OkStatus();
}

void BackwardPass::Start() {
  const StageLayers& layers = stage_->layers();
  if (layers.mtp_head) {
    grad_TD_ = layers.mtp_head->Backward(state_->mtp_head, work_);
    state_->mtp_head = Head::Activations();
  } else if (layers.head) {
    grad_TD_ = layers.head->Backward(state_->head, work_);
    state_->head = Head::Activations();
  } else {
    grad_TD_ = stage_->CopyIn(grad_output_);
  }
}

absl::Status BackwardPass::Begin() {
  const size_t i = block_ - 1;
  TransformerBlock& block = stage_->block(i);
  const absl::Status status = block.BackwardBegin(grad_TD_, &state_->blocks[i], work_);
  if (!status.ok()) return status;
  RunWeightWork();
  if (!block.is_moe()) {
    EndBlock();
    return absl::OkStatus();
  }
  block.BackwardLocal(&state_->blocks[i], work_);
  if (stage_->layers().is_mtp(i)) {
    main_head_grad_TD_ = stage_->layers().head->Backward(state_->head, work_);
    state_->head = Head::Activations();
  }
  RunWeightWork();
  phase_ = Phase::kExperts;
  return absl::OkStatus();
}

void BackwardPass::EndBlock() {
  const size_t i = block_ - 1;
  grad_TD_ = state_->blocks[i].result_TD;
  state_->blocks[i] = TransformerBlock::Activations();
  if (stage_->layers().is_mtp(i)) {
    grad_TD_ = stage_->layers().mtp->Backward(state_->mtp, grad_TD_, work_);
    stage_->context().ops->Add(grad_TD_, main_head_grad_TD_, grad_TD_);
    state_->mtp = MtpModule::Activations();
    main_head_grad_TD_ = Tensor();
  }
  --block_;
  phase_ = Phase::kBegin;
}

void BackwardPass::Finish() {
  if (stage_->layers().embedding) {
    stage_->layers().embedding->Backward(state_->tokens_T, grad_TD_);
  } else {
    stage_->context().ops->Copy(grad_TD_, grad_input_);
  }
  grad_TD_ = Tensor();
  RunWeightWork();
  stage_->Drop(micro_batch_);
  state_ = nullptr;
  phase_ = Phase::kDone;
}

absl::Status CheckOptions(const StageOptions& options, const ExpertExchange& exchange) {
  const auto invalid = [&](const std::string& what) {
    return absl::InvalidArgumentError(
        absl::StrCat("building stage ", options.slice.stage, ": ", what));
  };
  if (options.sequences < 1 || options.sequence_length < 1) {
    return invalid(absl::StrCat("a micro-batch of ", options.sequences, " sequences of ",
                                options.sequence_length, " tokens"));
  }
  if (options.tokens_per_step < 1 || options.sequences_per_step < 1) {
    return invalid(absl::StrCat("a step of ", options.tokens_per_step, " tokens in ",
                                options.sequences_per_step, " sequences"));
  }
  if (options.model.num_nextn_predict_layers < 0 || options.model.num_nextn_predict_layers > 1) {
    return invalid(absl::StrCat("an MTP depth of ", options.model.num_nextn_predict_layers,
                                "; 0 and 1 are known"));
  }
  if (static_cast<int64_t>(options.expert_owner.size()) != options.model.n_routed_experts) {
    return invalid(absl::StrCat(options.expert_owner.size(), " owners for ",
                                options.model.n_routed_experts, " experts"));
  }
  for (const int32_t owner : options.expert_owner) {
    if (owner < 0 || owner >= exchange.size()) {
      return invalid(
          absl::StrCat("an expert is owned by expert rank ", owner, " of ", exchange.size()));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Stage>> Stage::Create(const StageOptions& options, kernels::Ops* ops,
                                                     ParameterStore* store,
                                                     ExpertExchange* exchange) {
  const absl::StatusOr<Numerics> numerics = NumericsOf(options.recipe, options.tokens_per_step);
  if (!numerics.ok()) return numerics.status();
  if (absl::Status checked = CheckOptions(options, *exchange); !checked.ok()) return checked;
  auto stage = std::make_unique<StageImpl>(options, *numerics, ops, exchange);
  if (absl::Status built = stage->Build(store); !built.ok()) return built;
  stage->RefreshWeights();
  return stage;
}

int64_t Stage::MaxExchangeBytes(const StageOptions& options, Lane lane) {
  const absl::StatusOr<Numerics> numerics = NumericsOf(options.recipe, options.tokens_per_step);
  FATHOM_CHECK(numerics.ok()) << numerics.status().ToString();
  return MaxMessageBytes(*numerics, options.model.hidden_size, options.model.num_experts_per_tok,
                         options.tokens(), lane);
}

}  // namespace fathom::model
