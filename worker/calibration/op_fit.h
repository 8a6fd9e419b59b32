// From measured calls to op times: for each op and format the formula of v1::OpTimes that fits
// best.
#ifndef FATHOM_WORKER_CALIBRATION_OP_FIT_H_
#define FATHOM_WORKER_CALIBRATION_OP_FIT_H_

#include <vector>

#include "absl/types/span.h"
#include "proto/fathom/v1/hardware.pb.h"
#include "worker/calibration/metered_ops.h"

namespace fathom::calibration {

// Mean of a shape's calls without those that something else on the machine interrupted: more than
// three times the median.
double TypicalSeconds(std::vector<float> samples);

// `runs`: what each training run measured; each counts alike. `meter_seconds`: of a reading of the
// clock, taken off every sample. By op and format, in the order of their names.
std::vector<v1::OpTime> FitOps(absl::Span<const OpSamples* const> runs, double meter_seconds);

// Seconds that the samples took in all.
double TotalSeconds(const OpSamples& samples, double meter_seconds);

}  // namespace fathom::calibration

#endif  // FATHOM_WORKER_CALIBRATION_OP_FIT_H_
