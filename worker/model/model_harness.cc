#include "worker/model/model_harness.h"

#include <algorithm>
#include <cstring>
#include <random>
#include <thread>
#include <utility>

#include "common/base/check.h"
#include "common/model/parameter_layout.h"

namespace fathom::model {

using kernels::DType;
using kernels::Matrix;

ModelConfig SmallModel() {
  ModelConfig model;
  model.vocab_size = 23;
  model.hidden_size = 12;
  model.num_hidden_layers = 3;
  model.first_k_dense_replace = 1;
  model.intermediate_size = 20;
  model.moe_intermediate_size = 10;
  model.num_attention_heads = 2;
  model.q_lora_rank = 8;
  model.kv_lora_rank = 6;
  model.qk_nope_head_dim = 4;
  model.qk_rope_head_dim = 2;
  model.v_head_dim = 5;
  model.n_routed_experts = 8;
  model.n_shared_experts = 1;
  model.num_experts_per_tok = 3;
  model.n_group = 4;
  model.topk_group = 2;
  model.routed_scaling_factor = 2.5;
  model.num_nextn_predict_layers = 1;
  return model;
}

PrecisionRecipe Fp64Recipe() {
  return {"fp64", Format::kFp64, Format::kFp64, Format::kFp64, Format::kFp64, Format::kFp64};
}

PrecisionRecipe RecipeNamed(const std::string& name) {
  if (name == "fp64") return Fp64Recipe();
  const auto recipe = FindRecipe(name);
  FATHOM_CHECK(recipe.ok()) << recipe.status().ToString();
  return *recipe;
}

class ThreadGroup::Member : public ExpertExchange {
 public:
  Member(ThreadGroup* group, int index) : group_(group), index_(index) {}

  int size() const override { return group_->size_; }
  int index() const override { return index_; }

  absl::Status Post(Lane lane, absl::Span<const absl::Span<const std::byte>> messages) override {
    const std::lock_guard<std::mutex> lock(group_->mutex_);
    for (int to = 0; to < size(); ++to) {
      BoxOf(lane, index_, to).queue.emplace_back(messages[to].begin(), messages[to].end());
    }
    group_->arrived_.notify_all();
    return absl::OkStatus();
  }

  absl::StatusOr<std::vector<absl::Span<const std::byte>>> Receive(Lane lane) override {
    std::unique_lock<std::mutex> lock(group_->mutex_);
    std::vector<absl::Span<const std::byte>> out;
    for (int from = 0; from < size(); ++from) {
      Box& box = BoxOf(lane, from, index_);
      group_->arrived_.wait(lock, [&] { return !box.queue.empty(); });
      out.push_back(absl::MakeConstSpan(box.queue.front()));
    }
    return out;
  }

  absl::Status Release(Lane lane) override {
    const std::lock_guard<std::mutex> lock(group_->mutex_);
    for (int from = 0; from < size(); ++from) BoxOf(lane, from, index_).queue.pop_front();
    return absl::OkStatus();
  }

 private:
  Box& BoxOf(Lane lane, int from, int to) {
    return group_->boxes_[(static_cast<int>(lane) * size() + from) * size() + to];
  }

