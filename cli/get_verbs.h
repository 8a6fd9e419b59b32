// get, describe and top: what the coordinator knows.
#ifndef FATHOM_CLI_GET_VERBS_H_
#define FATHOM_CLI_GET_VERBS_H_

#include "absl/status/status.h"
#include "cli/options.h"
#include "cli/session.h"

namespace fathom::cli {

// The coordinator's codes, and NOT_FOUND: a name that isn't there.
absl::Status RunGetJobs(const GetOptions& options, Session& session);
absl::Status RunGetNodes(const GetOptions& options, Session& session);
absl::Status RunGetQueue(const GetOptions& options, Session& session);
absl::Status RunGetEvents(const GetOptions& options, Session& session);
absl::Status RunDescribeJob(const DescribeOptions& options, Session& session);
absl::Status RunDescribeNode(const DescribeOptions& options, Session& session);
absl::Status RunTop(const TopOptions& options, Session& session);

}  // namespace fathom::cli

#endif  // FATHOM_CLI_GET_VERBS_H_
