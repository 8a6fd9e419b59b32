#include <cmath>
#include <cstdint>

#include "kernels/cpu/element.h"
#include "kernels/cpu/reference_ops.h"
#include "kernels/cpu/shape_checks.h"

namespace fathom::kernels {
namespace {

double Sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

}  // namespace

void ReferenceOps::WeightedSwiGluForward(const Matrix& gate_up, const Matrix& weights,
                                         const Matrix& y) {
  CheckSwiGlu(gate_up, y);
  CheckRowWeights(weights, y.rows);
  for (int64_t t = 0; t < y.rows; ++t) {
    for (int64_t f = 0; f < y.cols; ++f) {
      const double gate = Get(gate_up, t, f);
      Set(y, t, f, gate * Sigmoid(gate) * Get(gate_up, t, y.cols + f) * Get(weights, t, 0));
    }
  }
}

void ReferenceOps::WeightedSwiGluBackward(const Matrix& gate_up, const Matrix& weights,
                                          const Matrix& dy, const Matrix& dgate_up,
                                          const Matrix& dweights, const Matrix& y) {
  CheckSwiGlu(gate_up, dy);
  CheckSwiGlu(dgate_up, dy);
  CheckSwiGlu(gate_up, y);
  CheckRowWeights(weights, dy.rows);
  CheckRowWeights(dweights, dy.rows);
  for (int64_t t = 0; t < dy.rows; ++t) {
    const double weight = Get(weights, t, 0);
    double dweight = 0;
    for (int64_t f = 0; f < dy.cols; ++f) {
      const double gate = Get(gate_up, t, f);
      const double up = Get(gate_up, t, dy.cols + f);
      const double sigmoid = Sigmoid(gate);
      const double silu = gate * sigmoid;
      const double dy_tf = Get(dy, t, f);  // read first: y may be dy
      dweight += dy_tf * silu * up;
      Set(dgate_up, t, f, weight * dy_tf * up * sigmoid * (1 + gate * (1 - sigmoid)));
      Set(dgate_up, t, dy.cols + f, weight * dy_tf * silu);
      Set(y, t, f, silu * up * weight);
    }
    Set(dweights, t, 0, dweight);
  }
}

}  // namespace fathom::kernels
