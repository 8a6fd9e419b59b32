#include "coordinator/planner/calibration/calibrated_time.h"

#include <cmath>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_util.h"
#include "common/calibration/op_time_names.h"

namespace fathom::planner {
namespace {

std::string Key(absl::string_view op, absl::string_view format) {
  return absl::StrCat(op, "/", format);
}

// Of the curve at this size.
double CacheFactorOf(const v1::OpTime& entry, double bytes) {
  if (entry.cache().empty()) return 1;
  const auto& curve = entry.cache();
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

CalibratedTime::CalibratedTime(v1::OpTimes times) : times_(std::move(times)) {
  for (int i = 0; i < times_.ops_size(); ++i) {
    by_name_[Key(times_.ops(i).op(), times_.ops(i).format())] = i;
  }
}

const v1::OpTime* CalibratedTime::Find(absl::string_view op, absl::string_view format) const {
  for (const std::string& key : {Key(op, format), Key(op, "")}) {
    const auto found = by_name_.find(key);
    if (found != by_name_.end()) return &times_.ops(found->second);
  }
  return nullptr;
}

absl::StatusOr<double> CalibratedTime::Seconds(const OpWork& work) const {
  const v1::OpTime* entry = Find(work.op, work.format);
  if (entry == nullptr) {
    return absl::NotFoundError(
        absl::StrCat("the profile's op_times have no entry for ", work.op,
                     work.format.empty() ? "" : " in ", work.format, " (measured on ",
                     times_.machine().empty() ? "an unnamed machine" : times_.machine(),
                     "); make a new one with: fathomctl profile"));
  }
  if (work.count <= 0) return 0;
  const double seconds = work.count * entry->fixed_seconds() +
                         work.flops * entry->seconds_per_flop() +
                         work.bytes * entry->seconds_per_byte() +
                         work.operand_elements * entry->seconds_per_operand_element();
  return seconds * CacheFactorOf(*entry, work.bytes / work.count);
}

absl::StatusOr<double> CalibratedTime::Seconds(const model::OpCall& call) const {
  OpWork work;
  work.op = call.op;
  work.format = calibration::FormatName(call.format);
  work.count = static_cast<double>(call.count);
  work.flops = call.flops;
  work.bytes = call.bytes;
  if (work.op == "Gemm" || work.op == "GemmFp8") {
    work.operand_elements = work.count * static_cast<double>(call.k * call.n);
  }
  return Seconds(work);
}

absl::StatusOr<double> CalibratedTime::Seconds(const model::OpCalls& calls) const {
  double seconds = 0;
  for (const model::OpCall& call : calls) {
    FATHOM_ASSIGN_OR_RETURN(const double one, Seconds(call));
    seconds += one;
  }
  return seconds;
}

}  // namespace fathom::planner
