// `fathomctl drain`, `replace`, `undrain`, `uncordon` and `cordon`: what operators decide about a
// node.
#ifndef FATHOM_CLI_NODE_VERBS_H_
#define FATHOM_CLI_NODE_VERBS_H_

#include "absl/status/status.h"
#include "cli/options.h"
#include "cli/session.h"

namespace fathom::cli {

// Of drain and replace. Says which ranks go where; with --wait returns when the node has none left.
// DEADLINE_EXCEEDED: it still had some; the drain goes on. ABORTED: somebody ended the drain.
absl::Status RunDrain(const NodeOptions& options, Session& session);
absl::Status RunUndrain(const NodeOptions& options, Session& session);
absl::Status RunCordon(const NodeOptions& options, Session& session);

}  // namespace fathom::cli

#endif  // FATHOM_CLI_NODE_VERBS_H_
