// The formula of v1::OpTimes: seconds of calls by an entry of it.
#ifndef FATHOM_COMMON_CALIBRATION_OP_TIME_FORMULA_H_
#define FATHOM_COMMON_CALIBRATION_OP_TIME_FORMULA_H_

#include "common/model/layer_ops.h"
#include "proto/fathom/v1/hardware.pb.h"

namespace fathom::calibration {

// `count` calls of one shape; the other sums are of all of them together.
struct CallSums {
  double count = 1;
  double flops = 0;
  double bytes = 0;
  double operand_elements = 0;  // k * n of products; m * k * heads of attention
  double rows = 0;              // of all others
};
CallSums SumsOf(const model::OpCall& call);

// With a count of 0, what the sums alone take.
double SecondsOf(const v1::OpTime& entry, const CallSums& calls);

}  // namespace fathom::calibration

#endif  // FATHOM_COMMON_CALIBRATION_OP_TIME_FORMULA_H_
