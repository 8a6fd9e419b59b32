#include "worker/engine/optimizer.h"

#include <algorithm>
#include <utility>

#include "common/base/check.h"
#include "common/base/status_util.h"

namespace fathom::engine {

using kernels::DType;
using kernels::Matrix;
using model::Parameter;
using model::ParameterBlock;
using model::ParameterKind;
using transport::Range;

Matrix Slice(const Matrix& matrix, Range range) {
  Matrix slice = matrix;
  slice.data = static_cast<std::byte*>(matrix.data) + range.begin * kernels::SizeOf(matrix.dtype);
  slice.cols = slice.stride = range.size();
  return slice;
}

kernels::AdamWState Slice(const kernels::AdamWState& state, Range range) {
  return {Slice(state.master, range), Slice(state.m, range), Slice(state.v, range)};
}

namespace {

// Lays matrices one after another into a shard's memory, as StateLayout says.
class Cursor {
 public:
  explicit Cursor(ShardState& state) : state_(state) {}

  int64_t offset() const { return offset_; }
  void Skip(int64_t bytes) { offset_ = AlignState(offset_ + bytes); }
  Matrix Vector(DType dtype, int64_t size) {
    const Matrix vector = {state_.bytes().data() + offset_, dtype, 1, size, size};
    Skip(size * kernels::SizeOf(dtype));
    return vector;
  }

