#include "common/calibration/op_time_formula.h"

#include <cmath>
#include <string_view>

namespace fathom::calibration {
namespace {

// Of the entry's curve at this size.
double CacheFactorOf(const v1::OpTime& entry, double bytes) {
  const auto& curve = entry.cache();
  if (curve.empty()) return 1;
  if (bytes <= curve.begin()->bytes()) return curve.begin()->factor();
  for (int i = 1; i < curve.size(); ++i) {
    const v1::CacheFactor& left = curve[i - 1];
    const v1::CacheFactor& right = curve[i];
    if (bytes > right.bytes()) continue;
    const double at = std::log(bytes / left.bytes()) / std::log(right.bytes() / left.bytes());
    return left.factor() + at * (right.factor() - left.factor());
  }
  return curve.rbegin()->factor();
}

}  // namespace

CallSums SumsOf(const model::OpCall& call) {
  CallSums sums = {static_cast<double>(call.count), call.flops, call.bytes, 0, 0};
  const std::string_view op = call.op;
  const auto m = static_cast<double>(call.m);
  const auto k = static_cast<double>(call.k);
  if (op == "Gemm" || op == "GemmFp8") {
    sums.operand_elements = sums.count * k * static_cast<double>(call.n);
  } else if (op == "AttentionForward" || op == "AttentionBackward") {
    sums.operand_elements = sums.count * m * k * static_cast<double>(call.heads);
  } else {
    sums.rows = sums.count * m;
  }
  return sums;
}

double SecondsOf(const v1::OpTime& entry, const CallSums& calls) {
  const double seconds =
      calls.count * entry.fixed_seconds() + calls.flops * entry.seconds_per_flop() +
      calls.bytes * entry.seconds_per_byte() + calls.rows * entry.seconds_per_row() +
      calls.operand_elements * entry.seconds_per_operand_element();
  if (calls.count <= 0) return seconds;
  return seconds * CacheFactorOf(entry, calls.bytes / calls.count);
}

}  // namespace fathom::calibration
