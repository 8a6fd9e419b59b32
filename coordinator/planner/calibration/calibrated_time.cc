#include "coordinator/planner/calibration/calibrated_time.h"

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
  return calibration::SecondsOf(*entry, work.sums);
}

absl::StatusOr<double> CalibratedTime::Seconds(const model::OpCall& call) const {
  return Seconds(OpWork{call.op, calibration::FormatName(call.format), calibration::SumsOf(call)});
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
