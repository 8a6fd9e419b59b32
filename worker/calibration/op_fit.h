// From measured calls to op times: for each op and format the formula of v1::OpTimes that fits
// best.
#ifndef FATHOM_WORKER_CALIBRATION_OP_FIT_H_
#define FATHOM_WORKER_CALIBRATION_OP_FIT_H_

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/types/span.h"
#include "proto/fathom/v1/hardware.pb.h"
#include "worker/calibration/metered_ops.h"

namespace fathom::calibration {

// One shape of one op in a training run.
struct TypicalCall {
  double seconds = 0;  // each
  double calls = 0;    // how often, in a step
};
using TypicalCalls = absl::flat_hash_map<OpShape, TypicalCall>;

// Mean of a shape's calls without those that something else on the machine interrupted: more than
// three times the median.
double TypicalSeconds(std::vector<float> samples);

// Of one round of a run, so many steps long. `meter_seconds`: of a reading of the clock, taken off
// every sample.
TypicalCalls TypicalOf(const OpSamples& samples, double meter_seconds, int64_t steps);

// Of all rounds of a run: the median over rounds of each shape's seconds, so that a round in which
// the machine was slower counts no more than others.
TypicalCalls MedianOf(absl::Span<const TypicalCalls> rounds);

// Of a step.
double TotalSeconds(const TypicalCalls& calls);

// `runs`: each counts alike. By op and format, in the order of their names.
std::vector<v1::OpTime> FitOps(absl::Span<const TypicalCalls> runs);

// Of values in any order; of an even number, the mean of the two in the middle; of none, 0.
double Median(std::vector<double> values);

}  // namespace fathom::calibration

#endif  // FATHOM_WORKER_CALIBRATION_OP_FIT_H_