  ThreadGroup* group_;
  const int index_;
};

ThreadGroup::ThreadGroup(int size) : boxes_(kLanes * size * size), size_(size) {
  for (int i = 0; i < size; ++i) members_.push_back(std::make_unique<Member>(this, i));
}

ModelHarness::ModelHarness(const HarnessOptions& options, kernels::Ops* ops,
                           ExpertExchange* exchange, std::vector<int32_t> expert_owner)
    : options_(options), ops_(ops), lane_(exchange->index()) {
  const ModelConfig& model = options.model;
  if (options_.layers_per_stage.empty()) {
    options_.layers_per_stage = {model.num_hidden_layers};
  }
  for (int64_t e = 0; expert_owner.size() < static_cast<size_t>(model.n_routed_experts); ++e) {
    expert_owner.push_back(static_cast<int32_t>(e * exchange->size() / model.n_routed_experts));
  }
  std::vector<StageSlice> slices;
  int64_t first = 0;
  for (const int64_t layers : options_.layers_per_stage) {
    slices.push_back({.stage = static_cast<int>(slices.size()),
                      .first_layer = first,
                      .layer_count = layers,
                      .has_embedding = slices.empty(),
                      .has_head = slices.size() + 1 == options_.layers_per_stage.size()});
    first += layers;
  }
  FATHOM_CHECK(first == model.num_hidden_layers) << first;
  const bool f64 = options.recipe.activations == Format::kFp64;
  const bool bf16 = options.recipe.activations == Format::kBf16;
  store_ = ParameterStore::Create(ops, model, slices, expert_owner, exchange->index(),
                                  f64    ? DType::kF64
                                  : bf16 ? DType::kBF16
                                         : DType::kF32,
                                  f64 ? DType::kF64 : DType::kF32);
  for (ParameterBlock& block : store_->blocks()) {
    for (Parameter& parameter : block.parameters) {
      const ParameterSpec& spec = parameter.spec;
      ParameterSpec drawn = spec;
      double range = options.initializer_range;
      if (spec.kind == ParameterKind::kRouterBias) {
        drawn.initializer = Initializer::kNormal;
        range = options.router_bias_range;
      }
      std::vector<float> values(spec.size());
      InitialValues(drawn, range, options.seed, 0, absl::MakeSpan(values));
      if (spec.initializer == Initializer::kOnes) {
        // Norms other than one, so that a forgotten weight shows.
        for (size_t i = 0; i < values.size(); ++i) values[i] = 1.0f + 0.01f * (i % 7);
      }
      void* staged = ops->Allocate(values.size() * sizeof(float));
      ops->CopyFromHost(staged, values.data(), values.size() * sizeof(float));
      ops->Copy({staged, DType::kF32, spec.rows, spec.cols, spec.cols}, parameter.weight);
      ops->Free(staged);
    }
  }
  for (const StageSlice& slice : slices) {
    StageOptions stage;
    stage.model = model;
    stage.recipe = options.recipe;
    stage.slice = slice;
    stage.sequences = options.sequences;
    stage.sequence_length = options.sequence_length;
    stage.expert_owner = expert_owner;
    stage.mtp_loss_weight = options.mtp_loss_weight;
    stage.balance_alpha = options.balance_alpha;
    stage.sequences_per_step = options.sequences * options.micro_batches * options.lanes;
    stage.tokens_per_step = stage.sequences_per_step * options.sequence_length;
    auto created = Stage::Create(stage, ops, store_.get(), exchange);
    FATHOM_CHECK(created.ok()) << created.status().ToString();
    stages_.push_back(*std::move(created));
    boundaries_.push_back(NewBoundary());
    boundaries_.push_back(NewBoundary());
  }
}

ModelHarness::~ModelHarness() {
  stages_.clear();
  for (void* data : owned_) ops_->Free(data);
}

Matrix ModelHarness::NewBoundary() {
  const int64_t tokens = options_.sequences * options_.sequence_length;
  const int64_t hidden = options_.model.hidden_size;
  const Format format = options_.recipe.activations;
  const DType dtype = format == Format::kFp64   ? DType::kF64
                      : format == Format::kBf16 ? DType::kBF16
                                                : DType::kF32;
  owned_.push_back(ops_->Allocate(tokens * hidden * kernels::SizeOf(dtype)));
  return {owned_.back(), dtype, tokens, hidden, hidden};
}

void ModelHarness::RunToEnd(Pass* pass) {
  while (!pass->done()) {
    const absl::Status status = pass->Advance();
    FATHOM_CHECK(status.ok()) << status.ToString();
  }
}

void ModelHarness::Forward(int micro_batch, bool keep) {
  const std::vector<int32_t> samples = Samples(lane_, micro_batch);
  for (size_t i = 0; i < stages_.size(); ++i) {
    const Matrix input = i == 0 ? Matrix() : boundaries_[2 * (i - 1)];
    RunToEnd(
        stages_[i]->Forward(micro_batch, samples.data(), input, boundaries_[2 * i], keep).get());
  }
}

void ModelHarness::Backward(int micro_batch, WeightWork* deferred) {
  for (size_t i = stages_.size(); i-- > 0;) {
    const Matrix grad_input = i == 0 ? Matrix() : boundaries_[2 * (i - 1) + 1];
    RunToEnd(stages_[i]->Backward(micro_batch, boundaries_[2 * i + 1], grad_input, deferred).get());
  }
}

MicroBatchLoss ModelHarness::Loss(int micro_batch) const {
  MicroBatchLoss sum;
  for (const auto& stage : stages_) {
    const MicroBatchLoss loss = stage->loss(micro_batch);
    sum.loss += loss.loss;
    sum.mtp_loss += loss.mtp_loss;
    sum.balance_loss += loss.balance_loss;
  }
  return sum;
}

double ModelHarness::TotalLoss() const {
  const auto sequences =
      static_cast<double>(options_.sequences * options_.micro_batches * options_.lanes);
  const double tokens = sequences * static_cast<double>(options_.sequence_length);
  double total = 0;
  for (int mb = 0; mb < options_.micro_batches; ++mb) {
    const MicroBatchLoss loss = Loss(mb);
    total += (loss.loss + options_.mtp_loss_weight * loss.mtp_loss) / tokens +
             loss.balance_loss / sequences;
  }
  return total;
}

std::vector<int32_t> ModelHarness::Samples(int lane, int micro_batch) const {
  std::mt19937_64 generator(options_.seed * 1000003 + lane * 1009 + micro_batch);
  const int64_t length = options_.sequence_length + 1 + options_.model.num_nextn_predict_layers;
  std::vector<int32_t> samples(options_.sequences * length);
  for (int32_t& token : samples) {
    token = static_cast<int32_t>(generator() % options_.model.vocab_size);
  }
  return samples;
}

void ModelHarness::RefreshWeights() {
  for (const auto& stage : stages_) stage->RefreshWeights();
}

namespace {

double ReadElement(const Matrix& m, int64_t index) {
  if (m.dtype == DType::kF64) return static_cast<const double*>(m.data)[index];
  if (m.dtype == DType::kF32) return static_cast<const float*>(m.data)[index];
  const uint32_t bits = uint32_t{static_cast<const uint16_t*>(m.data)[index]} << 16;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

}  // namespace

double ModelHarness::Weight(const Parameter& parameter, int64_t index) const {
  return ReadElement(parameter.weight, index);
}

void ModelHarness::SetWeight(const Parameter& parameter, int64_t index, double value) {
  const int64_t row = index / parameter.weight.cols;
  const int64_t col = index % parameter.weight.cols;
  Matrix element = parameter.weight;
  element.data = static_cast<std::byte*>(element.data) +
                 (row * element.stride + col) * kernels::SizeOf(element.dtype);
  element.rows = 1;
  element.cols = 1;
  ops_->Fill(element, value);
}

double ModelHarness::Gradient(const Parameter& parameter, int64_t index) const {
  return ReadElement(parameter.gradient, index);
}

std::vector<double> ModelHarness::Gradients() {
  std::vector<const Parameter*> parameters;
  for (const ParameterBlock& block : store_->blocks()) {
    for (const Parameter& parameter : block.parameters) {
      if (parameter.gradient.data != nullptr) parameters.push_back(&parameter);
    }
  }
  std::sort(parameters.begin(), parameters.end(),
            [](const Parameter* a, const Parameter* b) { return a->spec.name < b->spec.name; });
  std::vector<double> out;
  for (const Parameter* parameter : parameters) {
    for (int64_t i = 0; i < parameter->spec.size(); ++i) {
      out.push_back(Gradient(*parameter, i));
    }
  }
  return out;
}

void RunRanks(int ranks, const std::function<void(int)>& body) {
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank) threads.emplace_back(body, rank);
  for (std::thread& thread : threads) thread.join();
}

}  // namespace fathom::model
