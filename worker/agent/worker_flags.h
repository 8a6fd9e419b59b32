// The command line of fathom-worker: a flag for every field of WorkerConfig, and --config for a
// YAML file of the same fields, over which the flags win.
#ifndef FATHOM_WORKER_AGENT_WORKER_FLAGS_H_
#define FATHOM_WORKER_AGENT_WORKER_FLAGS_H_

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "proto/fathom/v1/config.pb.h"

namespace fathom {

// As given; CompleteWorkerConfig adds the rest. Nothing: help was asked for, and printed.
// INVALID_ARGUMENT: no such flag, or a bad value. Also LoadYamlFile's codes.
absl::StatusOr<std::optional<v1::WorkerConfig>> ParseWorkerFlags(int argc, const char* const* argv);

}  // namespace fathom

#endif  // FATHOM_WORKER_AGENT_WORKER_FLAGS_H_
