// A linear layer, y = x W^T, and its recipe: products on the activations' format, or on E4M3 with
// one scale per 1x128 of activations and per 128x128 of weights (DeepSeek-V3 report, section 3.3).
//
// What a product takes is an Operand: made once from a tensor and shared by every layer that
// multiplies it. In FP8 it holds codes (for the forward and the input gradient) and, while it is at
// hand, the tensor.
//
// Weight gradients sum over tokens, so their operands are scaled per 1x128 along tokens:
// AlongTokens(dy) is quantised from the tensor, AlongTokens(CodesOf(x)) from x's codes, decoded and
// transposed. Both are made in the backward for the input, so that a weight gradient left for later
// holds codes, not tensors.
#ifndef FATHOM_WORKER_MODEL_LINEAR_H_
#define FATHOM_WORKER_MODEL_LINEAR_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "kernels/ops.h"
#include "worker/model/numerics.h"
#include "worker/model/tensor.h"

namespace fathom::model {

// Weight gradients left for later, to be run in order. Closures hold handles of what they need: an
// allocation per layer and micro-batch, none per token. They must not outlive their stage.
using WeightWork = std::vector<std::function<void()>>;

// Non-owning.
struct OperandView {
  kernels::Matrix dense;   // no data when only the codes are kept
  kernels::Fp8Matrix fp8;  // no codes without FP8
};

struct Operand {
  Tensor dense;
  Fp8Tensor fp8;

  operator OperandView() const { return {dense.matrix, fp8.matrix}; }
};

OperandView RowsOf(const OperandView& operand, int64_t begin, int64_t count);

// Quantised when the recipe's products are FP8, else just the tensor.
Operand MakeOperand(const LayerContext& context, Tensor x,
                    kernels::ScaleRule rule = kernels::ScaleRule::kAmax);

// The operand as products see it: without the tensor where there are codes.
Operand CodesOf(const Operand& operand);

// One side of a weight gradient: [T, n] dense, or [n, T] in FP8.
struct TokenOperand {
  Tensor dense;
  Fp8Tensor fp8;
};
TokenOperand AlongTokens(const LayerContext& context, const Operand& x);
// Of rows [begin, begin + count).
TokenOperand AlongTokens(const LayerContext& context, const Operand& x, int64_t begin,
                         int64_t count);

enum class Products : uint8_t { kRecipe, kDense };  // kDense: never FP8 (head, gate)

class Linear {
 public:
  // weight and gradient [N, K].
  Linear(const LayerContext& context, const kernels::Matrix& weight,
         const kernels::Matrix& gradient, Products products = Products::kRecipe);

  // Makes the FP8 copies, of the weight and of its transpose.
  void RefreshWeights();

  // y [T, N] = x W^T, or += with accumulate.
  void Forward(const OperandView& x, const kernels::Matrix& y, bool accumulate = false) const;
  // dx [T, K] = dy W.
  void BackwardInput(const OperandView& dy, const kernels::Matrix& dx,
                     bool accumulate = false) const;
  // gradient += dy^T x / gradient_scale. In FP8 dy's scales are changed: it is good for one call.
  void BackwardWeight(const TokenOperand& dy, const TokenOperand& x) const;

  int64_t outputs() const { return weight_NK_.rows; }
  int64_t inputs() const { return weight_NK_.cols; }

 private:
  LayerContext context_;
  kernels::Matrix weight_NK_;
  kernels::Matrix gradient_NK_;
  bool fp8_ = false;
  Fp8Tensor weight_fp8_NK_;
  Fp8Tensor weight_fp8_KN_;
};

}  // namespace fathom::model

#endif  // FATHOM_WORKER_MODEL_LINEAR_H_
