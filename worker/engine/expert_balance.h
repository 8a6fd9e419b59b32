// Loss-free balancing of experts (arXiv 2408.15664): after each step every expert's selection bias
// moves by a fixed speed towards an equal load. Pure.
#ifndef FATHOM_WORKER_ENGINE_EXPERT_BALANCE_H_
#define FATHOM_WORKER_ENGINE_EXPERT_BALANCE_H_

#include "absl/types/span.h"

namespace fathom::engine {

// bias[i] += speed * sign(mean load - loads[i]); loads are tokens of the whole step, per expert of
// one layer.
void UpdateRouterBias(absl::Span<const double> loads, double speed, absl::Span<float> bias);

// MaxVio of one layer: (max load - mean) / mean; 0 without any load.
double MaxViolation(absl::Span<const double> loads);

}  // namespace fathom::engine

#endif  // FATHOM_WORKER_ENGINE_EXPERT_BALANCE_H_
