// experts plan: where a model's experts should lie. Needs no coordinator.
#ifndef FATHOM_CLI_EXPERTS_VERBS_H_
#define FATHOM_CLI_EXPERTS_VERBS_H_

#include "absl/status/status.h"
#include "cli/options.h"
#include "cli/session.h"

namespace fathom::cli {

// LoadExpertsFile's and PlaceExperts' codes.
absl::Status RunExpertsPlan(const ExpertsOptions& options, Session& session);

}  // namespace fathom::cli

#endif  // FATHOM_CLI_EXPERTS_VERBS_H_
