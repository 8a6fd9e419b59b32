// Shape letters: T tokens, D hidden width, F inner width.
#include "worker/model/dense_mlp.h"

#include <utility>

namespace fathom::model {

using kernels::Matrix;

KeptGateUp KeepGateUp(const LayerContext& context, const Tensor& gate_up) {
  KeptGateUp kept;
  if (context.numerics.fp8) {
    kept.fp8 = context.pool->Fp8(gate_up.matrix.rows, gate_up.matrix.cols,
                                 kernels::Fp8Scaling::kTile1x128);
    context.ops->Quantize(gate_up, kernels::ScaleRule::kAmax, kept.fp8);
  } else {
    kept.dense = gate_up;
  }
  return kept;
}

Tensor RestoreGateUp(const LayerContext& context, const KeptGateUp& kept) {
  if (!context.numerics.fp8) return kept.dense;
  Tensor out =
      context.pool->Dense(kept.fp8.matrix.rows, kept.fp8.matrix.cols, context.numerics.activation);
  context.ops->Dequantize(kept.fp8, out);
  return out;
}

DenseMlp::DenseMlp(Linear gate_up, Linear down, const LayerContext& context)
    : context_(context), gate_up_(std::move(gate_up)), down_(std::move(down)) {}

void DenseMlp::RefreshWeights() {
  gate_up_.RefreshWeights();
  down_.RefreshWeights();
}

void DenseMlp::Forward(const OperandView& x, const Matrix& y, Activations* kept) const {
  const kernels::DType dtype = context_.numerics.activation;
  const Tensor gate_up_T2F = context_.pool->Dense(y.rows, gate_up_.outputs(), dtype);
  gate_up_.Forward(x, gate_up_T2F);
  Tensor inner_TF = context_.pool->Dense(y.rows, down_.inputs(), dtype);
  context_.ops->SwiGluForward(gate_up_T2F, inner_TF);
  if (kept != nullptr) kept->gate_up_T2F = KeepGateUp(context_, gate_up_T2F);
  down_.Forward(MakeOperand(context_, std::move(inner_TF)), y);
}

void DenseMlp::Backward(Activations kept, const Operand& x, const Operand& dy, const Matrix& dx,
                        WeightWork* work) const {
  const kernels::DType dtype = context_.numerics.activation;
  const int64_t tokens = dx.rows;
  Tensor gate_up_T2F = RestoreGateUp(context_, kept.gate_up_T2F);
  kept.gate_up_T2F = KeptGateUp();
  Tensor dinner_TF = context_.pool->Dense(tokens, down_.inputs(), dtype);
  down_.BackwardInput(dy, dinner_TF);
  Tensor dgate_up_T2F = context_.pool->Dense(tokens, gate_up_.outputs(), dtype);
  context_.ops->SwiGluBackward(gate_up_T2F, dinner_TF, dgate_up_T2F);
  dinner_TF = Tensor();
  Tensor inner_TF = context_.pool->Dense(tokens, down_.inputs(), dtype);
  context_.ops->SwiGluForward(gate_up_T2F, inner_TF);
  gate_up_T2F = Tensor();
  const TokenOperand inner = AlongTokens(context_, {std::move(inner_TF), {}});
  const TokenOperand dgate_up = AlongTokens(context_, {dgate_up_T2F, {}});
  gate_up_.BackwardInput(MakeOperand(context_, std::move(dgate_up_T2F)), dx);
  work->push_back([this, dy = AlongTokens(context_, {dy.dense, {}}), inner, dgate_up,
                   x = AlongTokens(context_, CodesOf(x))] {
    down_.BackwardWeight(dy, inner);
    gate_up_.BackwardWeight(dgate_up, x);
  });
}

}  // namespace fathom::model
