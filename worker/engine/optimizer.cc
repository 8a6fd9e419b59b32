#include "worker/engine/optimizer.h"

#include <algorithm>

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

namespace {

Matrix Vector(kernels::Ops* ops, DType dtype, int64_t size) {
  return {ops->Allocate(size * kernels::SizeOf(dtype)), dtype, 1, size, size};
}

}  // namespace

Optimizer::Optimizer(kernels::Ops* ops, model::ParameterStore* store, transport::Group* dense,
                     transport::Group* experts, const model::PrecisionRecipe& recipe)
    : ops_(ops) {
  const DType moments =
      recipe.optimizer_moments == model::Format::kBf16 ? DType::kBF16 : DType::kF32;
  for (ParameterBlock& block : store->blocks()) {
    if (block.kind == ParameterKind::kRouterBias) continue;
    OptimizerShard shard;
    shard.block = &block;
    shard.group = block.kind == ParameterKind::kExpert ? experts : dense;
    shard.parts = transport::PartitionEvenly(block.size(), shard.group->size());
    shard.own = shard.parts[shard.group->index()];
    shard.master = Vector(ops_, DType::kF32, shard.own.size());
    shard.m = Vector(ops_, moments, shard.own.size());
    shard.v = Vector(ops_, moments, shard.own.size());
    shards_.push_back(std::move(shard));
  }
}

Optimizer::~Optimizer() {
  for (OptimizerShard& shard : shards_) {
    ops_->Free(shard.master.data);
    ops_->Free(shard.m.data);
    ops_->Free(shard.v.data);
  }
}

void Optimizer::Initialise(double initializer_range, uint64_t seed) {
  std::vector<float> values;
  for (OptimizerShard& shard : shards_) {
    ForEachTensor(*shard.block, shard.own, [&](const Parameter& parameter, Range range) {
      values.resize(range.size());
      model::InitialValues(parameter.spec, initializer_range, seed, range.begin - parameter.offset,
                           absl::MakeSpan(values));
      const Range in_shard = {range.begin - shard.own.begin, range.end - shard.own.begin};
      ops_->CopyFromHost(Slice(shard.master, in_shard).data, values.data(),
                         values.size() * sizeof(float));
    });
    ops_->Fill(shard.m, 0);
    ops_->Fill(shard.v, 0);
  }
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
  for (OptimizerShard& shard : shards_) {
    ForEachTensor(*shard.block, shard.own, [&](const Parameter& parameter, Range range) {
      const Range in_shard = {range.begin - shard.own.begin, range.end - shard.own.begin};
      kernels::AdamWSettings own = settings;
      if (!parameter.spec.weight_decay) own.weight_decay = 0;
      ops_->AdamW(own, Slice(shard.block->gradients, range), Slice(shard.master, in_shard),
                  Slice(shard.m, in_shard), Slice(shard.v, in_shard));
    });
  }
  RoundMasters();
}

void Optimizer::RoundMasters() {
  for (OptimizerShard& shard : shards_) {
    ops_->Copy(shard.master, Slice(shard.block->weights, shard.own));
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
