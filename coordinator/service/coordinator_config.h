// The coordinator's settings: from the command line and a file, completed with defaults, and
// checked.
#ifndef FATHOM_COORDINATOR_SERVICE_COORDINATOR_CONFIG_H_
#define FATHOM_COORDINATOR_SERVICE_COORDINATOR_CONFIG_H_

#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/fathom/v1/config.pb.h"
#include "proto/fathom/v1/hardware.pb.h"

namespace fathom {

// A flag for every field of CoordinatorConfig, and --config for a YAML file of the same fields,
// over which the flags win. Nothing: help was asked for, and printed. INVALID_ARGUMENT: no such
// flag, or a bad value. Also LoadYamlFile's codes.
absl::StatusOr<std::optional<v1::CoordinatorConfig>> ParseCoordinatorFlags(int argc,
                                                                           const char* const* argv);

// Fills in what was left out. INVALID_ARGUMENT names the flag: a bad address or time, no state
// directory, a mode or quota that makes no sense, TLS files that don't belong together, or a listen
// address beyond loopback without TLS.
absl::Status CompleteCoordinatorConfig(v1::CoordinatorConfig* config);

// The files of `device_profiles`, checked. LoadYamlFile's and CheckProfile's codes.
absl::StatusOr<std::vector<v1::DeviceProfile>> LoadProfiles(const v1::CoordinatorConfig& config);

}  // namespace fathom

#endif  // FATHOM_COORDINATOR_SERVICE_COORDINATOR_CONFIG_H_
