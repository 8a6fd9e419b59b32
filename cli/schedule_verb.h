// schedule: what every rank of a pipeline does in a step, and how long that takes. Needs no
// coordinator.
#ifndef FATHOM_CLI_SCHEDULE_VERB_H_
#define FATHOM_CLI_SCHEDULE_VERB_H_

#include "absl/status/status.h"
#include "cli/options.h"
#include "cli/session.h"

namespace fathom::cli {

// INVALID_ARGUMENT: costs that can't be read, an unknown kind, or numbers that the kind doesn't
// take; the message says the rule.
absl::Status RunSchedule(const ScheduleOptions& options, Session& session);

}  // namespace fathom::cli

#endif  // FATHOM_CLI_SCHEDULE_VERB_H_
