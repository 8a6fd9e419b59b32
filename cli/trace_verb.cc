#include "cli/trace_verb.h"

#include <algorithm>
#include <map>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/chrome_trace.h"
#include "cli/pipeline_svg.h"
#include "cli/prediction_report.h"
#include "cli/render.h"
#include "cli/timeline_fetch.h"
#include "cli/value.h"
#include "common/base/atomic_file.h"
#include "common/base/status_util.h"
#include "common/plan/plan_layout.h"

namespace fathom::cli {
namespace {

constexpr absl::Duration kBetweenTries = absl::Milliseconds(200);
constexpr int kTries = 25;

class Tracer {
 public:
  Tracer(const TraceOptions& options, Session& session) : options_(options), session_(session) {}

  absl::Status Run() {
    FATHOM_RETURN_IF_ERROR(FindJob());
    FATHOM_RETURN_IF_ERROR(ChooseRanks());
    FATHOM_RETURN_IF_ERROR(Collect());
    FATHOM_RETURN_IF_ERROR(WriteFiles());
    Print();
    return absl::OkStatus();
  }

 private:
  absl::Status FindJob() {
    FATHOM_ASSIGN_OR_RETURN(OperatorClient* const client, session_.Client());
    v1::GetJobRequest request;
    request.set_name(options_.job);
    request.set_include_ranks(true);
    FATHOM_ASSIGN_OR_RETURN(job_, client->GetJob(request));
    if (!job_.has_plan()) {
      return absl::NotFoundError(
          absl::StrCat("job ", job_.name(), " has not run yet: ", job_.reason()));
    }
    FATHOM_ASSIGN_OR_RETURN(const v1::ListNodesResponse nodes,
                            client->ListNodes(v1::ListNodesRequest()));
    for (const v1::NodeStatus& node : nodes.nodes()) {
      address_of_[node.node().name()] = node.node().metrics_address();
    }
    return absl::OkStatus();
  }

  absl::Status ChooseRanks() {
    const v1::Plan& plan = job_.plan();
    const int lanes = plan::LaneCount(plan);
    if (options_.lane < 0 || options_.lane >= lanes) {
      return absl::NotFoundError(absl::StrCat("job ", job_.name(), " has no lane ", options_.lane,
                                              "; its lanes are 0 to ", lanes - 1));
    }
    ranks_ = options_.all ? plan::AllRanks(plan) : plan::RanksOfLane(plan, options_.lane);
    return absl::OkStatus();
  }

  // The ranks finish a step within moments of each other, and keep a new one every second.
  absl::Status Collect() {
    absl::Status last;
    for (int i = 0; i < kTries; ++i) {
      if (i > 0 && !session_.environment().pause->For(kBetweenTries)) break;
      absl::StatusOr<v1::Timeline> timeline = CollectOnce();
      if (timeline.ok()) {
        timeline_ = *std::move(timeline);
        return absl::OkStatus();
      }
      last = timeline.status();
      const bool may_come = absl::IsFailedPrecondition(last) ||
                            (absl::IsNotFound(last) && job_.state() == v1::JOB_STATE_RUNNING);
      if (!may_come) break;
    }
    return absl::IsNotFound(last)
               ? WithContext(last, absl::StrCat("job ", job_.name(), " has recorded no step yet"))
               : last;
  }

  absl::StatusOr<v1::Timeline> CollectOnce() const {
    std::vector<v1::Timeline> of_ranks;
    for (const int rank : ranks_) {
      const std::string& node = job_.plan().ranks(rank).node();
      const auto address = address_of_.find(node);
      if (address == address_of_.end()) {
        return absl::UnavailableError(absl::StrCat("rank ", rank, " of job ", job_.name(),
                                                   " was on node ", node,
                                                   ", which the coordinator no longer knows"));
      }
      FATHOM_ASSIGN_OR_RETURN(v1::Timeline one, FetchTimeline(address->second, job_.plan().job(),
                                                              job_.plan().epoch(), rank));
      of_ranks.push_back(std::move(one));
    }
    return JoinTimelines(of_ranks);
  }

