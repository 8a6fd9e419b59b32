#include "cli/get_verbs.h"

#include <algorithm>
#include <functional>
#include <ostream>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cli/exit_code.h"
#include "cli/job_description.h"
#include "cli/node_description.h"
#include "cli/render.h"
#include "cli/resources.h"
#include "common/base/status_util.h"

namespace fathom::cli {
namespace {

constexpr int kDescribedEvents = 20;
constexpr absl::Duration kShortestInterval = absl::Milliseconds(50);
// Home, and erase from there to the end: less flicker than erasing first.
constexpr char kClearScreen[] = "\x1b[H\x1b[2J";

using Renderer = std::function<absl::StatusOr<std::string>()>;

absl::Duration Interval(double seconds) {
  return std::max(absl::Seconds(seconds), kShortestInterval);
}

// Prints once, or again and again: in place on a terminal, elsewhere when something changed.
absl::Status Print(Session& session, bool again, absl::Duration interval, const Renderer& render) {
  const bool in_place = again && session.for_people() && session.environment().out_is_terminal;
  std::string shown;
  while (true) {
    absl::StatusOr<std::string> text = render();
    if (!text.ok() && (shown.empty() || ExitCodeOf(text.status()) != kExitUnreachable)) {
      return text.status();
    }
    // What was seen once is worth waiting for: the coordinator may be on its way back.
    if (!text.ok()) text = absl::StrCat(text.status().message(), "\n");
    if (in_place || *text != shown) {
      session.out() << (in_place ? kClearScreen : "") << *text << std::flush;
    }
    shown = *std::move(text);
    if (!again || !session.environment().pause->For(interval)) return absl::OkStatus();
  }
}

// Those of the wanted names, in that order; all if none is given.
template <typename Resource, typename Name>
absl::StatusOr<std::vector<Resource>> Select(std::vector<Resource> all,
                                             const std::vector<std::string>& names,
                                             const char* kind, const Name& is_called) {
  if (names.empty()) return all;
  std::vector<Resource> selected;
  for (const std::string& name : names) {
    // The newest of several.
    const auto found = std::find_if(all.rbegin(), all.rend(), [&](const Resource& resource) {
      return is_called(resource, name);
    });
    if (found == all.rend()) {
      return absl::NotFoundError(
          absl::StrCat("no ", kind, " ", name, "; see fathomctl get ", kind, "s"));
    }
    selected.push_back(*found);
  }
  return selected;
}

absl::StatusOr<std::vector<v1::JobStatus>> FetchJobs(Session& session, const GetOptions& options) {
  FATHOM_ASSIGN_OR_RETURN(OperatorClient* const client, session.Client());
  v1::ListJobsRequest request;
  request.set_limit(options.limit);
  FATHOM_ASSIGN_OR_RETURN(v1::ListJobsResponse response, client->ListJobs(request));
  std::vector<v1::JobStatus> jobs(response.jobs().begin(), response.jobs().end());
  return Select(std::move(jobs), options.names, "job",
                [](const v1::JobStatus& job, const std::string& name) {
                  return job.name() == name || job.id() == name;
                });
}

absl::StatusOr<std::vector<v1::NodeStatus>> FetchNodes(Session& session,
                                                       const std::vector<std::string>& names) {
  FATHOM_ASSIGN_OR_RETURN(OperatorClient* const client, session.Client());
  FATHOM_ASSIGN_OR_RETURN(v1::ListNodesResponse response,
                          client->ListNodes(v1::ListNodesRequest()));
  std::vector<v1::NodeStatus> nodes(response.nodes().begin(), response.nodes().end());
  return Select(std::move(nodes), names, "node",
                [](const v1::NodeStatus& node, const std::string& name) {
                  return node.node().name() == name;
                });
}

absl::StatusOr<std::vector<v1::Event>> FetchEvents(Session& session,
                                                   const v1::ListEventsRequest& request) {
  FATHOM_ASSIGN_OR_RETURN(OperatorClient* const client, session.Client());
  FATHOM_ASSIGN_OR_RETURN(v1::ListEventsResponse response, client->ListEvents(request));
  return std::vector<v1::Event>(response.events().begin(), response.events().end());
}

// Any job that waits knows the whole queue.
absl::StatusOr<std::vector<v1::QueueEntry>> FetchQueue(Session& session) {
  FATHOM_ASSIGN_OR_RETURN(OperatorClient* const client, session.Client());
  v1::ListJobsRequest list;
  list.add_states(v1::JOB_STATE_PENDING);
  list.add_states(v1::JOB_STATE_RECOVERING);
  list.set_limit(1);
  FATHOM_ASSIGN_OR_RETURN(const v1::ListJobsResponse waiting, client->ListJobs(list));
  if (waiting.jobs().empty()) return std::vector<v1::QueueEntry>();
  v1::ExplainJobRequest explain;
  explain.set_name(waiting.jobs(0).id());
  FATHOM_ASSIGN_OR_RETURN(const v1::ExplainJobResponse response, client->ExplainJob(explain));
  return std::vector<v1::QueueEntry>(response.queue().begin(), response.queue().end());
}

int64_t NowMs(const Session& session) { return session.environment().clock->WallMs(); }

absl::StatusOr<std::string> TopText(Session& session) {
  FATHOM_ASSIGN_OR_RETURN(const auto nodes, FetchNodes(session, {}));
  FATHOM_ASSIGN_OR_RETURN(const auto jobs, FetchJobs(session, GetOptions()));
  const Table node_table = NodeTable(nodes, NowMs(session));
  const Table job_table = JobTable(jobs, NowMs(session));
  if (session.for_people()) {
    return absl::StrCat("coordinator ", session.CoordinatorAddress(), "  ",
                        TimeText(NowMs(session)), "\n\n", RenderTable(node_table, session.format()),
                        "\n", RenderTable(job_table, session.format()));
  }
  if (session.format() == OutputFormat::kName) {
    return RenderTable(node_table, session.format()) + RenderTable(job_table, session.format());
  }
  Value node_list = Value::List();
  for (const Row& row : node_table.rows) node_list.Add(row.value);
  Value job_list = Value::List();
  for (const Row& row : job_table.rows) job_list.Add(row.value);
  Value value = Value::Object();
  value.Set("nodes", std::move(node_list)).Set("jobs", std::move(job_list));
  return RenderOne("", value, session.format());
}

}  // namespace

absl::Status RunGetJobs(const GetOptions& options, Session& session) {
  return Print(session, options.watch, Interval(options.interval_s),
               [&]() -> absl::StatusOr<std::string> {
                 FATHOM_ASSIGN_OR_RETURN(const auto jobs, FetchJobs(session, options));
                 return RenderTable(JobTable(jobs, NowMs(session)), session.format());
               });
}

absl::Status RunGetNodes(const GetOptions& options, Session& session) {
  return Print(session, options.watch, Interval(options.interval_s),
               [&]() -> absl::StatusOr<std::string> {
                 FATHOM_ASSIGN_OR_RETURN(const auto nodes, FetchNodes(session, options.names));
                 return RenderTable(NodeTable(nodes, NowMs(session)), session.format());
               });
}

absl::Status RunGetQueue(const GetOptions& options, Session& session) {
  return Print(session, options.watch, Interval(options.interval_s),
               [&]() -> absl::StatusOr<std::string> {
                 FATHOM_ASSIGN_OR_RETURN(const auto queue, FetchQueue(session));
                 return RenderTable(QueueTable(queue, NowMs(session)), session.format());
               });
}

absl::Status RunGetEvents(const GetOptions& options, Session& session) {
  v1::ListEventsRequest request;
  request.set_job(options.job);
  request.set_node(options.node);
  request.set_limit(options.limit);
  return Print(session, options.watch, Interval(options.interval_s),
               [&]() -> absl::StatusOr<std::string> {
                 FATHOM_ASSIGN_OR_RETURN(const auto events, FetchEvents(session, request));
                 return RenderTable(EventTable(events), session.format());
               });
}

absl::Status RunDescribeJob(const DescribeOptions& options, Session& session) {
  FATHOM_ASSIGN_OR_RETURN(OperatorClient* const client, session.Client());
  v1::GetJobRequest request;
  request.set_name(options.name);
  request.set_include_ranks(true);
  FATHOM_ASSIGN_OR_RETURN(const v1::JobStatus job, client->GetJob(request));
  v1::ListEventsRequest of_job;
  of_job.set_job(job.id());
  of_job.set_limit(kDescribedEvents);
  FATHOM_ASSIGN_OR_RETURN(const auto events, FetchEvents(session, of_job));
  session.out() << RenderOne(job.name(), JobDescription(job, events), session.format());
  return absl::OkStatus();
}

absl::Status RunDescribeNode(const DescribeOptions& options, Session& session) {
  FATHOM_ASSIGN_OR_RETURN(const auto nodes, FetchNodes(session, {options.name}));
  v1::ListEventsRequest of_node;
  of_node.set_node(options.name);
  of_node.set_limit(kDescribedEvents);
  FATHOM_ASSIGN_OR_RETURN(const auto events, FetchEvents(session, of_node));
  session.out() << RenderOne(options.name, NodeDescription(nodes[0], events), session.format());
  return absl::OkStatus();
}

absl::Status RunTop(const TopOptions& options, Session& session) {
  return Print(session, !options.once, Interval(options.interval_s),
               [&] { return TopText(session); });
}

}  // namespace fathom::cli
