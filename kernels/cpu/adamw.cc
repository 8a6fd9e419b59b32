#include <cmath>
#include <cstdint>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/float_rows.h"
#include "kernels/cpu/shape_checks.h"

namespace fathom::kernels {

void CpuOps::AdamW(const AdamWSettings& settings, const Matrix& gradient, const AdamWState& in,
                   const AdamWState& out) {
  CheckAdamW(settings, gradient, in, out);
  if (AnyF64({&gradient, &in.master, &in.m, &in.v, &out.master, &out.m, &out.v})) {
    ReferenceOps::AdamW(settings, gradient, in, out);
    return;
  }
  const float gradient_scale = static_cast<float>(settings.gradient_scale);
  const float beta1 = static_cast<float>(settings.beta1);
  const float beta2 = static_cast<float>(settings.beta2);
  const float one_minus_beta1 = static_cast<float>(1 - settings.beta1);
  const float one_minus_beta2 = static_cast<float>(1 - settings.beta2);
  const float m_factor =
      static_cast<float>(settings.learning_rate / (1 - std::pow(settings.beta1, settings.step)));
  const float v_factor = static_cast<float>(1 / (1 - std::pow(settings.beta2, settings.step)));
  const float epsilon = static_cast<float>(settings.epsilon);
  // Subtracted, and not folded into a factor 1 - decay, whose rounding would be a bias.
  const float decay = static_cast<float>(settings.learning_rate * settings.weight_decay);
  float buffers[7][kRun];
  ForEachRun(in.master, [&](int64_t r, int64_t col, int64_t n) {
    const float* g = ReadRow(gradient, r, col, n, buffers[0]);
    const float* old_weight = ReadRow(in.master, r, col, n, buffers[1]);
    const float* old_m = ReadRow(in.m, r, col, n, buffers[2]);
    const float* old_v = ReadRow(in.v, r, col, n, buffers[3]);
    float* weight = WriteRow(out.master, r, col, buffers[4]);
    float* new_m = WriteRow(out.m, r, col, buffers[5]);
    float* new_v = WriteRow(out.v, r, col, buffers[6]);
#pragma GCC ivdep  // in place or apart, never shifted
    for (int64_t i = 0; i < n; ++i) {
      const float scaled = g[i] * gradient_scale;
      const float m_i = beta1 * old_m[i] + one_minus_beta1 * scaled;
      const float v_i = beta2 * old_v[i] + one_minus_beta2 * scaled * scaled;
      const float update = m_i * m_factor / (std::sqrt(v_i * v_factor) + epsilon);
      weight[i] = old_weight[i] - (decay * old_weight[i] + update);
      new_m[i] = m_i;
      new_v[i] = v_i;
    }
    StoreRow(out.master, r, col, n, weight);
    StoreRow(out.m, r, col, n, new_m);
    StoreRow(out.v, r, col, n, new_v);
  });
}

}  // namespace fathom::kernels
