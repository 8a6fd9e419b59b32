#include <cmath>
#include <cstdint>

#include "kernels/cpu/element.h"
#include "kernels/cpu/reference_ops.h"
#include "kernels/cpu/shape_checks.h"

namespace fathom::kernels {

void ReferenceOps::Rope(const RopeView& x, bool inverse) {
  CheckRope(x);
  for (int64_t i = 0; i < x.dim / 2; ++i) {
    const double frequency = std::pow(x.theta, -2.0 * i / x.dim);
    for (int64_t t = 0; t < x.tokens; ++t) {
      const double angle = (t % x.sequence_length) * frequency * (inverse ? -1 : 1);
      const double cosine = std::cos(angle);
      const double sine = std::sin(angle);
      for (int64_t h = 0; h < x.heads; ++h) {
        const int64_t index = t * x.token_stride + h * x.head_stride + 2 * i;
        const double first = LoadAt(x.data, x.dtype, index);
        const double second = LoadAt(x.data, x.dtype, index + 1);
        StoreAt(x.data, x.dtype, index, first * cosine - second * sine);
        StoreAt(x.data, x.dtype, index + 1, first * sine + second * cosine);
      }
    }
  }
}

}  // namespace fathom::kernels
