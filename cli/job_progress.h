// Following a job: one line that changes in place on a terminal, plain lines elsewhere.
#ifndef FATHOM_CLI_JOB_PROGRESS_H_
#define FATHOM_CLI_JOB_PROGRESS_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cli/session.h"
#include "proto/fathom/v1/operator.pb.h"

namespace fathom::cli {

// "tiny RUNNING  step 120/400  loss 2.5131  12.3k tokens/s  ETA 1m02s"
std::string ProgressLine(const v1::JobStatus& job);

// Follows the job until it ends and shows how it goes. A coordinator that goes away is waited for.
// Its codes, and DEADLINE_EXCEEDED after `timeout`; CANCELLED: the user interrupted (the job goes
// on).
absl::StatusOr<v1::JobStatus> FollowJob(Session& session, const std::string& name,
                                        absl::Duration timeout);

// OK for COMPLETED, else what the job ended with.
absl::Status JobOutcome(const v1::JobStatus& job);

}  // namespace fathom::cli

#endif  // FATHOM_CLI_JOB_PROGRESS_H_
