#include <algorithm>
#include <cmath>
#include <cstdint>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/float_rows.h"
#include "kernels/cpu/shape_checks.h"
#include "kernels/cpu/vector_math.h"

namespace fathom::kernels {
namespace {

float InverseRms(const float* x, int64_t n, double epsilon) {
  const float sum = SumOf<float>(n, [x](int64_t i) { return x[i] * x[i]; });
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(sum) / n + epsilon));
}

}  // namespace

void CpuOps::RmsNormForward(const Matrix& x, const Matrix& weight, double epsilon,
                            const Matrix& y) {
  CheckRmsNorm(x, weight, y);
  if (AnyF64({&x, &weight, &y})) {
    ReferenceOps::RmsNormForward(x, weight, epsilon, y);
    return;
  }
  const int64_t n = x.cols;
  float* buffers = Scratch(3 * n);
  const float* w = ReadRow(weight, 0, 0, n, buffers);
  for (int64_t t = 0; t < x.rows; ++t) {
    const float* in = ReadRow(x, t, 0, n, buffers + n);
    float* out = WriteRow(y, t, 0, buffers + 2 * n);
    const float inverse_rms = InverseRms(in, n, epsilon);
#pragma GCC ivdep  // in place or apart, never shifted
    for (int64_t i = 0; i < n; ++i) {
      out[i] = in[i] * inverse_rms * w[i];
    }
    StoreRow(y, t, 0, n, out);
  }
}

void CpuOps::RmsNormBackward(const Matrix& x, const Matrix& weight, double epsilon,
                             const Matrix& dy, const Matrix& dx, const Matrix& dweight) {
  CheckRmsNormBackward(x, weight, dy, dx, dweight);
  if (AnyF64({&x, &weight, &dy, &dx}) ||
      (dweight.data != nullptr && dweight.dtype == DType::kF64)) {
    ReferenceOps::RmsNormBackward(x, weight, epsilon, dy, dx, dweight);
    return;
  }
  const int64_t n = x.cols;
  float* buffers = Scratch(4 * n);
  const float* w = ReadRow(weight, 0, 0, n, buffers);
  for (int64_t t = 0; t < x.rows; ++t) {
    const float* in = ReadRow(x, t, 0, n, buffers + n);
    const float* g = ReadRow(dy, t, 0, n, buffers + 2 * n);
    const float inverse_rms = InverseRms(in, n, epsilon);
    if (dweight.data != nullptr) {
      float* dw = static_cast<float*>(dweight.data);
      for (int64_t i = 0; i < n; ++i) {
        dw[i] += g[i] * (in[i] * inverse_rms);
      }
    }
    const float dot = SumOf<float>(n, [g, w, in](int64_t i) { return g[i] * w[i] * in[i]; });
    const float mean = dot * inverse_rms / n;
    float* out = WriteRow(dx, t, 0, buffers + 3 * n);
#pragma GCC ivdep  // in place or apart, never shifted
    for (int64_t i = 0; i < n; ++i) {
      out[i] = inverse_rms * (g[i] * w[i] - in[i] * inverse_rms * mean);
    }
    StoreRow(dx, t, 0, n, out);
  }
}

}  // namespace fathom::kernels
