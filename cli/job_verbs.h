// submit, cancel and wait.
#ifndef FATHOM_CLI_JOB_VERBS_H_
#define FATHOM_CLI_JOB_VERBS_H_

#include "absl/status/status.h"
#include "cli/options.h"
#include "cli/session.h"
#include "proto/fathom/v1/job.pb.h"

namespace fathom::cli {

// Checks the file here, sends it, says what came of it; follows the job if asked to. LoadJobFile's
// codes, the coordinator's, those of its token file, and ABORTED: the job ended otherwise than
// COMPLETED.
absl::Status RunSubmit(const SubmitOptions& options, Session& session);

absl::Status RunCancel(const CancelOptions& options, Session& session);

// ABORTED: it ended otherwise than COMPLETED. DEADLINE_EXCEEDED.
absl::Status RunWait(const WaitOptions& options, Session& session);

// What can be known of a job's token file on this machine: that it is one, that its ids are in the
// model's vocabulary, that each part holds a sequence. NOT_FOUND: it isn't here.
absl::Status CheckTokenFile(const v1::JobSpec& spec);

}  // namespace fathom::cli

#endif  // FATHOM_CLI_JOB_VERBS_H_
