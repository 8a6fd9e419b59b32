// whatif kill, drain and cluster: what would become of a job if nodes died or were drained, or if
// it ran on another cluster. Needs no coordinator.
#ifndef FATHOM_CLI_WHATIF_VERB_H_
#define FATHOM_CLI_WHATIF_VERB_H_

#include <string>

#include "absl/status/status.h"
#include "cli/options.h"
#include "cli/session.h"
#include "proto/fathom/v1/prediction.pb.h"

namespace fathom::cli {

// Codes as RunPlan's. INVALID_ARGUMENT: a node that the cluster hasn't got (the nearest is named),
// or one twice.
absl::Status RunWhatIfKill(const WhatIfOptions& options, Session& session);
absl::Status RunWhatIfDrain(const WhatIfOptions& options, Session& session);
absl::Status RunWhatIfCluster(const WhatIfOptions& options, Session& session);

// The answer as a page that people read.
std::string WhatIfPage(const v1::WhatIf& answer);

}  // namespace fathom::cli

#endif  // FATHOM_CLI_WHATIF_VERB_H_
