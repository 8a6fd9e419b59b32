#include "cli/preflight_verb.h"

#include <ostream>
#include <string>

#include "absl/strings/str_cat.h"
#include "cli/node_description.h"
#include "cli/node_watch.h"
#include "cli/render.h"
#include "cli/resources.h"
#include "common/base/status_util.h"

namespace fathom::cli {
namespace {

void PrintReport(const std::string& node, const v1::PreflightReport& report, Session& session) {
  if (session.for_people()) {
    session.out() << RenderTable(PreflightTable(report), session.format()) << "node " << node
                  << (report.passed() ? " passed" : " did not pass")
                  << (report.verdict().empty() ? "" : ": ") << report.verdict() << "\n";
    return;
  }
  Value value = Value::Object();
  value.Set("node", node).Set("preflight", PreflightValue(report));
  session.out() << RenderOne(node, value, session.format());
}

}  // namespace

absl::Status RunPreflight(const NodeOptions& options, Session& session) {
  v1::PreflightNodeRequest request;
  request.set_node(options.node);
  request.set_actor(session.Actor(options.actor));
  request.set_request_id(session.RequestId());
  FATHOM_ASSIGN_OR_RETURN(OperatorClient* const client, session.Client());
  FATHOM_ASSIGN_OR_RETURN(const v1::PreflightNodeResponse response, client->PreflightNode(request));
  const std::string id = response.id();
  if (!options.wait) {
    if (session.for_people()) {
      session.out() << "preflight " << id << " of node " << options.node
                    << " asked for; fathomctl describe node " << options.node << " shows it\n";
      return absl::OkStatus();
    }
    Value value = Value::Object();
    value.Set("node", options.node).Set("id", id);
    session.out() << RenderOne(options.node, value, session.format());
    return absl::OkStatus();
  }
  const absl::Duration limit =
      options.timeout_s > 0 ? absl::Seconds(options.timeout_s) : absl::InfiniteDuration();
  const auto look = [&](const v1::NodeStatus& node) -> absl::StatusOr<NodeLook> {
    if (node.preflight().id() == id && node.preflight().finished_ms() > 0) {
      return NodeLook{true, ""};
    }
    if (node.state() == v1::NODE_STATE_LOST) {
      return absl::AbortedError(absl::StrCat(
          "node ", options.node, " was lost before its preflight was done: ", node.reason()));
    }
    return NodeLook{false, absl::StrCat(options.node, " tests itself")};
  };
  FATHOM_ASSIGN_OR_RETURN(const v1::NodeStatus node,
                          WatchNode(session, options.node, limit,
                                    absl::StrCat("the preflight of ", options.node), look));
  PrintReport(options.node, node.preflight(), session);
  if (node.preflight().passed()) return absl::OkStatus();
  return absl::AbortedError(absl::StrCat(
      "node ", options.node, " did not pass its preflight: ", node.preflight().verdict()));
}

}  // namespace fathom::cli
