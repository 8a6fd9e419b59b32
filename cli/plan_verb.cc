#include "cli/plan_verb.h"

#include <algorithm>
#include <filesystem>
#include <ostream>
#include <system_error>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "cli/chrome_trace.h"
#include "cli/cluster_file.h"
#include "cli/job_file.h"
#include "cli/pipeline_svg.h"
#include "cli/plan_page.h"
#include "cli/render.h"
#include "cli/value.h"
#include "common/base/atomic_file.h"
#include "common/base/config_loader.h"
#include "common/base/status_util.h"
#include "coordinator/planner/search/predict.h"

namespace fathom::cli {
namespace {

absl::Status WriteFor(const char* option, const std::string& path, const std::string& contents,
                      const Session& session) {
  return WithContext(WriteFileAtomically(session.AbsolutePath(path), contents), option);
}

std::string PictureTitle(const v1::Prediction& prediction) {
  return absl::StrCat(prediction.job(), " on ", prediction.cluster(), ": a step as predicted, ",
                      prediction.layout().schedule());
}

// What a step takes beyond the instructions that are timed, such as jitter, as a last part of every
// rank: so the timeline is as long as the step.
v1::Timeline WithTheRest(v1::Timeline timeline, double step_seconds) {
  double end = 0;
  for (const v1::RankTimes& rank : timeline.ranks()) {
    for (const v1::TimedInstruction& instruction : rank.instructions()) {
      end = std::max(end, instruction.end_s());
    }
  }
  if (step_seconds <= end) return timeline;
  for (v1::RankTimes& rank : *timeline.mutable_ranks()) {
    v1::TimedInstruction& rest = *rank.add_instructions();
    rest.set_what("other");
    rest.set_start_s(end);
    rest.set_end_s(step_seconds);
  }
  return timeline;
}

// What `fathomctl profile` measured here stands for processors of which the file has no profile.
absl::Status AddOwnProfile(const Session& session, v1::ClusterSpec& spec) {
  const auto is_cpu = [](const std::string& kind) { return absl::AsciiStrToLower(kind) == "cpu"; };
  const bool wanted = std::any_of(spec.pools().begin(), spec.pools().end(),
                                  [&](const v1::Pool& pool) { return is_cpu(pool.device()); });
  const bool given =
      std::any_of(spec.profiles().begin(), spec.profiles().end(),
                  [&](const v1::DeviceProfile& profile) { return is_cpu(profile.kind()); });
  const std::string file = session.AbsolutePath(
      CpuProfilePath(LocalStateFolder(session.environment(), session.options())));
  std::error_code unreadable;  // as if it were not there
  if (!wanted || given || !std::filesystem::exists(file, unreadable)) return absl::OkStatus();
  v1::DeviceProfile& profile = *spec.add_profiles();
  FATHOM_RETURN_IF_ERROR(LoadYamlFile(file, &profile));
  if (is_cpu(profile.kind())) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(file, ": kind is '", profile.kind(),
                   "', not cpu; make it anew with fathomctl profile, or remove it"));
}

}  // namespace

absl::StatusOr<v1::ClusterDescription> LoadPlannedCluster(const std::string& file,
                                                          const Session& session) {
  FATHOM_ASSIGN_OR_RETURN(v1::ClusterDescription cluster,
                          LoadClusterFile(session.AbsolutePath(file)));
  FATHOM_RETURN_IF_ERROR(AddOwnProfile(session, *cluster.mutable_spec()));
  return cluster;
}

absl::StatusOr<PlanInput> LoadPlanInput(const PlanOptions& options, const Session& session) {
  PlanInput input;
  const std::string& file = options.file;
  FATHOM_ASSIGN_OR_RETURN(input.job, LoadJobFile(file == "-" ? file : session.AbsolutePath(file)));
  FATHOM_RETURN_IF_ERROR(ApplyOverrides(options.overrides, input.job));
  FATHOM_ASSIGN_OR_RETURN(input.cluster, LoadPlannedCluster(options.cluster, session));
  return input;
}

absl::Status RefusedByPlanner(const absl::Status& status, const std::string& asked) {
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kNotFound:  // op times, not a file
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kResourceExhausted:
      return absl::FailedPreconditionError(absl::StrCat(asked, ": ", status.message()));
    default:
      return WithContext(status, asked);
  }
}

absl::Status RunPlan(const PlanOptions& options, Session& session) {
  FATHOM_ASSIGN_OR_RETURN(const PlanInput input, LoadPlanInput(options, session));
  planner::PredictOptions predict;
  predict.search = !options.no_search;
  predict.take_best = options.take_best;
  predict.schedule = options.schedule;
  const auto predicted = planner::Predict(input.job, input.cluster, predict);
  if (!predicted.ok()) {
    return RefusedByPlanner(predicted.status(),
                            absl::StrCat(options.file, " on ", options.cluster));
  }
  const v1::Prediction& prediction = predicted->prediction;
  const v1::Timeline timeline = WithTheRest(predicted->timeline, prediction.step().seconds());
  if (!options.svg.empty()) {
    FATHOM_RETURN_IF_ERROR(WriteFor(
        "--svg", options.svg, PipelineSvg(timeline, {.title = PictureTitle(prediction)}), session));
  }
  if (!options.trace.empty()) {
    FATHOM_RETURN_IF_ERROR(WriteFor("--trace", options.trace, ChromeTrace(timeline), session));
  }
  if (session.for_people()) {
    session.out() << PlanPage(prediction, session.format() == OutputFormat::kWide);
  } else {
    session.out() << RenderOne(prediction.job(), ValueOf(prediction, Fields::kAll),
                               session.format());
  }
  return absl::OkStatus();
}

}  // namespace fathom::cli
