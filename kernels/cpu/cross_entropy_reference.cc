#include <cmath>
#include <cstdint>
#include <limits>

#include "kernels/check.h"
#include "kernels/cpu/element.h"
#include "kernels/cpu/reference_ops.h"

namespace fathom::kernels {

void ReferenceOps::CrossEntropy(const Matrix& logits, const int32_t* labels, double gradient_scale,
                                double* loss) {
  CheckSameShape("CrossEntropy", logits, "logits", logits);
  for (int64_t t = 0; t < logits.rows; ++t) {
    CheckIndex("CrossEntropy", "label", labels[t], logits.cols);
    double largest = -std::numeric_limits<double>::infinity();
    for (int64_t v = 0; v < logits.cols; ++v) {
      largest = std::fmax(largest, Get(logits, t, v));
    }
    double sum = 0;
    for (int64_t v = 0; v < logits.cols; ++v) {
      sum += std::exp(Get(logits, t, v) - largest);
    }
    loss[t] = largest + std::log(sum) - Get(logits, t, labels[t]);
    if (gradient_scale == 0) {
      continue;
    }
    for (int64_t v = 0; v < logits.cols; ++v) {
      const double softmax = std::exp(Get(logits, t, v) - largest) / sum;
      Set(logits, t, v, gradient_scale * (softmax - (v == labels[t] ? 1 : 0)));
    }
  }
}

}  // namespace fathom::kernels
