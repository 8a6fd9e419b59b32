#include <algorithm>
#include <cstdint>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/float_rows.h"
#include "kernels/cpu/shape_checks.h"
#include "kernels/cpu/vector_math.h"

namespace fathom::kernels {
namespace {

// y = silu(gate) * up * weight; a weight of 1 changes no bit.
template <typename Weight>
void Forward(const Matrix& gate_up, Weight weight_of, const Matrix& y) {
  float gate_buffer[kRun];
  float up_buffer[kRun];
  float out_buffer[kRun];
  ForEachRun(y, [&](int64_t t, int64_t col, int64_t n) {
    const float* gate = ReadRow(gate_up, t, col, n, gate_buffer);
    const float* up = ReadRow(gate_up, t, y.cols + col, n, up_buffer);
    const float weight = weight_of(t);
    float* out = WriteRow(y, t, col, out_buffer);
    for (int64_t i = 0; i < n; ++i) {
      out[i] = gate[i] * Sigmoid(gate[i]) * up[i] * weight;
    }
    StoreRow(y, t, col, n, out);
  });
}

// What one run of a row's gradients is made from and goes to.
struct BackwardRun {
  const float* gate;
  const float* up;
  const float* dy;
  float* dgate;
  float* dup;
};

// Outputs may be the inputs of the same element: each is read before it is written.
void Backward(const BackwardRun& run, int64_t n, float weight) {
  const auto [gate, up, dy, dgate, dup] = run;
#pragma GCC ivdep  // in place or apart, never shifted
  for (int64_t i = 0; i < n; ++i) {
    const float sigmoid = Sigmoid(gate[i]);
    const float silu = gate[i] * sigmoid;
    const float weighted_dy = dy[i] * weight;
    const float dgate_i = weighted_dy * up[i] * sigmoid * (1.0f + gate[i] * (1.0f - sigmoid));
    dgate[i] = dgate_i;
    dup[i] = weighted_dy * silu;
  }
}

float Unweighted(int64_t) { return 1.0f; }

}  // namespace

void CpuOps::SwiGluForward(const Matrix& gate_up, const Matrix& y) {
  CheckSwiGlu(gate_up, y);
  if (AnyF64({&gate_up, &y})) {
    ReferenceOps::SwiGluForward(gate_up, y);
    return;
  }
  Forward(gate_up, Unweighted, y);
}

void CpuOps::SwiGluBackward(const Matrix& gate_up, const Matrix& dy, const Matrix& dgate_up) {
  CheckSwiGlu(gate_up, dy);
  CheckSwiGlu(dgate_up, dy);
  if (AnyF64({&gate_up, &dy, &dgate_up})) {
    ReferenceOps::SwiGluBackward(gate_up, dy, dgate_up);
    return;
  }
  float buffers[5][kRun];
  ForEachRun(dy, [&](int64_t t, int64_t col, int64_t n) {
    const BackwardRun run = {.gate = ReadRow(gate_up, t, col, n, buffers[0]),
                             .up = ReadRow(gate_up, t, dy.cols + col, n, buffers[1]),
                             .dy = ReadRow(dy, t, col, n, buffers[2]),
                             .dgate = WriteRow(dgate_up, t, col, buffers[3]),
                             .dup = WriteRow(dgate_up, t, dy.cols + col, buffers[4])};
    Backward(run, n, 1.0f);
    StoreRow(dgate_up, t, col, n, run.dgate);
    StoreRow(dgate_up, t, dy.cols + col, n, run.dup);
  });
}

void CpuOps::WeightedSwiGluForward(const Matrix& gate_up, const Matrix& weights, const Matrix& y) {
  CheckSwiGlu(gate_up, y);
  CheckRowWeights(weights, y.rows);
  if (AnyF64({&gate_up, &weights, &y})) {
    ReferenceOps::WeightedSwiGluForward(gate_up, weights, y);
    return;
  }
  Forward(
      gate_up, [&](int64_t t) { return *static_cast<float*>(RowData(weights, t)); }, y);
}

void CpuOps::WeightedSwiGluBackward(const Matrix& gate_up, const Matrix& weights, const Matrix& dy,
                                    const Matrix& dgate_up, const Matrix& dweights,
                                    const Matrix& y) {
  CheckSwiGlu(gate_up, dy);
  CheckSwiGlu(dgate_up, dy);
  CheckSwiGlu(gate_up, y);
  CheckRowWeights(weights, dy.rows);
  CheckRowWeights(dweights, dy.rows);
  if (AnyF64({&gate_up, &weights, &dy, &dgate_up, &dweights, &y})) {
    ReferenceOps::WeightedSwiGluBackward(gate_up, weights, dy, dgate_up, dweights, y);
    return;
  }
  float buffers[6][kRun];
  float unweighted[kRun];
  for (int64_t t = 0; t < dy.rows; ++t) {
    const float weight = *static_cast<float*>(RowData(weights, t));
    float dweight = 0;
    for (int64_t col = 0; col < dy.cols; col += kRun) {
      const int64_t n = std::min(kRun, dy.cols - col);
      const BackwardRun run = {.gate = ReadRow(gate_up, t, col, n, buffers[0]),
                               .up = ReadRow(gate_up, t, dy.cols + col, n, buffers[1]),
                               .dy = ReadRow(dy, t, col, n, buffers[2]),
                               .dgate = WriteRow(dgate_up, t, col, buffers[3]),
                               .dup = WriteRow(dgate_up, t, dy.cols + col, buffers[4])};
      for (int64_t i = 0; i < n; ++i) {
        unweighted[i] = run.gate[i] * Sigmoid(run.gate[i]) * run.up[i];
      }
      dweight += SumOf<float>(n, [&](int64_t i) { return run.dy[i] * unweighted[i]; });
      Backward(run, n, weight);
      StoreRow(dgate_up, t, col, n, run.dgate);
      StoreRow(dgate_up, t, dy.cols + col, n, run.dup);
      float* out = WriteRow(y, t, col, buffers[5]);  // last: y may be dy
      for (int64_t i = 0; i < n; ++i) {
        out[i] = unweighted[i] * weight;
      }
      StoreRow(y, t, col, n, out);
    }
    *static_cast<float*>(RowData(dweights, t)) = dweight;
  }
}

}  // namespace fathom::kernels
