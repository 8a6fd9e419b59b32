// How long ops take on a machine that was measured: seconds of a call are
// fixed + flops * per_flop + bytes * per_byte of the entry of its op and format.
#ifndef FATHOM_COORDINATOR_PLANNER_CALIBRATION_CALIBRATED_TIME_H_
#define FATHOM_COORDINATOR_PLANNER_CALIBRATION_CALIBRATED_TIME_H_

#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/model/layer_ops.h"
#include "proto/fathom/v1/hardware.pb.h"

namespace fathom::planner {

class CalibratedTime {
 public:
  explicit CalibratedTime(const v1::OpTimes& times);

  // Of all calls. NOT_FOUND names the op and format that have no entry, and what to do.
  absl::StatusOr<double> Seconds(const model::OpCalls& calls) const;
  absl::StatusOr<double> Seconds(const model::OpCall& call) const;
  // Of `count` calls that take `flops` and `bytes` together.
  absl::StatusOr<double> Seconds(absl::string_view op, absl::string_view format, double count,
                                 double flops, double bytes) const;

 private:
  const v1::OpTime* Find(absl::string_view op, absl::string_view format) const;

  const v1::OpTimes times_;
  absl::flat_hash_map<std::string, const v1::OpTime*> by_name_;
};

}  // namespace fathom::planner

#endif  // FATHOM_COORDINATOR_PLANNER_CALIBRATION_CALIBRATED_TIME_H_
