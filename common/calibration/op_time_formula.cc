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

void AddElements(std::string_view op, int64_t m, int64_t n, int64_t k, int64_t heads,
                 CallSums* sums) {
  if (op == "Gemm" || op == "GemmFp8") {
    sums->operand_elements += sums->count * static_cast<double>(k) * static_cast<double>(n);
  } else if (op == "AttentionForward" || op == "AttentionBackward") {
    sums->operand_elements += sums->count * static_cast<double>(m) * static_cast<double>(k * heads);
  } else {
    sums->rows += sums->count * static_cast<double>(m);
  }
}

CallSums SumsOf(const model::OpCall& call) {
  CallSums sums = {static_cast<double>(call.count), call.flops, call.bytes, 0, 0};
  AddElements(call.op, call.m, call.n, call.k, call.heads, &sums);
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
