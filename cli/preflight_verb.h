// `fathomctl preflight`: asks a node to test itself, and shows what came of it.
#ifndef FATHOM_CLI_PREFLIGHT_VERB_H_
#define FATHOM_CLI_PREFLIGHT_VERB_H_

#include "absl/status/status.h"
#include "cli/options.h"
#include "cli/session.h"

namespace fathom::cli {

// With --wait ABORTED: the node did not pass, or was lost meanwhile.
absl::Status RunPreflight(const NodeOptions& options, Session& session);

}  // namespace fathom::cli

#endif  // FATHOM_CLI_PREFLIGHT_VERB_H_