  absl::Status WriteFiles() const {
    if (!options_.svg.empty()) {
      FATHOM_RETURN_IF_ERROR(
          ReplaceFile(session_.AbsolutePath(options_.svg), PipelineSvg(timeline_)));
    }
    if (!options_.trace.empty()) {
      FATHOM_RETURN_IF_ERROR(
          ReplaceFile(session_.AbsolutePath(options_.trace), ChromeTrace(timeline_)));
    }
    return absl::OkStatus();
  }

  // Of every rank of the job, not only of those shown: a slow lane is found, too.
  PredictionReport Report() const {
    std::vector<MeasuredRank> measured;
    for (const v1::RankStatus& rank : job_.ranks()) {
      if (rank.last_step().step() == 0) continue;
      const v1::RankAssignment& place = job_.plan().ranks(rank.rank());
      measured.push_back({rank.rank(), place.pipeline_rank(), place.node(), rank.last_step()});
    }
    return ComparePrediction(job_.expected(), measured, 0);
  }

  Table RankTable() const {
    Table table;
    table.columns = {{"RANK", false, true}, {"STAGES"},           {"NODE"}, {"BUSY", false, true},
                     {"WAIT", false, true}, {"REST", false, true}};
    for (const v1::RankTimes& rank : timeline_.ranks()) {
      double busy = 0;
      double wait = 0;
      double rest = 0;
      for (const v1::TimedInstruction& timed : rank.instructions()) {
        const double length = timed.end_s() - timed.start_s();
        wait += timed.wait_s();
        // Parts of a step are in words, instructions in the schedule's notation.
        const bool instruction = timed.what().find_first_of("FBW") == 0;
        (instruction ? busy : rest) += length - timed.wait_s();
      }
      std::string stages;
      for (const int stage : plan::StagesOfRank(job_.plan(), rank.rank())) {
        absl::StrAppend(&stages, stages.empty() ? "" : ",", stage);
      }
      Row row;
      row.name = absl::StrCat(rank.rank());
      row.cells = {row.name,
                   stages,
                   rank.node(),
                   absl::StrFormat("%.4f s", busy),
                   absl::StrFormat("%.4f s", wait),
                   absl::StrFormat("%.4f s", rest)};
      row.value = ValueOf(rank);
      table.rows.push_back(std::move(row));
    }
    return table;
  }

  void Print() {
    double seconds = 0;
    for (const v1::RankTimes& rank : timeline_.ranks()) {
      if (rank.instructions().empty()) continue;
      seconds = std::max(seconds, rank.instructions().rbegin()->end_s());
    }
    if (!session_.for_people()) {
      Value value = Value::Object();
      value.Set("job", timeline_.job()).Set("epoch", static_cast<int64_t>(timeline_.epoch()));
      value.Set("step", timeline_.step()).Set("seconds", seconds);
      Value ranks = Value::List();
      for (const v1::RankTimes& rank : timeline_.ranks()) ranks.Add(ValueOf(rank));
      value.Set("ranks", std::move(ranks));
      value.Set("report", job_.has_expected() ? PredictionReportValue(Report()) : Value());
      session_.out() << RenderOne(timeline_.job(), value, session_.format());
      return;
    }
    session_.out() << absl::StrFormat("%s, epoch %d, step %d: %.4f s\n\n", timeline_.job(),
                                      timeline_.epoch(), timeline_.step(), seconds)
                   << RenderTable(RankTable(), session_.format()) << "\n";
    if (job_.has_expected()) {
      session_.out() << PredictionReportText(Report());
    } else {
      session_.out() << "no expectation to compare with: "
                     << (job_.expected_note().empty()
                             ? "its plan has not run since the coordinator started"
                             : job_.expected_note())
                     << "\n";
    }
    for (const std::string& file : {options_.svg, options_.trace}) {
      if (!file.empty()) session_.out() << "wrote " << file << "\n";
    }
  }

  const TraceOptions& options_;
  Session& session_;
  v1::JobStatus job_;
  std::map<std::string, std::string> address_of_;
  std::vector<int> ranks_;
  v1::Timeline timeline_;
};

}  // namespace

absl::Status RunTrace(const TraceOptions& options, Session& session) {
  return Tracer(options, session).Run();
}

}  // namespace fathom::cli
