#include <cmath>
#include <cstdint>

#include "kernels/cpu/element.h"
#include "kernels/cpu/reference_ops.h"
#include "kernels/cpu/shape_checks.h"

namespace fathom::kernels {
namespace {

double Sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

}  // namespace

void ReferenceOps::SwiGluForward(const Matrix& gate_up, const Matrix& y) {
  CheckSwiGlu(gate_up, y);
  for (int64_t t = 0; t < y.rows; ++t) {
    for (int64_t f = 0; f < y.cols; ++f) {
      const double gate = Get(gate_up, t, f);
      Set(y, t, f, gate * Sigmoid(gate) * Get(gate_up, t, y.cols + f));
    }
  }
}

// silu'(g) = sigmoid(g) * (1 + g * (1 - sigmoid(g))).
void ReferenceOps::SwiGluBackward(const Matrix& gate_up, const Matrix& dy, const Matrix& dgate_up) {
  CheckSwiGlu(gate_up, dy);
  CheckSwiGlu(dgate_up, dy);
  for (int64_t t = 0; t < dy.rows; ++t) {
    for (int64_t f = 0; f < dy.cols; ++f) {
      const double gate = Get(gate_up, t, f);
      const double up = Get(gate_up, t, dy.cols + f);
      const double sigmoid = Sigmoid(gate);
      Set(dgate_up, t, f, Get(dy, t, f) * up * sigmoid * (1 + gate * (1 - sigmoid)));
      Set(dgate_up, t, dy.cols + f, Get(dy, t, f) * gate * sigmoid);
    }
  }
}

}  // namespace fathom::kernels
