// checkpoint list, show and verify.
#ifndef FATHOM_CLI_CHECKPOINT_VERBS_H_
#define FATHOM_CLI_CHECKPOINT_VERBS_H_

#include "absl/status/status.h"
#include "cli/options.h"
#include "cli/session.h"

namespace fathom::cli {

// Of a folder of checkpoints, or of a job by asking the coordinator for its folder.
absl::Status RunCheckpointList(const CheckpointOptions& options, Session& session);

// Of a manifest, the folder of one, or the newest of a folder of them. Their codes are those of
// checkpoint::ReadManifest and VerifyCheckpoint.
absl::Status RunCheckpointShow(const CheckpointOptions& options, Session& session);
absl::Status RunCheckpointVerify(const CheckpointOptions& options, Session& session);

}  // namespace fathom::cli

#endif  // FATHOM_CLI_CHECKPOINT_VERBS_H_
