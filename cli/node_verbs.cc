#include "cli/node_verbs.h"

#include <ostream>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "cli/node_watch.h"
#include "cli/render.h"
#include "cli/value.h"
#include "common/base/status_util.h"

namespace fathom::cli {
namespace {

Table DrainTable(const v1::DrainNodeResponse& response) {
  Table table;
  table.columns = {{"JOB"}, {"RANKS", false, true}, {"TO"}, {"NOTE"}};
  table.none = "no ranks to move";
  for (const v1::DrainedJob& job : response.jobs()) {
    Value to = Value::List();
    for (const std::string& node : job.to()) to.Add(node);
    Row row;
    row.name = job.job();
    row.cells = {job.job(), absl::StrCat(job.ranks()), absl::StrJoin(job.to(), ","), job.note()};
    row.value = Value::Object();
    row.value.Set("job", job.job()).Set("ranks", job.ranks()).Set("to", std::move(to));
    row.value.Set("note", TextOrNull(job.note()));
    table.rows.push_back(std::move(row));
  }
  return table;
}

void PrintDrain(const NodeOptions& options, const v1::DrainNodeResponse& response,
                Session& session) {
  const Table table = DrainTable(response);
  if (session.for_people()) {
    session.out() << "node " << options.node
                  << (options.dry_run ? " would be drained" : " is being drained")
                  << (response.note().empty() ? "" : ": ") << response.note() << "\n"
                  << RenderTable(table, session.format()) << std::flush;
    return;
  }
  Value jobs = Value::List();
  for (const Row& row : table.rows) jobs.Add(row.value);
  Value value = Value::Object();
  value.Set("node", options.node).Set("dry_run", options.dry_run);
  value.Set("jobs", std::move(jobs)).Set("note", TextOrNull(response.note()));
  session.out() << RenderOne(options.node, value, session.format()) << std::flush;
}

// "node-1: 2 ranks of sea-1 left".
std::string LeftText(const v1::NodeStatus& node) {
  std::set<std::string> jobs;
  for (const v1::NodeRank& rank : node.ranks()) jobs.insert(rank.job());
  return absl::StrCat(node.node().name(), ": ", node.ranks_size(), " ranks",
                      jobs.empty() ? "" : " of ", absl::StrJoin(jobs, ", "), ", ",
                      node.held_devices(), " devices held");
}

absl::Status AwaitEmpty(const NodeOptions& options, Session& session) {
  const absl::Duration limit =
      options.timeout_s > 0 ? absl::Seconds(options.timeout_s) : absl::InfiniteDuration();
  const auto look = [&](const v1::NodeStatus& node) -> absl::StatusOr<NodeLook> {
    if (node.ranks_size() == 0 && node.held_devices() == 0) {
      return NodeLook{true, absl::StrCat(options.node, ": drained")};
    }
    if (!node.admin().draining()) {
      return absl::AbortedError(absl::StrCat("the drain of ", options.node,
                                             " was ended by somebody; fathomctl get events --node ",
                                             options.node, " says by whom"));
    }
    return NodeLook{false, LeftText(node)};
  };
  return WatchNode(session, options.node, limit, absl::StrCat(options.node, " to be empty"), look)
      .status();
}

void PrintDone(const std::string& node, const char* done, const std::string& note,
               Session& session) {
  if (session.for_people()) {
    session.out() << "node " << node << " " << done << (note.empty() ? "" : ": ") << note << "\n";
    return;
  }
  Value value = Value::Object();
  value.Set("node", node).Set("note", TextOrNull(note));
  session.out() << RenderOne(node, value, session.format());
}

}  // namespace

absl::Status RunDrain(const NodeOptions& options, Session& session) {
  v1::DrainNodeRequest request;
  request.set_node(options.node);
  request.set_reason(options.reason);
  request.set_actor(session.Actor(options.actor));
  request.set_deadline_s(options.deadline_s);
  request.set_dry_run(options.dry_run);
  request.set_replacement(options.replacement);
  request.set_request_id(session.RequestId());
  FATHOM_ASSIGN_OR_RETURN(OperatorClient* const client, session.Client());
  FATHOM_ASSIGN_OR_RETURN(const v1::DrainNodeResponse response, client->DrainNode(request));
  PrintDrain(options, response, session);
  return options.wait && !options.dry_run ? AwaitEmpty(options, session) : absl::OkStatus();
}

absl::Status RunUndrain(const NodeOptions& options, Session& session) {
  v1::UndrainNodeRequest request;
  request.set_node(options.node);
  request.set_actor(session.Actor(options.actor));
  request.set_request_id(session.RequestId());
  FATHOM_ASSIGN_OR_RETURN(OperatorClient* const client, session.Client());
  FATHOM_ASSIGN_OR_RETURN(const v1::UndrainNodeResponse response, client->UndrainNode(request));
  PrintDone(options.node, "may serve again", response.note(), session);
  return absl::OkStatus();
}

absl::Status RunCordon(const NodeOptions& options, Session& session) {
  v1::CordonNodeRequest request;
  request.set_node(options.node);
  request.set_reason(options.reason);
  request.set_actor(session.Actor(options.actor));
  request.set_request_id(session.RequestId());
  FATHOM_ASSIGN_OR_RETURN(OperatorClient* const client, session.Client());
  FATHOM_ASSIGN_OR_RETURN(const v1::CordonNodeResponse response, client->CordonNode(request));
  PrintDone(options.node, "gets no new ranks", response.note(), session);
  return absl::OkStatus();
}

}  // namespace fathom::cli
