// logs: what a rank wrote.
#ifndef FATHOM_CLI_LOGS_VERB_H_
#define FATHOM_CLI_LOGS_VERB_H_

#include "absl/status/status.h"
#include "cli/options.h"
#include "cli/session.h"

namespace fathom::cli {

// The coordinator's codes and FetchLog's. NOT_FOUND: no such job, rank, node or log.
absl::Status RunLogs(const LogsOptions& options, Session& session);

}  // namespace fathom::cli

#endif  // FATHOM_CLI_LOGS_VERB_H_
