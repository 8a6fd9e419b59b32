#include "coordinator/planner/calibration/calibrated_time.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_util.h"
#include "common/calibration/op_time_names.h"

namespace fathom::planner {
namespace {

std::string Key(absl::string_view op, absl::string_view format) {
  return absl::StrCat(op, "/", format);
}

}  // namespace

CalibratedTime::CalibratedTime(const v1::OpTimes& times) : times_(times) {
  for (const v1::OpTime& entry : times_.ops()) by_name_[Key(entry.op(), entry.format())] = &entry;
}

const v1::OpTime* CalibratedTime::Find(absl::string_view op, absl::string_view format) const {
  for (const std::string& key : {Key(op, format), Key(op, "")}) {
    const auto found = by_name_.find(key);
    if (found != by_name_.end()) return found->second;
  }
  return nullptr;
}

absl::StatusOr<double> CalibratedTime::Seconds(absl::string_view op, absl::string_view format,
                                               double count, double flops, double bytes) const {
  const v1::OpTime* entry = Find(op, format);
  if (entry == nullptr) {
    return absl::NotFoundError(absl::StrCat(
        "the profile's op_times have no entry for ", op, format.empty() ? "" : " in ", format,
        " (measured on ", times_.machine().empty() ? "an unnamed machine" : times_.machine(),
        "); make a new one with: fathomctl profile"));
  }
  return count * entry->fixed_seconds() + flops * entry->seconds_per_flop() +
         bytes * entry->seconds_per_byte();
}

absl::StatusOr<double> CalibratedTime::Seconds(const model::OpCall& call) const {
  return Seconds(call.op, calibration::FormatName(call.format), static_cast<double>(call.count),
                 call.flops, call.bytes);
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
