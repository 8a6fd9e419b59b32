// Weighted least squares with coefficients that are not negative, for a handful of coefficients.
#ifndef FATHOM_COMMON_CALIBRATION_LEAST_SQUARES_H_
#define FATHOM_COMMON_CALIBRATION_LEAST_SQUARES_H_

#include <vector>

#include "absl/types/span.h"

namespace fathom::calibration {

struct Equation {
  std::vector<double> factors;
  double result = 0;
  double weight = 1;
};

// The x >= 0 that makes the sum of weight * (factors . x - result)^2 least. It is the solution on
// some subset of the coefficients, the others being 0, so all subsets are tried: at most 8
// coefficients. All equations have as many factors. None: no coefficients.
std::vector<double> NonNegativeLeastSquares(absl::Span<const Equation> equations);

}  // namespace fathom::calibration

#endif  // FATHOM_COMMON_CALIBRATION_LEAST_SQUARES_H_
