#include "cli/node_watch.h"

#include <algorithm>
#include <ostream>

#include "absl/strings/str_cat.h"
#include "cli/exit_code.h"
#include "cli/render.h"
#include "common/base/status_util.h"

namespace fathom::cli {
namespace {

constexpr absl::Duration kLookEvery = absl::Milliseconds(100);
// How long a coordinator that was there before may stay away.
constexpr absl::Duration kPatience = absl::Seconds(60);

absl::StatusOr<v1::NodeStatus> FindNode(Session& session, const std::string& name) {
  FATHOM_ASSIGN_OR_RETURN(OperatorClient* const client, session.Client());
  FATHOM_ASSIGN_OR_RETURN(const v1::ListNodesResponse response,
                          client->ListNodes(v1::ListNodesRequest()));
  for (const v1::NodeStatus& node : response.nodes()) {
    if (node.node().name() == name) return node;
  }
  return absl::NotFoundError(absl::StrCat("no node ", name, "; see fathomctl get nodes"));
}

}  // namespace

absl::StatusOr<v1::NodeStatus> WatchNode(
    Session& session, const std::string& node, absl::Duration limit, const std::string& what,
    const std::function<absl::StatusOr<NodeLook>(const v1::NodeStatus&)>& look) {
  const Environment& environment = session.environment();
  const absl::Duration start = environment.clock->Steady();
  absl::Duration heard = -absl::InfiniteDuration();  // from the coordinator
  std::string shown;
  const auto show = [&](const std::string& line) {
    if (line.empty() || line == shown) return;
    session.notes() << line << std::endl;
    shown = line;
  };
  while (true) {
    const absl::Duration now = environment.clock->Steady();
    const absl::StatusOr<v1::NodeStatus> status = FindNode(session, node);
    if (status.ok()) {
      heard = now;
      FATHOM_ASSIGN_OR_RETURN(const NodeLook seen, look(*status));
      show(seen.progress);
      if (seen.done) return status;
    } else if (ExitCodeOf(status.status()) == kExitUnreachable && now - heard < kPatience) {
      show("the coordinator is away; waiting for it to come back");
      session.Reconnect();
    } else {
      return status.status();
    }
    if (now - start >= limit) {
      return absl::DeadlineExceededError(
          absl::StrCat("waited ", DurationText(absl::ToDoubleSeconds(limit)), " for ", what,
                       shown.empty() ? "" : " (", shown, shown.empty() ? "" : ")",
                       "; it goes on: fathomctl describe node ", node));
    }
    if (!environment.pause->For(kLookEvery)) {
      return absl::CancelledError(absl::StrCat("stopped waiting for ", what,
                                               "; it goes on: fathomctl describe node ", node));
    }
  }
}

}  // namespace fathom::cli
