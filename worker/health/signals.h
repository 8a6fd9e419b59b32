// One look at the system's own signals of trouble: what NVML, sysfs, the kernel's log and the state
// folder's disk say right now, as absolute values. What they mean is for signal_history.h, which
// knows the looks before. Any of the reads may hang; do it in a process that can be killed.
#ifndef FATHOM_WORKER_HEALTH_SIGNALS_H_
#define FATHOM_WORKER_HEALTH_SIGNALS_H_

#include <cstdint>
#include <string>

#include "proto/fathom/v1/cluster.pb.h"
#include "worker/health/nvml_probe.h"

namespace fathom::health {

struct SignalOptions {
  std::string root = "/";  // that sys and dev lie in; ends in '/'
  std::string nvml_library = kNvmlLibrary;
  int64_t log_after = -1;            // newest record of the kernel's log seen before
  std::string state_directory = {};  // of the disk signal; empty: none
};

v1::NodeHealth ProbeSignals(const SignalOptions& options);

}  // namespace fathom::health

#endif  // FATHOM_WORKER_HEALTH_SIGNALS_H_
