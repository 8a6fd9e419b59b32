// The command line of fathom-preflight, both ways: parsed by it, written by the daemon.
#ifndef FATHOM_WORKER_HEALTH_PREFLIGHT_FLAGS_H_
#define FATHOM_WORKER_HEALTH_PREFLIGHT_FLAGS_H_

#include <optional>

#include "absl/status/statusor.h"
#include "worker/health/preflight.h"
#include "worker/health/signals.h"

namespace fathom::health {

struct PreflightFlags {
  bool signals = false;  // probe the system's signals instead
  PreflightOptions preflight;
  SignalOptions probe;
};

// Nothing: help was asked for, and printed. INVALID_ARGUMENT: no such flag, or a bad value.
absl::StatusOr<std::optional<PreflightFlags>> ParsePreflightFlags(int argc,
                                                                  const char* const* argv);

}  // namespace fathom::health

#endif  // FATHOM_WORKER_HEALTH_PREFLIGHT_FLAGS_H_
