#include "common/calibration/least_squares.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

#include "common/base/check.h"

namespace fathom::calibration {
namespace {

constexpr size_t kCoefficientsMax = 8;
// A pivot smaller than this part of the column's diagonal: the columns depend on each other.
constexpr double kSingular = 1e-12;

// Gauss with pivots; none where the columns depend on each other.
std::optional<std::vector<double>> Solve(std::vector<std::vector<double>> matrix,
                                         std::vector<double> right) {
  const size_t n = right.size();
  std::vector<double> diagonal(n);
  for (size_t i = 0; i < n; ++i) diagonal[i] = matrix[i][i];
  for (size_t i = 0; i < n; ++i) {
    size_t pivot = i;
    for (size_t r = i + 1; r < n; ++r) {
      if (std::abs(matrix[r][i]) > std::abs(matrix[pivot][i])) pivot = r;
    }
    std::swap(matrix[i], matrix[pivot]);
    std::swap(right[i], right[pivot]);
    if (!(std::abs(matrix[i][i]) > kSingular * diagonal[i])) return std::nullopt;
    for (size_t r = 0; r < n; ++r) {
      if (r == i) continue;
      const double factor = matrix[r][i] / matrix[i][i];
      for (size_t c = i; c < n; ++c) matrix[r][c] -= factor * matrix[i][c];
      right[r] -= factor * right[i];
    }
  }
  for (size_t i = 0; i < n; ++i) right[i] /= matrix[i][i];
  return right;
}

double ErrorOf(absl::Span<const Equation> equations, const std::vector<double>& x) {
  double error = 0;
  for (const Equation& equation : equations) {
    double value = -equation.result;
    for (size_t i = 0; i < x.size(); ++i) value += equation.factors[i] * x[i];
    error += equation.weight * value * value;
  }
  return error;
}

}  // namespace

std::vector<double> NonNegativeLeastSquares(absl::Span<const Equation> equations) {
  if (equations.empty()) return {};
  const size_t n = equations[0].factors.size();
  FATHOM_CHECK(n <= kCoefficientsMax) << n << " coefficients";
  // Columns are brought to one size first, for the sake of the pivots.
  std::vector<double> size(n);
  for (const Equation& equation : equations) {
    for (size_t i = 0; i < n; ++i) {
      size[i] = std::max(size[i], std::abs(equation.factors[i]) * std::sqrt(equation.weight));
    }
  }
  std::vector<double> best(n);
  double least = ErrorOf(equations, best);
  for (size_t subset = 1; subset < (size_t{1} << n); ++subset) {
    std::vector<size_t> columns;
    for (size_t i = 0; i < n; ++i) {
      if ((subset >> i & 1) != 0 && size[i] > 0) columns.push_back(i);
    }
    std::vector<std::vector<double>> matrix(columns.size(), std::vector<double>(columns.size()));
    std::vector<double> right(columns.size());
    for (const Equation& equation : equations) {
      for (size_t i = 0; i < columns.size(); ++i) {
        const double left = equation.weight * equation.factors[columns[i]] / size[columns[i]];
        right[i] += left * equation.result;
        for (size_t j = 0; j < columns.size(); ++j) {
          matrix[i][j] += left * equation.factors[columns[j]] / size[columns[j]];
        }
      }
    }
    const std::optional<std::vector<double>> solved = Solve(std::move(matrix), std::move(right));
    if (!solved.has_value()) continue;
    if (std::any_of(solved->begin(), solved->end(), [](double x) { return !(x >= 0); })) continue;
    std::vector<double> x(n);
    for (size_t i = 0; i < columns.size(); ++i) x[columns[i]] = (*solved)[i] / size[columns[i]];
    const double error = ErrorOf(equations, x);
    if (error < least) {
      least = error;
      best = std::move(x);
    }
  }
  return best;
}

}  // namespace fathom::calibration
