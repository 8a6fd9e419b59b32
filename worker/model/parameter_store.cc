#include "worker/model/parameter_store.h"

#include <cmath>
#include <numbers>
#include <utility>

#include "common/base/check.h"

namespace fathom::model {

using kernels::DType;
using kernels::Matrix;

namespace {

// Tensors of a slice, in the layout's order.
std::vector<ParameterSpec> SliceParameters(const ModelConfig& config, const StageSlice& slice) {
  std::vector<ParameterSpec> all;
  const auto append = [&](int64_t layer) {
    for (ParameterSpec& spec : LayerParameters(config, layer)) all.push_back(std::move(spec));
  };
  if (slice.has_embedding) append(kEmbeddingLayer);
  for (int64_t i = 0; i < slice.layer_count; ++i) append(slice.first_layer + i);
  if (slice.has_head) {
    for (int64_t i = 0; i <= config.num_nextn_predict_layers; ++i) {
      append(config.num_hidden_layers + i);
    }
  }
  return all;
}

bool Holds(const ParameterSpec& spec, const std::vector<int32_t>& expert_owner, int expert_rank) {
  return spec.kind != ParameterKind::kExpert || expert_owner[spec.expert] == expert_rank;
}

Matrix View(const Matrix& flat, const Parameter& parameter) {
  if (flat.data == nullptr) return Matrix();
  Matrix out = flat;
  out.data = static_cast<std::byte*>(flat.data) + parameter.offset * kernels::SizeOf(flat.dtype);
  out.rows = parameter.spec.rows;
  out.cols = parameter.spec.cols;
  out.stride = parameter.spec.cols;
  return out;
}

// Finaliser of splitmix64 (Steele, Lea and Flood, OOPSLA 2014): every bit of x reaches every bit
// out.
uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

uint64_t StreamOf(const std::string& name, uint64_t seed) {
  uint64_t key = Mix(seed + 0x9E3779B97F4A7C15u);
  for (const char c : name) key = Mix(key ^ static_cast<unsigned char>(c));
  return key;
}

// Box and Muller's transform of two 32-bit uniforms out of (0, 1).
double StandardNormal(uint64_t stream, uint64_t index) {
  const uint64_t bits = Mix(stream + (index + 1) * 0x9E3779B97F4A7C15u);
  const double radius_uniform = (static_cast<double>(bits >> 32) + 0.5) * 0x1p-32;
  const double angle_uniform = (static_cast<double>(bits & 0xFFFFFFFFu) + 0.5) * 0x1p-32;
  return std::sqrt(-2 * std::log(radius_uniform)) * std::cos(2 * std::numbers::pi * angle_uniform);
}

}  // namespace

std::unique_ptr<ParameterStore> ParameterStore::Create(kernels::Ops* ops, const ModelConfig& config,
                                                       const std::vector<StageSlice>& slices,
                                                       const std::vector<int32_t>& expert_owner,
                                                       int expert_rank, DType weight_dtype,
                                                       DType gradient_dtype) {
  FATHOM_CHECK(static_cast<int64_t>(expert_owner.size()) == config.n_routed_experts)
      << expert_owner.size() << " owners for " << config.n_routed_experts << " experts";
  auto store = std::unique_ptr<ParameterStore>(new ParameterStore);
  store->ops_ = ops;
  for (const StageSlice& slice : slices) {
    const std::vector<ParameterSpec> specs = SliceParameters(config, slice);
    for (const ParameterKind kind :
         {ParameterKind::kDense, ParameterKind::kExpert, ParameterKind::kRouterBias}) {
      ParameterBlock block;
      block.stage = slice.stage;
      block.kind = kind;
      int64_t size = 0;
      for (const ParameterSpec& spec : specs) {
        if (spec.kind != kind || !Holds(spec, expert_owner, expert_rank)) continue;
        Parameter parameter;
        parameter.spec = spec;
        parameter.offset = size;
        size += spec.size();
        block.parameters.push_back(std::move(parameter));
      }
      const bool bias = kind == ParameterKind::kRouterBias;
      const DType dtype = bias ? gradient_dtype : weight_dtype;
      block.weights = {ops->Allocate(size * kernels::SizeOf(dtype)), dtype, 1, size, size};
      block.gradients = {nullptr, gradient_dtype, 1, size, size};
      if (!bias) block.gradients.data = ops->Allocate(size * kernels::SizeOf(gradient_dtype));
      for (Parameter& parameter : block.parameters) {
        parameter.weight = View(block.weights, parameter);
        parameter.gradient = View(block.gradients, parameter);
      }
      store->blocks_.push_back(std::move(block));
    }
  }
  for (ParameterBlock& block : store->blocks_) {
    for (Parameter& parameter : block.parameters) {
      store->by_name_[parameter.spec.name] = &parameter;
    }
  }
  return store;
}

ParameterStore::~ParameterStore() {
  for (const ParameterBlock& block : blocks_) {
    ops_->Free(block.weights.data);
    ops_->Free(block.gradients.data);
  }
}

Parameter* ParameterStore::Find(const std::string& name) {
  const auto it = by_name_.find(name);
  return it == by_name_.end() ? nullptr : it->second;
}

void ParameterStore::ZeroGradients() {
  for (const ParameterBlock& block : blocks_) {
    if (block.gradients.data != nullptr) ops_->Fill(block.gradients, 0);
  }
}

void InitialValues(const ParameterSpec& spec, double initializer_range, uint64_t seed,
                   int64_t begin, absl::Span<float> out) {
  FATHOM_CHECK(begin >= 0 && begin + static_cast<int64_t>(out.size()) <= spec.size())
      << spec.name << ": elements " << begin << " + " << out.size() << " of " << spec.size();
  const uint64_t stream = StreamOf(spec.name, seed);
  for (size_t i = 0; i < out.size(); ++i) {
    switch (spec.initializer) {
      case Initializer::kNormal:
        out[i] = static_cast<float>(initializer_range * StandardNormal(stream, begin + i));
        break;
      case Initializer::kOnes:
        out[i] = 1;
        break;
      case Initializer::kZeros:
        out[i] = 0;
        break;
    }
  }
}

}  // namespace fathom::model
