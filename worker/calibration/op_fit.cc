#include "worker/calibration/op_fit.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <utility>

#include "common/calibration/least_squares.h"
#include "common/calibration/op_time_formula.h"
#include "common/calibration/op_time_names.h"

namespace fathom::calibration {
namespace {

constexpr double kInterrupted = 3;  // times the median
// Sizes of calls that share a cache factor: within a factor of four.
constexpr double kCacheBinOctaves = 2;
// Shortest time that a reading of the clock may leave of a call.
constexpr double kLeastSeconds = 1e-9;

// One shape of one op in one run.
struct Point {
  OpShape shape;
  double seconds = 0;
  double share = 0;  // of the run's time in this op
};

CallSums SumsOf(const OpShape& shape) {
  return calibration::SumsOf(model::OpCall{.op = shape.op.data(),  // a literal
                                           .m = shape.m,
                                           .n = shape.n,
                                           .k = shape.k,
                                           .flops = shape.flops,
                                           .bytes = shape.bytes,
                                           .heads = shape.heads});
}

std::vector<double> FactorsOf(const OpShape& shape) {
  const CallSums sums = SumsOf(shape);
  return {1, sums.flops, sums.bytes, sums.operand_elements, sums.rows};
}

double Value(const std::vector<double>& x, const OpShape& shape) {
  const std::vector<double> factors = FactorsOf(shape);
  double value = 0;
  for (size_t i = 0; i < factors.size(); ++i) value += x[i] * factors[i];
  return value;
}

// What the formula leaves unexplained, by size.
std::vector<v1::CacheFactor> CacheCurve(const std::vector<Point>& points,
                                        const std::vector<double>& x) {
  struct Bin {
    double measured = 0;
    double fitted = 0;
    double share = 0;
    double log_bytes = 0;
  };
  std::map<int, Bin> bins;
  for (const Point& point : points) {
    const double log_bytes = std::log2(std::max(1.0, point.shape.bytes));
    Bin& bin = bins[static_cast<int>(log_bytes / kCacheBinOctaves)];
    const double fitted = Value(x, point.shape);
    // Shares of time, so that calls count by the time they take.
    bin.measured += point.share;
    bin.fitted += point.share / point.seconds * fitted;
    bin.share += point.share;
    bin.log_bytes += point.share * log_bytes;
  }
  std::vector<v1::CacheFactor> curve;
  for (const auto& [index, bin] : bins) {
    if (!(bin.fitted > 0)) continue;
    v1::CacheFactor& factor = curve.emplace_back();
    factor.set_bytes(std::exp2(bin.log_bytes / bin.share));
    factor.set_factor(bin.measured / bin.fitted);
  }
  return curve;
}

v1::OpTime Fit(const std::string& op, const std::string& format, const std::vector<Point>& points) {
  std::vector<Equation> equations;
  for (const Point& point : points) {
    equations.push_back(
        {FactorsOf(point.shape), point.seconds, point.share / (point.seconds * point.seconds)});
  }
  const std::vector<double> x = NonNegativeLeastSquares(equations);
  const std::vector<v1::CacheFactor> curve = CacheCurve(points, x);
  v1::OpTime out;
  out.set_op(op);
  out.set_format(format);
  out.set_fixed_seconds(x[0]);
  out.set_seconds_per_flop(x[1]);
  out.set_seconds_per_byte(x[2]);
  out.set_seconds_per_operand_element(x[3]);
  out.set_seconds_per_row(x[4]);
  for (const v1::CacheFactor& factor : curve) *out.add_cache() = factor;
  double error = 0;
  double shares = 0;
  for (const Point& point : points) {
    const double fitted = SecondsOf(out, SumsOf(point.shape));
    error += point.share * std::abs(fitted / point.seconds - 1);
    shares += point.share;
  }
  out.set_relative_error(shares > 0 ? error / shares : 0);
  return out;
}

}  // namespace

double TypicalSeconds(std::vector<float> samples) {
  if (samples.empty()) return 0;
  std::sort(samples.begin(), samples.end());
  const double limit = kInterrupted * samples[samples.size() / 2];
  double sum = 0;
  size_t count = 0;
  for (const float sample : samples) {
    if (sample > limit) break;
    sum += sample;
    ++count;
  }
  return sum / static_cast<double>(count);
}

TypicalCalls TypicalOf(const OpSamples& samples, double meter_seconds, int64_t steps) {
  TypicalCalls out;
  for (const auto& [shape, calls] : samples) {
    out[shape] = {std::max(kLeastSeconds, TypicalSeconds(calls) - meter_seconds),
                  static_cast<double>(calls.size()) / static_cast<double>(steps)};
  }
  return out;
}

TypicalCalls MedianOf(absl::Span<const TypicalCalls> rounds) {
  absl::flat_hash_map<OpShape, std::vector<double>> seconds;
  TypicalCalls out;
  for (const TypicalCalls& round : rounds) {
    for (const auto& [shape, call] : round) {
      seconds[shape].push_back(call.seconds);
      out[shape].calls += call.calls / static_cast<double>(rounds.size());
    }
  }
  for (auto& [shape, call] : out) call.seconds = Median(std::move(seconds[shape]));
  return out;
}

double TotalSeconds(const TypicalCalls& calls) {
  double seconds = 0;
  for (const auto& [shape, call] : calls) seconds += call.seconds * call.calls;
  return seconds;
}

std::vector<v1::OpTime> FitOps(absl::Span<const TypicalCalls> runs) {
  std::map<std::pair<std::string, std::string>, std::vector<Point>> by_op;
  for (const TypicalCalls& run : runs) {
    std::map<std::pair<std::string, std::string>, std::vector<Point>> of_run;
    for (const auto& [shape, call] : run) {
      of_run[{std::string(shape.op), std::string(FormatName(shape.format))}].push_back(
          {shape, call.seconds, call.seconds * call.calls});
    }
    for (auto& [name, points] : of_run) {
      double total = 0;
      for (const Point& point : points) total += point.share;
      for (Point& point : points) {
        point.share /= total;
        by_op[name].push_back(point);
      }
    }
  }
  std::vector<v1::OpTime> out;
  for (const auto& [name, points] : by_op) out.push_back(Fit(name.first, name.second, points));
  return out;
}

double Median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

}  // namespace fathom::calibration
