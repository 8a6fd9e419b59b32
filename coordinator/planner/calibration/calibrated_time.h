// How long ops take on a machine that was measured: the formula of v1::OpTimes with the entry of a
// call's op and format.
#ifndef FATHOM_COORDINATOR_PLANNER_CALIBRATION_CALIBRATED_TIME_H_
#define FATHOM_COORDINATOR_PLANNER_CALIBRATION_CALIBRATED_TIME_H_

#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/calibration/op_time_formula.h"
#include "common/model/layer_ops.h"
#include "proto/fathom/v1/hardware.pb.h"

namespace fathom::planner {

struct OpWork {
  absl::string_view op;
  absl::string_view format;
  calibration::CallSums sums;
};

class CalibratedTime {
 public:
  explicit CalibratedTime(v1::OpTimes times);

  // NOT_FOUND names the op and format that have no entry, and what to do.
  absl::StatusOr<double> Seconds(const OpWork& work) const;
  absl::StatusOr<double> Seconds(const model::OpCall& call) const;
  // Of all calls.
  absl::StatusOr<double> Seconds(const model::OpCalls& calls) const;

  const v1::OpTimes& times() const { return times_; }

 private:
  const v1::OpTime* Find(absl::string_view op, absl::string_view format) const;

  v1::OpTimes times_;
  absl::flat_hash_map<std::string, int> by_name_;  // index into times_.ops
};

}  // namespace fathom::planner

#endif  // FATHOM_COORDINATOR_PLANNER_CALIBRATION_CALIBRATED_TIME_H_
