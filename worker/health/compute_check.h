// How fast this machine multiplies matrices, and whether the products are right.
//
// Rate: bursts of one square product of a few milliseconds, shorter than a scheduler's slice, and
// the best of them counts: a neighbour's load costs bursts, a slow core costs them all. Throttling
// that comes and goes within the budget is not seen.
//
// Correctness: seeded inputs, multiplied by the backend on each CPU that this process may use, and
// compared with the plain reference op within kernels/tolerances.h. A core that computes wrongly is
// named. On FP32 products a wrong bit shows from 2^-18 of the largest element upwards.
#ifndef FATHOM_WORKER_HEALTH_COMPUTE_CHECK_H_
#define FATHOM_WORKER_HEALTH_COMPUTE_CHECK_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "absl/types/span.h"
#include "common/base/clock.h"
#include "kernels/ops.h"
#include "proto/fathom/v1/cluster.pb.h"

namespace fathom::health {

struct ComputeCheckOptions {
  int devices = 1;
  int64_t rate_edge = 384;                             // of the square product that is timed
  absl::Duration rate_time = absl::Milliseconds(400);  // all devices and types together
  int64_t correctness_edge = 64;
  absl::Duration correctness_time = absl::Milliseconds(200);  // CPUs beyond it are left out
  uint64_t seed = 1;
};

// compute_rate_fp32 and compute_rate_bf16, in GFLOP/s, of each device in turn.
std::vector<v1::PreflightCheck> CheckComputeRate(const ComputeCheckOptions& options,
                                                 kernels::Ops* ops, const Clock* clock);

// compute_correctness: one check that passed for all CPUs, its value how many were tried; or one
// for each CPU that failed. The thread's CPU affinity is as before afterwards.
std::vector<v1::PreflightCheck> CheckComputeCorrectness(const ComputeCheckOptions& options,
                                                        kernels::Ops* ops, kernels::Ops* reference,
                                                        const Clock* clock);

// What is wrong with a product of this type: the worst element, or one that is no number. Nothing:
// all within tolerance. Both row-major and of equal size.
std::optional<std::string> CompareProducts(absl::Span<const float> want,
                                           absl::Span<const float> got, kernels::DType type);

}  // namespace fathom::health

#endif  // FATHOM_WORKER_HEALTH_COMPUTE_CHECK_H_
