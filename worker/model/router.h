// Which experts a token goes to, and with what weight: the gate's product on the activations'
// format with FP32 result, then group-limited sigmoid routing with loss-free balancing's bias
// (kernels/ops.h).
#ifndef FATHOM_WORKER_MODEL_ROUTER_H_
#define FATHOM_WORKER_MODEL_ROUTER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "common/model/model_config.h"
#include "kernels/ops.h"
#include "worker/model/linear.h"
#include "worker/model/numerics.h"
#include "worker/model/parameter_reader.h"
#include "worker/model/tensor.h"

namespace fathom::model {

struct RouterOptions {
  int64_t sequences = 1;
  int64_t sequence_length = 0;
  double balance_alpha = 0;
  int64_t sequences_per_step = 1;  // the balance loss is a mean over these
};

class Router {
 public:
  struct Activations {
    Tensor logits_TE;
    Buffer experts_TK;                    // int32
    std::vector<int32_t> host_experts;    // the same, where the host can read it
    std::vector<std::byte> host_weights;  // [T, K] of the sums' format
    double balance_loss = 0;              // sum over sequences, alpha included
  };

  Router(const LayerContext& context, const ModelConfig& model, const RouterOptions& options,
         const std::string& prefix, ParameterReader* reader);

  // normed [T, D]. Adds to loads [E] the tokens that chose each expert, unless it is empty; then no
  // balance loss is made either.
  void Forward(const kernels::Matrix& normed, absl::Span<int64_t> loads, Activations* out) const;

  // dweights [T, K]; adds the gradient of the logits through the gate to dnormed [T, D].
  void Backward(const Activations& kept, const Tensor& normed, const kernels::Matrix& dweights,
                const kernels::Matrix& dnormed, WeightWork* work) const;

  Parameter* bias() const { return bias_; }

 private:
  LayerContext context_;
  kernels::RouterShape shape_;
  int64_t sequences_per_step_;
  Linear gate_;
  Parameter* bias_;
};

}  // namespace fathom::model

#endif  // FATHOM_WORKER_MODEL_ROUTER_H_
