#include "cli/logs_verb.h"

#include <algorithm>
#include <limits>
#include <ostream>
#include <string>

#include "absl/strings/str_cat.h"
#include "cli/log_fetch.h"
#include "cli/resources.h"
#include "common/base/status_util.h"

namespace fathom::cli {
namespace {

constexpr absl::Duration kFollowEvery = absl::Milliseconds(300);

// One rank's log in one epoch, and whether more of it may come.
struct LogPlace {
  std::string job;  // its id
  std::string metrics_address;
  std::string node;
  uint64_t epoch = 0;
  bool job_ended = false;
};

absl::StatusOr<LogPlace> FindLog(const LogsOptions& options, Session& session) {
  FATHOM_ASSIGN_OR_RETURN(OperatorClient* const client, session.Client());
  v1::GetJobRequest request;
  request.set_name(options.job);
  FATHOM_ASSIGN_OR_RETURN(const v1::JobStatus job, client->GetJob(request));
  if (!job.has_plan()) {
    return absl::NotFoundError(absl::StrCat("job ", job.name(), " is ", StateText(job.state()),
                                            " and has no ranks yet: ", job.reason()));
  }
  const auto& ranks = job.plan().ranks();
  const auto rank = std::find_if(ranks.begin(), ranks.end(), [&](const v1::RankAssignment& one) {
    return one.rank() == options.rank;
  });
  if (rank == ranks.end()) {
    return absl::NotFoundError(absl::StrCat("job ", job.name(), " has no rank ", options.rank,
                                            "; its ranks are 0 to ", ranks.size() - 1));
  }
  FATHOM_ASSIGN_OR_RETURN(const v1::ListNodesResponse nodes,
                          client->ListNodes(v1::ListNodesRequest()));
  for (const v1::NodeStatus& node : nodes.nodes()) {
    if (node.node().name() != rank->node()) continue;
    LogPlace place;
    place.job = job.plan().job().empty() ? job.id() : job.plan().job();
    place.metrics_address = node.node().metrics_address();
    place.node = rank->node();
    place.epoch = options.epoch > 0 ? static_cast<uint64_t>(options.epoch) : job.plan().epoch();
    place.job_ended = HasEnded(job.state());
    return place;
  }
  return absl::NotFoundError(absl::StrCat("rank ", options.rank, " of job ", job.name(),
                                          " was on node ", rank->node(),
                                          ", which the coordinator no longer knows"));
}

}  // namespace

absl::Status RunLogs(const LogsOptions& options, Session& session) {
  int64_t from = 0;
  uint64_t epoch = 0;
  bool seek_tail = options.tail_bytes >= 0;
  while (true) {
    FATHOM_ASSIGN_OR_RETURN(const LogPlace place, FindLog(options, session));
    if (epoch != 0 && place.epoch != epoch) {
      session.notes() << "--- epoch " << place.epoch << " on node " << place.node << " ---\n";
      from = 0;
    }
    epoch = place.epoch;
    // Beyond its end a log has no bytes, but it tells its size.
    const auto part = FetchLog(place.metrics_address, place.job, place.epoch, options.rank,
                               seek_tail ? std::numeric_limits<int64_t>::max() : from);
    // A rank that is about to start has no log yet.
    const bool may_come = options.follow && !place.job_ended && absl::IsNotFound(part.status());
    if (!part.ok() && !may_come) return part.status();
    if (part.ok() && seek_tail) {
      from = std::max<int64_t>(part->size - options.tail_bytes, 0);
      seek_tail = false;
      continue;
    }
    if (part.ok() && !part->text.empty()) {
      session.out() << part->text << std::flush;
      from += static_cast<int64_t>(part->text.size());
      // A node answers with a bounded part of what there is.
      if (from < part->size) continue;
    }
    if (!options.follow || place.job_ended) return absl::OkStatus();
    if (!session.environment().pause->For(kFollowEvery)) return absl::OkStatus();
  }
}

}  // namespace fathom::cli
