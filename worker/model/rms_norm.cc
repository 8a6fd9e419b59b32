#include "worker/model/rms_norm.h"

namespace fathom::model {

using kernels::Matrix;

RmsNorm::RmsNorm(const LayerContext& context, const Matrix& weight, const Matrix& gradient,
                 double epsilon)
    : context_(context), weight_D_(weight), gradient_D_(gradient), epsilon_(epsilon) {}

Tensor RmsNorm::Forward(const Matrix& x) const {
  Tensor y = context_.pool->Dense(x.rows, x.cols, context_.numerics.activation);
  Forward(x, y);
  return y;
}

void RmsNorm::Forward(const Matrix& x, const Matrix& y) const {
  context_.ops->RmsNormForward(x, weight_D_, epsilon_, y);
}

void RmsNorm::Backward(const Matrix& x, const Matrix& dy, const Matrix& dx) const {
  const double factor = 1.0 / context_.numerics.gradient_scale;
  if (factor == 1) {
    context_.ops->RmsNormBackward(x, weight_D_, epsilon_, dy, dx, gradient_D_);
    return;
  }
  const Tensor scaled_D = context_.pool->Dense(1, x.cols, gradient_D_.dtype);
  context_.ops->Fill(scaled_D, 0);
  context_.ops->RmsNormBackward(x, weight_D_, epsilon_, dy, dx, scaled_D);
  context_.ops->Scale(scaled_D, factor);
  context_.ops->Add(gradient_D_, scaled_D, gradient_D_);
}

}  // namespace fathom::model
