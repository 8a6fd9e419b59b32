// trace: when each instruction of a job's step ran, beside what the planner expected of it.
#ifndef FATHOM_CLI_TRACE_VERB_H_
#define FATHOM_CLI_TRACE_VERB_H_

#include "absl/status/status.h"
#include "cli/options.h"
#include "cli/session.h"

namespace fathom::cli {

// The coordinator's codes and FetchTimeline's. NOT_FOUND: no such job or lane, or no rank has
// recorded a step yet. Also those of writing the files asked for.
absl::Status RunTrace(const TraceOptions& options, Session& session);

}  // namespace fathom::cli

#endif  // FATHOM_CLI_TRACE_VERB_H_
