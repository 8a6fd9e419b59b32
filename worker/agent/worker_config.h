// The daemon's configuration, completed: fields left out get their defaults, the rest is checked,
// so that a mistake is one clear line at the start. Asks nothing of the machine.
#ifndef FATHOM_WORKER_AGENT_WORKER_CONFIG_H_
#define FATHOM_WORKER_AGENT_WORKER_CONFIG_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "proto/fathom/v1/config.pb.h"

namespace fathom {

// What defaults rest on.
struct HostFacts {
  std::string host_name;
  std::string program_folder;  // where this program lies
  int cores = 0;               // that it may run on
};

// INVALID_ARGUMENT names the field, its value and what is allowed.
absl::Status CompleteWorkerConfig(const HostFacts& host, v1::WorkerConfig* config);

// Where another program of the worker's may lie when nobody says: beside this one, or where Bazel
// builds it, such as "engine/fathom-rank".
std::string ProgramBeside(absl::string_view program_folder, absl::string_view package_and_name);
std::string ProgramOfBuild(absl::string_view program_folder, absl::string_view package_and_name);

// Where others reach what listens at `bound`: its own host, unless that is "any", and then `host`.
std::string ReachableAddress(const std::string& bound, const std::string& host);

}  // namespace fathom

#endif  // FATHOM_WORKER_AGENT_WORKER_CONFIG_H_
