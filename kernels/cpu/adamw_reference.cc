#include <cmath>
#include <cstdint>

#include "kernels/cpu/element.h"
#include "kernels/cpu/reference_ops.h"
#include "kernels/cpu/shape_checks.h"

namespace fathom::kernels {

// The update uses m and v before they are rounded for storage. (Loshchilov and Hutter,
// arXiv 1711.05101, algorithm 2.)
void ReferenceOps::AdamW(const AdamWSettings& settings, const Matrix& gradient,
                         const AdamWState& in, const AdamWState& out) {
  CheckAdamW(settings, gradient, in, out);
  const double m_correction = 1 - std::pow(settings.beta1, settings.step);
  const double v_correction = 1 - std::pow(settings.beta2, settings.step);
  for (int64_t r = 0; r < in.master.rows; ++r) {
    for (int64_t c = 0; c < in.master.cols; ++c) {
      const double g = Get(gradient, r, c) * settings.gradient_scale;
      const double new_m = settings.beta1 * Get(in.m, r, c) + (1 - settings.beta1) * g;
      const double new_v = settings.beta2 * Get(in.v, r, c) + (1 - settings.beta2) * g * g;
      Set(out.m, r, c, new_m);
      Set(out.v, r, c, new_v);
      const double decayed =
          Get(in.master, r, c) * (1 - settings.learning_rate * settings.weight_decay);
      const double update =
          new_m / m_correction / (std::sqrt(new_v / v_correction) + settings.epsilon);
      Set(out.master, r, c, decayed - settings.learning_rate * update);
    }
  }
}

}  // namespace fathom::kernels
