// RMSNorm with its weight. Nothing is kept for the backward but the input, from which it is
// recomputed.
#ifndef FATHOM_WORKER_MODEL_RMS_NORM_H_
#define FATHOM_WORKER_MODEL_RMS_NORM_H_

#include "kernels/ops.h"
#include "worker/model/numerics.h"
#include "worker/model/tensor.h"

namespace fathom::model {

class RmsNorm {
 public:
  // weight and gradient [1, D].
  RmsNorm(const LayerContext& context, const kernels::Matrix& weight,
          const kernels::Matrix& gradient, double epsilon);

  // [T, D] in the activations' format.
  Tensor Forward(const kernels::Matrix& x) const;
  void Forward(const kernels::Matrix& x, const kernels::Matrix& y) const;

  // dx is overwritten; it may be dy. The weight's gradient is added at once.
  void Backward(const kernels::Matrix& x, const kernels::Matrix& dy,
                const kernels::Matrix& dx) const;

 private:
  LayerContext context_;
  kernels::Matrix weight_D_;
  kernels::Matrix gradient_D_;
  double epsilon_;
};

}  // namespace fathom::model

#endif  // FATHOM_WORKER_MODEL_RMS_NORM_H_
