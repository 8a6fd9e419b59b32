// Looks at one node again and again until something holds, with a line at every change: what
// `drain --wait` and `preflight --wait` have in common.
#ifndef FATHOM_CLI_NODE_WATCH_H_
#define FATHOM_CLI_NODE_WATCH_H_

#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cli/session.h"
#include "proto/fathom/v1/operator.pb.h"

namespace fathom::cli {

struct NodeLook {
  bool done = false;
  std::string progress;  // printed when it changes
};

// The node as it was when `look` said done, or `look`'s failure. NOT_FOUND: no such node.
// DEADLINE_EXCEEDED: not done within the limit; `what` says what was awaited. A coordinator that
// was there before may stay away for a minute.
absl::StatusOr<v1::NodeStatus> WatchNode(
    Session& session, const std::string& node, absl::Duration limit, const std::string& what,
    const std::function<absl::StatusOr<NodeLook>(const v1::NodeStatus&)>& look);

}  // namespace fathom::cli

#endif  // FATHOM_CLI_NODE_WATCH_H_
