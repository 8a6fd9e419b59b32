#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "kernels/check.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/float_rows.h"
#include "kernels/cpu/vector_math.h"

namespace fathom::kernels {
namespace {

// exp_V = exp(in - largest); returns the sum, in FP64 over runs of FP32 sums.
double Exponentials(const float* in, int64_t n, float largest, float* exp_V) {
  double sum = 0;
  for (int64_t col = 0; col < n; col += kRun) {
    const int64_t run = std::min(kRun, n - col);
    for (int64_t i = col; i < col + run; ++i) {
      exp_V[i] = Exp(in[i] - largest);
    }
    const float* values = exp_V + col;
    sum += SumOf<float>(run, [values](int64_t i) { return values[i]; });
  }
  return sum;
}

}  // namespace

void CpuOps::CrossEntropy(const Matrix& logits, const int32_t* labels, double gradient_scale,
                          double* loss) {
  if (AnyF64({&logits})) {
    ReferenceOps::CrossEntropy(logits, labels, gradient_scale, loss);
    return;
  }
  CheckSameShape("CrossEntropy", logits, "logits", logits);
  const int64_t n = logits.cols;
  float* in_V = Scratch(2 * n);
  float* exp_V = in_V + n;
  for (int64_t t = 0; t < logits.rows; ++t) {
    CheckIndex("CrossEntropy", "label", labels[t], n);
    const float* in = ReadRow(logits, t, 0, n, in_V);
    const float largest =
        MaxOf(n, -std::numeric_limits<float>::infinity(), [in](int64_t i) { return in[i]; });
    const double sum = Exponentials(in, n, largest, exp_V);
    loss[t] = largest + std::log(sum) - in[labels[t]];
    if (gradient_scale == 0) {
      continue;
    }
    float* out = WriteRow(logits, t, 0, in_V);
    const float factor = static_cast<float>(gradient_scale / sum);
#pragma GCC ivdep  // in place or apart, never shifted
    for (int64_t i = 0; i < n; ++i) {
      out[i] = exp_V[i] * factor;
    }
    // The label's element is a difference of near numbers when the model is sure: make it in FP64.
    out[labels[t]] = static_cast<float>(gradient_scale * (exp_V[labels[t]] / sum - 1.0));
    StoreRow(logits, t, 0, n, out);
  }
}

}  // namespace fathom::kernels