 private:
  ShardState& state_;
  int64_t offset_ = 0;
};

}  // namespace

Optimizer::Optimizer(kernels::Ops* ops, model::ParameterStore* store, transport::Group* dense,
                     transport::Group* experts, const model::PrecisionRecipe& recipe,
                     std::array<std::shared_ptr<ShardState>, 2> buffers, uint64_t epoch)
    : ops_(ops), epoch_(epoch), states_(std::move(buffers)) {
  const DType moments =
      recipe.optimizer_moments == model::Format::kBf16 ? DType::kBF16 : DType::kF32;
  Cursor cursors[2] = {Cursor(*states_[0]), Cursor(*states_[1])};
  for (ParameterBlock& block : store->blocks()) {
    if (block.kind == ParameterKind::kRouterBias) {
      bias_blocks_.push_back(&block);
      continue;
    }
    OptimizerShard shard;
    shard.block = &block;
    shard.group = block.kind == ParameterKind::kExpert ? experts : dense;
    shard.parts = transport::PartitionEvenly(block.size(), shard.group->size());
    shard.own = shard.parts[shard.group->index()];
    for (int buffer = 0; buffer < 2; ++buffer) {
      kernels::AdamWState& state = shard.buffers[buffer];
      state.master = cursors[buffer].Vector(DType::kF32, shard.own.size());
      state.m = cursors[buffer].Vector(moments, shard.own.size());
      state.v = cursors[buffer].Vector(moments, shard.own.size());
    }
    shard.now = shard.buffers[now_];
    shards_.push_back(std::move(shard));
  }
  for (const ParameterBlock* block : bias_blocks_) {
    FATHOM_CHECK(block->size() == 0 || block->weights.dtype == DType::kF32)
        << "biases of another format";
    bias_offsets_.push_back(cursors[0].offset());
    cursors[0].Skip(block->size() * kernels::SizeOf(DType::kF32));
  }
  for (const auto& state : states_) {
    FATHOM_CHECK(static_cast<int64_t>(state->bytes().size()) == cursors[0].offset())
        << "a shard of " << state->bytes().size() << " bytes, laid out as " << cursors[0].offset();
  }
}

void Optimizer::StoreBiases(int buffer) {
  for (size_t i = 0; i < bias_blocks_.size(); ++i) {
    const ParameterBlock& block = *bias_blocks_[i];
    ops_->CopyToHost(states_[buffer]->bytes().data() + bias_offsets_[i], block.weights.data,
                     static_cast<size_t>(block.size() * kernels::SizeOf(DType::kF32)));
  }
}

void Optimizer::LoadBiases(int buffer) {
  for (size_t i = 0; i < bias_blocks_.size(); ++i) {
    const ParameterBlock& block = *bias_blocks_[i];
    ops_->CopyFromHost(block.weights.data, states_[buffer]->bytes().data() + bias_offsets_[i],
                       static_cast<size_t>(block.size() * kernels::SizeOf(DType::kF32)));
  }
}

void Optimizer::SetWhole(int buffer, int64_t step) {
  states_[buffer]->SetWhole(step, epoch_, HashState(states_[buffer]->bytes()));
}

void Optimizer::Select(int buffer) {
  FATHOM_CHECK(states_[buffer]->whole()) << "buffer " << buffer << " holds no whole state";
  now_ = buffer;
  for (OptimizerShard& shard : shards_) shard.now = shard.buffers[now_];
  LoadBiases(now_);
}

void Optimizer::FinishLoad(int buffer, int64_t step, bool biases_in_store) {
  if (biases_in_store) StoreBiases(buffer);
  SetWhole(buffer, step);
  Select(buffer);
}

void Optimizer::Initialise(double initializer_range, uint64_t seed) {
  std::vector<float> values;
  const int buffer = 0;
  BeginLoad(buffer);
  for (OptimizerShard& shard : shards_) {
    const kernels::AdamWState& state = shard.buffers[buffer];
    ForEachTensor(*shard.block, shard.own, [&](const Parameter& parameter, Range range) {
      values.resize(range.size());
      model::InitialValues(parameter.spec, initializer_range, seed, range.begin - parameter.offset,
                           absl::MakeSpan(values));
      const Range in_shard = {range.begin - shard.own.begin, range.end - shard.own.begin};
      ops_->CopyFromHost(Slice(state.master, in_shard).data, values.data(),
                         values.size() * sizeof(float));
    });
    ops_->Fill(state.m, 0);
    ops_->Fill(state.v, 0);
  }
  for (ParameterBlock* block : bias_blocks_) ops_->Fill(block->weights, 0);
  FinishLoad(buffer, 0, /*biases_in_store=*/true);
}

absl::Status Optimizer::ReduceGradients() {
  for (OptimizerShard& shard : shards_) {
    float* gradients = static_cast<float*>(shard.block->gradients.data);
    FATHOM_RETURN_IF_ERROR(
        WithContext(shard.group->ReduceScatter(
                        {gradients, static_cast<size_t>(shard.block->size())}, shard.parts,
                        {gradients + shard.own.begin, static_cast<size_t>(shard.own.size())}),
                    absl::StrCat("summing gradients of stage ", shard.block->stage)));
  }
  return absl::OkStatus();
}

double Optimizer::SumOfSquares() {
  double sum = 0;
  for (OptimizerShard& shard : shards_) {
    sum += ops_->SumOfSquares(Slice(shard.block->gradients, shard.own));
  }
  return sum;
}

void Optimizer::Update(const kernels::AdamWSettings& settings) {
  const int next = 1 - now_;
  states_[next]->Invalidate();
  for (OptimizerShard& shard : shards_) {
    ForEachTensor(*shard.block, shard.own, [&](const Parameter& parameter, Range range) {
      const Range in_shard = {range.begin - shard.own.begin, range.end - shard.own.begin};
      kernels::AdamWSettings own = settings;
      if (!parameter.spec.weight_decay) own.weight_decay = 0;
      ops_->AdamW(own, Slice(shard.block->gradients, range), Slice(shard.buffers[now_], in_shard),
                  Slice(shard.buffers[next], in_shard));
    });
  }
  StoreBiases(next);
  SetWhole(next, settings.step);
  Select(next);
  RoundMasters();
}

void Optimizer::RoundMasters() {
  for (OptimizerShard& shard : shards_) {
    ops_->Copy(shard.now.master, Slice(shard.block->weights, shard.own));
  }
}

absl::Status Optimizer::GatherWeights() {
  for (OptimizerShard& shard : shards_) {
    const int64_t element = kernels::SizeOf(shard.block->weights.dtype);
    FATHOM_RETURN_IF_ERROR(
        WithContext(shard.group->AllGather({static_cast<std::byte*>(shard.block->weights.data),
                                            static_cast<size_t>(shard.block->size() * element)},
                                           element, shard.parts),
                    absl::StrCat("gathering weights of stage ", shard.block->stage)));
  }
  return absl::OkStatus();
}

}  // namespace fathom::engine
