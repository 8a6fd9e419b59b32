// local up, down and status: a coordinator and node daemons as background processes of this
// machine.
//
// State folder: cluster.json (what was started), coordinator/, node-<i>/, spare-<i>/ (each daemon's
// own state) and logs/. `up` is idempotent: it starts what doesn't run and says what does.
#ifndef FATHOM_CLI_LOCAL_VERBS_H_
#define FATHOM_CLI_LOCAL_VERBS_H_

#include "absl/status/status.h"
#include "cli/options.h"
#include "cli/session.h"

namespace fathom::cli {

// FAILED_PRECONDITION: it runs already, of another shape. NOT_FOUND: no daemon binaries.
// UNAVAILABLE: a daemon ended while it started, with its last words. DEADLINE_EXCEEDED.
absl::Status RunLocalUp(const LocalUpOptions& options, Session& session);

// NOT_FOUND: no cluster was started here. OK when it is down already.
absl::Status RunLocalDown(const LocalDownOptions& options, Session& session);

// UNAVAILABLE, after the table: some daemon doesn't run.
absl::Status RunLocalStatus(Session& session);

}  // namespace fathom::cli

#endif  // FATHOM_CLI_LOCAL_VERBS_H_
