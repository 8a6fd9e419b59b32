// SwiGLU MLP: y = (silu(x W_gate^T) * (x W_up^T)) W_down^T. Gate and up are one matrix, their rows
// being neighbours in memory. The SwiGLU's input is kept (in FP8 when the recipe's products are),
// its output made again in the backward. Serves the leading dense layers and the shared experts.
#ifndef FATHOM_WORKER_MODEL_DENSE_MLP_H_
#define FATHOM_WORKER_MODEL_DENSE_MLP_H_

#include "kernels/ops.h"
#include "worker/model/linear.h"
#include "worker/model/numerics.h"
#include "worker/model/tensor.h"

namespace fathom::model {

// The input of a SwiGLU between forward and backward.
struct KeptGateUp {
  Tensor dense;
  Fp8Tensor fp8;
};
KeptGateUp KeepGateUp(const LayerContext& context, const Tensor& gate_up);
Tensor RestoreGateUp(const LayerContext& context, const KeptGateUp& kept);

class DenseMlp {
 public:
  struct Activations {
    KeptGateUp gate_up_T2F;
  };

  DenseMlp(Linear gate_up, Linear down, const LayerContext& context);

  void RefreshWeights();

  // y [T, D] is overwritten. kept may be null: nothing is kept then.
  void Forward(const OperandView& x, const kernels::Matrix& y, Activations* kept) const;

  // x is what Forward got; dx [T, D] is overwritten.
  void Backward(Activations kept, const Operand& x, const Operand& dy, const kernels::Matrix& dx,
                WeightWork* work) const;

 private:
  LayerContext context_;
  Linear gate_up_;
  Linear down_;
};

}  // namespace fathom::model

#endif  // FATHOM_WORKER_MODEL_DENSE_MLP_H_
