// `fathomctl suspend`, `resume` and `explain`: a job's place in the queue.
#ifndef FATHOM_CLI_QUEUE_VERBS_H_
#define FATHOM_CLI_QUEUE_VERBS_H_

#include "absl/status/status.h"
#include "cli/options.h"
#include "cli/session.h"

namespace fathom::cli {

absl::Status RunSuspend(const QueueOptions& options, Session& session);
absl::Status RunResume(const QueueOptions& options, Session& session);
absl::Status RunExplain(const QueueOptions& options, Session& session);

}  // namespace fathom::cli

#endif  // FATHOM_CLI_QUEUE_VERBS_H_
