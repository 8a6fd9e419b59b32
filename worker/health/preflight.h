// Whether this node may serve: every check in turn, on at most one core, in about a second, and the
// verdict. A check that fails does not keep the next from running: the report tells all.
#ifndef FATHOM_WORKER_HEALTH_PREFLIGHT_H_
#define FATHOM_WORKER_HEALTH_PREFLIGHT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "common/base/clock.h"
#include "kernels/ops.h"
#include "proto/fathom/v1/cluster.pb.h"
#include "proto/fathom/v1/worker.pb.h"
#include "worker/health/compute_check.h"
#include "worker/health/link_check.h"

namespace fathom::health {

struct PreflightOptions {
  v1::PreflightRequest request;  // its id "start" for the one at the daemon's start
  std::string state_directory;   // whose disk is checked; empty: none
  ComputeCheckOptions compute;
  LinkCheckOptions link;
  int64_t memory_bytes = 64 << 20;
  int64_t disk_bytes = 8 << 20;
  uint64_t seed = 1;
};

struct PreflightDevices {
  kernels::Ops* ops = nullptr;        // what ranks compute with
  kernels::Ops* reference = nullptr;  // what is right
};

v1::PreflightReport RunPreflight(const PreflightOptions& options, const PreflightDevices& devices,
                                 const Clock* clock);

}  // namespace fathom::health

#endif  // FATHOM_WORKER_HEALTH_PREFLIGHT_H_
