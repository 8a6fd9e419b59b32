#include "cli/whatif_verb.h"

#include <cstdint>
#include <map>
#include <optional>
#include <ostream>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "cli/page.h"
#include "cli/plan_page.h"
#include "cli/plan_verb.h"
#include "cli/render.h"
#include "cli/value.h"
#include "common/base/status_util.h"
#include "common/cluster/cluster_description.h"
#include "common/cluster/topology.h"
#include "common/plan/job_resolve.h"
#include "coordinator/planner/search/predict.h"
#include "coordinator/planner/topology_placement.h"
#include "coordinator/planner/whatif.h"

namespace fathom::cli {
namespace {

constexpr size_t kBarColumns = 40;
constexpr size_t kMovesShown = 8;
constexpr double kHour = 3600;
constexpr uint64_t kFirstEpoch = 1;

using Rows = std::vector<std::vector<std::string>>;

std::string ShapeText(const v1::Parallelism& shape) {
  return absl::StrCat("pipeline ", shape.pipeline(), " \u00d7 experts over ", shape.expert(),
                      " \u00d7 ", CountOf(shape.replicas(), "replica"));
}

std::string NodesText(const v1::WhatIf& answer) {
  static constexpr int kNamed = 6;
  std::vector<std::string> names;
  for (const std::string& node : answer.nodes()) {
    if (names.size() < kNamed) names.push_back(CleanText(node));
  }
  const int more = answer.nodes_size() - static_cast<int>(names.size());
  std::string text = absl::StrJoin(names, ", ");
  if (more > 0) absl::StrAppend(&text, " and ", more, " more");
  return text;
}

std::string AfterwardsSection(const v1::WhatIf& answer) {
  Rows rows = {{"goes on", answer.goes_on() ? "yes" : "no"}};
  if (!answer.waits_for().empty()) rows.push_back({"waits for", CleanText(answer.waits_for())});
  const bool runs = answer.has_parallelism_after();
  rows.push_back({"layout", ShapeText(answer.parallelism_before())});
  if (runs && ShapeText(answer.parallelism_after()) != rows.back()[1]) {
    absl::StrAppend(&rows.back()[1], " before, ", ShapeText(answer.parallelism_after()), " after");
  }
  if (answer.replicas_shed() > 0) {
    rows.push_back(
        {"sheds", absl::StrCat(CountOf(answer.replicas_shed(), "replica"), "; ",
                               answer.micro_batches_after(), " micro-batches per lane and step")});
  }
  if (answer.spares_used_size() > 0) {
    rows.push_back({"spares used", CleanText(absl::StrJoin(answer.spares_used(), ", "))});
  }
  if (!answer.restored_from().empty()) {
    rows.push_back({"state from", CleanText(answer.restored_from())});
  }
  for (const std::string& lost : answer.lost()) rows.push_back({"lost", CleanText(lost)});
  if (answer.step_seconds_before() > 0) {
    rows.push_back(
        {"step", absl::StrCat(SecondsText(answer.step_seconds_before()), " before, ",
                              runs ? SecondsText(answer.step_seconds_after()) : "none", " after")});
  }
  if (answer.tokens_per_day_before() > 0) {
    rows.push_back(
        {"tokens a day", absl::StrCat(AmountText(answer.tokens_per_day_before()), " before, ",
                                      AmountText(answer.tokens_per_day_after()), " after")});
  }
  return Heading("The plan afterwards") + PageTable({{}, {}}, rows);
}

// Ranks that went the same way, together.
std::string MovesSection(const v1::WhatIf& answer) {
  if (answer.moves().empty()) return "";
  std::map<std::pair<std::string, std::string>, int> ways;
  for (const v1::RankMove& move : answer.moves()) ++ways[{move.from(), move.to()}];
  std::string out = Heading(absl::StrCat("Moves: ", CountOf(answer.moves_size(), "rank")));
  Rows rows;
  for (const auto& [way, count] : ways) {
    if (rows.size() == kMovesShown) {
      rows.push_back({"", absl::StrCat("and ", ways.size() - kMovesShown, " more ways")});
      break;
    }
    rows.push_back({CountOf(count, "rank"),
                    CleanText(absl::StrCat(way.first.empty() ? "new" : way.first, " \u2192 ",
                                           way.second.empty() ? "nowhere" : way.second))});
  }
  return out + PageTable({{true}, {}}, rows);
}

std::string LossSection(const v1::WhatIf& answer) {
  const v1::TimeLost& time = answer.time_lost();
  std::string out = Heading(absl::StrCat("Time lost: ", SecondsText(time.total_s())));
  Rows rows;
  const auto add = [&](const char* name, double seconds) {
    if (seconds <= 0) return;
    const double share = time.total_s() > 0 ? seconds / time.total_s() : 0;
    rows.push_back({name, SecondsText(seconds), PercentText(share), Bar(share, kBarColumns)});
  };
  add("notice", time.detect_s());
  add("plan", time.plan_s());
  add("start", time.start_s());
  add("restore state", time.restore_s());
  add("redo steps", time.redone_s());
  if (!rows.empty()) out += PageTable({{}, {true}, {true}, {}}, rows);
  if (time.restore_bytes() > 0) {
    out += Paragraph(
        "  ", absl::StrFormat("%s to restore over %s at %s GB/s",
                              GigabytesText(time.restore_bytes()), CleanText(time.restore_path()),
                              AmountText(time.restore_gigabytes_per_second())));
  }
  if (answer.steps_redone() > 0) {
    out += Paragraph("  ",
                     absl::StrFormat("%.3g steps done again, on average", answer.steps_redone()));
  }
  const v1::MoneyLost& money = answer.money_lost();
  std::string title = absl::StrCat("Money lost: ", AmountText(money.gpu_hours()), " GPU-hours");
  if (money.dollars_per_device_hour() > 0) {
    absl::StrAppend(&title, ", ", DollarsText(money.dollars()));
  }
  out += Heading(title);
  std::string how = CountOf(money.devices(), "device");
  if (money.dollars_per_device_hour() > 0) {
    absl::StrAppend(&how, " at ", DollarsText(money.dollars_per_device_hour()), " an hour");
  } else {
    how += "; no price known";
  }
  if (money.dollars_per_hour_waiting() > 0) {
    absl::StrAppend(&how, "; ", DollarsText(money.dollars_per_hour_waiting()),
                    " more for every hour it waits");
  }
  return out + Paragraph("  ", how);
}

std::string ComparisonSection(const v1::ClusterComparison& comparison, const v1::WhatIf& answer) {
  const auto ratio = [](double value) {
    return value > 0 ? absl::StrFormat("%.3g\u00d7", value) : std::string("-");
  };
  const auto money = [](double dollars) {
    return dollars > 0 ? DollarsText(dollars) : std::string("no price known");
  };
  const auto layout = [](const v1::PredictedLayout& one) {
    const v1::Parallelism& shape = one.parallelism();
    return absl::StrFormat("PP%d EP%d DP%d %s", shape.pipeline(), shape.expert(), shape.replicas(),
                           CleanText(one.schedule()));
  };
  const Rows rows = {
      {"", CleanText(comparison.here()), CleanText(comparison.there()), ""},
      {"devices", WholeText(comparison.devices_here()), WholeText(comparison.devices_there()), ""},
      {"layout", layout(comparison.layout_here()), layout(comparison.layout_there()), ""},
      {"step", SecondsText(answer.step_seconds_before()), SecondsText(answer.step_seconds_after()),
       ratio(comparison.step_ratio())},
      {"tokens a day", AmountText(answer.tokens_per_day_before()),
       AmountText(answer.tokens_per_day_after()), ""},
      {"whole job", SecondsText(comparison.hours_here() * kHour),
       SecondsText(comparison.hours_there() * kHour), ratio(comparison.hours_ratio())},
      {"GPU-hours per token", "", "", ratio(comparison.gpu_hours_ratio())},
      {"dollars", money(comparison.dollars_here()), money(comparison.dollars_there()),
       absl::StrCat(ratio(comparison.dollars_ratio()), " per token")}};
  std::string out = Heading("Here and there") + PageTable({{}, {true}, {true}, {}}, rows);
  if (!comparison.limit_here().empty()) {
    out += Paragraph("  here:  ", CleanText(comparison.limit_here()));
  }
  if (!comparison.limit_there().empty()) {
    out += Paragraph("  there: ", CleanText(comparison.limit_there()));
  }
  return out;
}

absl::Status Print(const v1::WhatIf& answer, Session& session) {
  if (session.for_people()) {
    session.out() << WhatIfPage(answer);
  } else {
    session.out() << RenderOne(answer.job(), ValueOf(answer, Fields::kAll), session.format());
  }
  return absl::OkStatus();
}

std::string Asked(const WhatIfOptions& options) {
  return absl::StrCat(options.plan.file, " on ", options.plan.cluster);
}

// As the job names its layout, or else the best; `anew`: the best in any case.
absl::StatusOr<v1::Prediction> PredictionOf(const v1::Job& job,
                                            const v1::ClusterDescription& cluster,
                                            const WhatIfOptions& asked_for, bool anew,
                                            const std::string& asked) {
  planner::PredictOptions options;
  options.search = false;
  options.take_best = anew || asked_for.plan.take_best;
  options.schedule = asked_for.plan.schedule;
  auto predicted = planner::Predict(job, cluster, options);
  if (!predicted.ok()) return RefusedByPlanner(predicted.status(), asked);
  return std::move(predicted->prediction);
}

// A job that runs as it was predicted to, and the cluster that it runs on.
class RunningJob {
 public:
  static absl::StatusOr<RunningJob> Of(const WhatIfOptions& options, Session& session) {
    FATHOM_ASSIGN_OR_RETURN(PlanInput input, LoadPlanInput(options.plan, session));
    const std::string asked = Asked(options);
    FATHOM_ASSIGN_OR_RETURN(const v1::Prediction prediction,
                            PredictionOf(input.job, input.cluster, options, /*anew=*/false, asked));
    v1::JobSpec& spec = *input.job.mutable_spec();
    *spec.mutable_parallelism() = prediction.layout().parallelism();
    spec.mutable_training()->set_micro_batches(prediction.layout().micro_batches());
    spec.mutable_training()->set_micro_batch_sequences(prediction.layout().micro_batch_sequences());
    plan::ResolveContext context;
    context.default_name = prediction.job();
    context.default_user = session.environment().user;
    context.working_folder = session.environment().working_folder;
    auto resolved = plan::ResolveJob(input.job, context);
    if (!resolved.ok()) return RefusedByPlanner(resolved.status(), asked);
    const auto cluster = cluster::ResolveCluster(input.cluster);
    if (!cluster.ok()) return RefusedByPlanner(cluster.status(), asked);
    const int64_t steps = resolved->spec().training().steps();
    if (options.steps_done > steps) {
      return absl::InvalidArgumentError(absl::StrCat("--steps-done: ", options.steps_done,
                                                     " steps done of a job of ", steps,
                                                     "; give at most ", steps));
    }
    RunningJob job(cluster::Topology(cluster->spec()), options);
    job.input_ = std::move(input);
    job.step_seconds_ = prediction.step().seconds();
    auto plan = planner::PlanOnTopology(resolved->metadata().name(), kFirstEpoch, resolved->spec(),
                                        job.topology_);
    if (!plan.ok()) return RefusedByPlanner(plan.status(), asked);
    job.plan_ = *std::move(plan);
    if (options.steps_done >= 0) job.steps_done_ = options.steps_done;
    return job;
  }

