#include <cmath>
#include <cstdint>

#include "kernels/cpu/element.h"
#include "kernels/cpu/reference_ops.h"
#include "kernels/cpu/shape_checks.h"

namespace fathom::kernels {
namespace {

// 1 / sqrt(mean(x^2) + epsilon) of row t.
double InverseRms(const Matrix& x, int64_t t, double epsilon) {
  double sum = 0;
  for (int64_t d = 0; d < x.cols; ++d) {
    sum += Get(x, t, d) * Get(x, t, d);
  }
  return 1.0 / std::sqrt(sum / x.cols + epsilon);
}

}  // namespace

void ReferenceOps::RmsNormForward(const Matrix& x, const Matrix& weight, double epsilon,
                                  const Matrix& y) {
  CheckRmsNorm(x, weight, y);
  for (int64_t t = 0; t < x.rows; ++t) {
    const double inverse_rms = InverseRms(x, t, epsilon);
    for (int64_t d = 0; d < x.cols; ++d) {
      Set(y, t, d, Get(x, t, d) * inverse_rms * Get(weight, 0, d));
    }
  }
}

// With n = x * inverse_rms and g = dy * weight: dx = inverse_rms * (g - n * mean(g * n)).
void ReferenceOps::RmsNormBackward(const Matrix& x, const Matrix& weight, double epsilon,
                                   const Matrix& dy, const Matrix& dx, const Matrix& dweight) {
  CheckRmsNormBackward(x, weight, dy, dx, dweight);
  for (int64_t t = 0; t < x.rows; ++t) {
    const double inverse_rms = InverseRms(x, t, epsilon);
    double mean = 0;
    for (int64_t d = 0; d < x.cols; ++d) {
      mean += Get(dy, t, d) * Get(weight, 0, d) * Get(x, t, d) * inverse_rms / x.cols;
    }
    for (int64_t d = 0; d < x.cols; ++d) {
      const double normalised = Get(x, t, d) * inverse_rms;
      const double dy_td = Get(dy, t, d);  // read first: dx may be dy
      Set(dx, t, d, inverse_rms * (dy_td * Get(weight, 0, d) - normalised * mean));
      if (dweight.data != nullptr) {
        Set(dweight, 0, d, Get(dweight, 0, d) + dy_td * normalised);
      }
    }
  }
}

}  // namespace fathom::kernels
