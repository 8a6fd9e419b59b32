// Shape letters: T tokens, N outputs, K inputs.
#include "worker/model/linear.h"

#include <utility>

#include "common/base/check.h"
#include "worker/model/tensor_view.h"

namespace fathom::model {

using kernels::Fp8Scaling;
using kernels::Matrix;
using kernels::ScaleRule;

OperandView RowsOf(const OperandView& operand, int64_t begin, int64_t count) {
  OperandView out;
  if (operand.dense.data != nullptr) out.dense = RowsOf(operand.dense, begin, count);
  if (operand.fp8.codes != nullptr) out.fp8 = RowsOf(operand.fp8, begin, count);
  return out;
}

Operand MakeOperand(const LayerContext& context, Tensor x, ScaleRule rule) {
  Operand out;
  if (context.numerics.fp8) {
    out.fp8 = context.pool->Fp8(x.matrix.rows, x.matrix.cols, Fp8Scaling::kTile1x128);
    context.ops->Quantize(x, rule, out.fp8);
  }
  out.dense = std::move(x);
  return out;
}

Operand CodesOf(const Operand& operand) {
  if (operand.fp8.empty()) return operand;
  Operand out;
  out.fp8 = operand.fp8;
  return out;
}

TokenOperand AlongTokens(const LayerContext& context, const Operand& x) {
  return AlongTokens(context, x, 0, x.dense.empty() ? x.fp8.matrix.rows : x.dense.matrix.rows);
}

TokenOperand AlongTokens(const LayerContext& context, const Operand& x, int64_t begin,
                         int64_t count) {
  TokenOperand out;
  const OperandView rows = RowsOf(OperandView(x), begin, count);
  if (!context.numerics.fp8) {
    out.dense = {rows.dense, x.dense.buffer};
    return out;
  }
  Matrix dense_TN = rows.dense;
  Tensor decoded_TN;
  if (dense_TN.data == nullptr) {
    decoded_TN = context.pool->Dense(rows.fp8.rows, rows.fp8.cols, context.numerics.activation);
    context.ops->Dequantize(rows.fp8, decoded_TN);
    dense_TN = decoded_TN;
  }
  out.fp8 = context.pool->Fp8(dense_TN.cols, dense_TN.rows, Fp8Scaling::kTile1x128);
  context.ops->QuantizeTransposed(dense_TN, ScaleRule::kAmax, out.fp8);
  return out;
}

Linear::Linear(const LayerContext& context, const Matrix& weight, const Matrix& gradient,
               Products products)
    : context_(context),
      weight_NK_(weight),
      gradient_NK_(gradient),
      fp8_(context.numerics.fp8 && products == Products::kRecipe) {
  if (!fp8_) return;
  weight_fp8_NK_ = context_.pool->Fp8(weight.rows, weight.cols, Fp8Scaling::kBlock128x128);
  weight_fp8_KN_ = context_.pool->Fp8(weight.cols, weight.rows, Fp8Scaling::kBlock128x128);
}

void Linear::RefreshWeights() {
  if (!fp8_) return;
  context_.ops->Quantize(weight_NK_, ScaleRule::kAmax, weight_fp8_NK_);
  context_.ops->TransposeBlocks(weight_fp8_NK_, weight_fp8_KN_);
}

void Linear::Forward(const OperandView& x, const Matrix& y, bool accumulate) const {
  if (fp8_) {
    context_.ops->GemmFp8(x.fp8, weight_fp8_NK_, y, accumulate);
  } else {
    context_.ops->Gemm(x.dense, false, weight_NK_, true, y, accumulate);
  }
}

void Linear::BackwardInput(const OperandView& dy, const Matrix& dx, bool accumulate) const {
  if (fp8_) {
    context_.ops->GemmFp8(dy.fp8, weight_fp8_KN_, dx, accumulate);
  } else {
    context_.ops->Gemm(dy.dense, false, weight_NK_, false, dx, accumulate);
  }
}

void Linear::BackwardWeight(const TokenOperand& dy, const TokenOperand& x) const {
  const double factor = 1.0 / context_.numerics.gradient_scale;
  if (fp8_) {
    const kernels::Fp8Matrix& dy_NT = dy.fp8.matrix;
    if (factor != 1) {  // exact, for it is a power of two
      const int64_t n = kernels::ScaleCount(dy_NT.rows, dy_NT.cols, dy_NT.scaling);
      context_.ops->Scale({dy_NT.scales, kernels::DType::kF32, 1, n, n}, factor);
    }
    context_.ops->GemmFp8(dy.fp8, x.fp8, gradient_NK_, /*accumulate=*/true);
    return;
  }
  FATHOM_CHECK(!dy.dense.empty() && !x.dense.empty()) << "operands were not kept";
  if (factor == 1) {
    context_.ops->Gemm(dy.dense, true, x.dense, false, gradient_NK_, /*accumulate=*/true);
    return;
  }
  const Matrix& x_TK = x.dense;
  const Tensor scaled_TK = context_.pool->Dense(x_TK.rows, x_TK.cols, x_TK.dtype);
  context_.ops->Copy(x.dense, scaled_TK);
  context_.ops->Scale(scaled_TK, factor);
  context_.ops->Gemm(dy.dense, true, scaled_TK, false, gradient_NK_, /*accumulate=*/true);
}

}  // namespace fathom::model
