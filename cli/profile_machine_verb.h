// profile: measures this machine by a short profile run (fathom-profile) and leaves what it found
// where plans of CPU jobs, and the local cluster's coordinator, look for it.
#ifndef FATHOM_CLI_PROFILE_MACHINE_VERB_H_
#define FATHOM_CLI_PROFILE_MACHINE_VERB_H_

#include "absl/status/status.h"
#include "cli/options.h"
#include "cli/session.h"

namespace fathom::cli {

// NOT_FOUND: there is no fathom-profile. INTERNAL: it failed; its own words stand above. Also codes
// of the file system.
absl::Status RunProfileMachine(const ProfileMachineOptions& options, Session& session);

}  // namespace fathom::cli

#endif  // FATHOM_CLI_PROFILE_MACHINE_VERB_H_