  planner::WhatIfJob Ask() const {
    planner::WhatIfJob job;
    job.plan = &plan_;
    job.topology = &topology_;
    job.step_seconds = step_seconds_;
    job.steps_done = steps_done_;
    job.step_seconds_of = [this](const v1::JobSpec& spec) -> absl::StatusOr<double> {
      v1::Job changed = input_.job;
      *changed.mutable_spec() = spec;
      FATHOM_ASSIGN_OR_RETURN(
          const v1::Prediction prediction,
          PredictionOf(changed, input_.cluster, options_, /*anew=*/false, "what is left of it"));
      return prediction.step().seconds();
    };
    return job;
  }

 private:
  RunningJob(cluster::Topology topology, const WhatIfOptions& options)
      : topology_(std::move(topology)), options_(options) {}

  PlanInput input_;
  cluster::Topology topology_;
  const WhatIfOptions& options_;
  v1::Plan plan_;
  double step_seconds_ = 0;
  std::optional<int64_t> steps_done_;
};

// A node that isn't there is the command line's fault; all else the planner refuses.
absl::Status PrintAnswer(absl::StatusOr<v1::WhatIf> answer, const WhatIfOptions& options,
                         Session& session) {
  if (answer.ok()) return Print(*answer, session);
  if (answer.status().code() == absl::StatusCode::kInvalidArgument) return answer.status();
  return RefusedByPlanner(answer.status(), Asked(options));
}

}  // namespace

std::string WhatIfPage(const v1::WhatIf& answer) {
  std::string about = absl::StrCat(CleanText(answer.job()), ": ");
  if (answer.question() == "cluster") {
    absl::StrAppend(&about, "on another cluster");
  } else {
    absl::StrAppend(&about,
                    answer.question() == "kill" ? "after the death of " : "with a drain of ",
                    NodesText(answer));
  }
  std::string out = Paragraph("", about);
  if (!answer.answer().empty()) out += "\n" + Paragraph("  ", CleanText(answer.answer()));
  if (answer.has_comparison()) {
    out += ComparisonSection(answer.comparison(), answer);
  } else {
    absl::StrAppend(&out, AfterwardsSection(answer), MovesSection(answer));
    if (answer.time_lost().total_s() > 0 || answer.money_lost().gpu_hours() > 0) {
      out += LossSection(answer);
    }
  }
  if (answer.has_survivability_after()) {
    absl::StrAppend(
        &out, Heading(answer.has_comparison() ? "What it survives there" : "What is left survives"),
        SurvivabilityText(answer.survivability_after()));
  }
  if (answer.assumptions_size() > 0) {
    absl::StrAppend(&out, Heading("What is taken for granted"),
                    AssumptionsText(answer.assumptions()));
  }
  return out;
}

absl::Status RunWhatIfKill(const WhatIfOptions& options, Session& session) {
  FATHOM_ASSIGN_OR_RETURN(const RunningJob job, RunningJob::Of(options, session));
  return PrintAnswer(planner::WhatIfKill(job.Ask(), options.nodes), options, session);
}

absl::Status RunWhatIfDrain(const WhatIfOptions& options, Session& session) {
  FATHOM_ASSIGN_OR_RETURN(const RunningJob job, RunningJob::Of(options, session));
  return PrintAnswer(planner::WhatIfDrain(job.Ask(), options.nodes), options, session);
}

absl::Status RunWhatIfCluster(const WhatIfOptions& options, Session& session) {
  FATHOM_ASSIGN_OR_RETURN(const PlanInput input, LoadPlanInput(options.plan, session));
  FATHOM_ASSIGN_OR_RETURN(const v1::ClusterDescription other,
                          LoadPlannedCluster(options.other, session));
  FATHOM_ASSIGN_OR_RETURN(const v1::Prediction here, PredictionOf(input.job, input.cluster, options,
                                                                  /*anew=*/false, Asked(options)));
  FATHOM_ASSIGN_OR_RETURN(const v1::Prediction there,
                          PredictionOf(input.job, other, options, /*anew=*/true,
                                       absl::StrCat(options.plan.file, " on ", options.other)));
  auto answer = planner::WhatIfCluster(here, there);
  if (!answer.ok()) return RefusedByPlanner(answer.status(), Asked(options));
  return Print(*answer, session);
}

}  // namespace fathom::cli
