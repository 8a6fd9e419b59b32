// get profiles: what the built-in kinds of device can do, each figure with its source. Needs no
// coordinator.
#ifndef FATHOM_CLI_PROFILE_VERBS_H_
#define FATHOM_CLI_PROFILE_VERBS_H_

#include "absl/status/status.h"
#include "cli/options.h"
#include "cli/session.h"

namespace fathom::cli {

// INVALID_ARGUMENT: no such kind; names the nearest.
absl::Status RunGetProfiles(const GetOptions& options, Session& session);

}  // namespace fathom::cli

#endif  // FATHOM_CLI_PROFILE_VERBS_H_
