#include "coordinator/planner/search/predict.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status_util.h"
#include "coordinator/planner/cost/step_fields.h"
#include "coordinator/planner/search/costed_layout.h"
#include "coordinator/planner/search/job_setting.h"
#include "coordinator/planner/search/layout_search.h"
#include "coordinator/planner/search/loss_reason.h"
#include "coordinator/planner/search/prediction_fields.h"
#include "coordinator/planner/search/schedule_form.h"
#include "coordinator/planner/search/suggestion.h"
#include "coordinator/planner/stage_split.h"

namespace fathom::planner {
namespace {

std::string WhereText(const DeviceSet& set) {
  return set.pool.empty() ? "over all pools" : absl::StrCat("in pool ", set.pool);
}

absl::StatusOr<schedule::Schedule> ScheduleOn(const DeviceSet& set, const LayoutShape& layout,
                                              const ScheduleForm& form) {
  FATHOM_ASSIGN_OR_RETURN(const CostsByLayer costs, set.costs->LayerCostsOf(layout));
  return MakeFormSchedule(form, layout.parallelism.pipeline(),
                          static_cast<int>(layout.micro_batches),
                          StageCostsOf(StagesOf(costs, layout.stage_layers)));
}

absl::StatusOr<ChosenLayout> InFull(const DeviceSet& set, const LayoutShape& layout,
                                    schedule::Schedule schedule,
                                    std::vector<v1::PredictedMemory> memory) {
  ChosenLayout chosen;
  chosen.set = &set;
  chosen.layout = layout;
  chosen.schedule = std::move(schedule);
  chosen.memory = std::move(memory);
  FATHOM_ASSIGN_OR_RETURN(chosen.step,
                          set.costs->StepOf(layout, chosen.schedule, /*with_assumptions=*/true));
  return chosen;
}

absl::StatusOr<ScheduleForm> FormOf(const std::string& kind, int pipeline) {
  if (pipeline == 1) return SequentialForm();
  return FindScheduleForm(kind.empty() ? kEngineKind : kind);
}

// The layout that the job names, where it fits: in the pool, or over all, where it is fastest.
class NamedLayout {
 public:
  NamedLayout(const JobSetting& setting, const PredictOptions& options)
      : setting_(setting), options_(options) {}

  absl::StatusOr<ChosenLayout> Choose() {
    FATHOM_RETURN_IF_ERROR(MakeLayout());
    for (const DeviceSet& set : setting_.sets) FATHOM_RETURN_IF_ERROR(TryOn(set));
    if (best_.has_value()) return *std::move(best_);
    return RefuseIt();
  }

 private:
  absl::Status MakeLayout() {
    layout_ = WithShape(setting_.base, setting_.shape, model::Recomputation::kSelective);
    const int pipeline = layout_.parallelism.pipeline();
    FATHOM_ASSIGN_OR_RETURN(const ScheduleForm form, FormOf(options_.schedule, pipeline));
    FATHOM_ASSIGN_OR_RETURN(
        const std::vector<v1::Stage> stages,
        SplitStages(setting_.config, layout_.sequence_length, form.stages(pipeline)));
    for (const v1::Stage& stage : stages) layout_.stage_layers.push_back(stage.layer_count());
    form_ = form;
    return absl::OkStatus();
  }

  absl::Status TryOn(const DeviceSet& set) {
    most_devices_ = std::max(most_devices_, set.devices);
    if (setting_.shape.ranks() > set.devices) return absl::OkStatus();
    FATHOM_ASSIGN_OR_RETURN(schedule::Schedule schedule, ScheduleOn(set, layout_, form_));
    FATHOM_ASSIGN_OR_RETURN(auto memory, set.costs->MemoryOf(layout_, schedule));
    const int64_t peak = Largest(memory).peak_bytes();
    if (peak > set.costs->usable_bytes()) {
      if (too_large_ == nullptr) {
        too_large_ = &set;
        needed_bytes_ = peak;
      }
      return absl::OkStatus();
    }
    FATHOM_ASSIGN_OR_RETURN(ChosenLayout chosen,
                            InFull(set, layout_, std::move(schedule), std::move(memory)));
    if (!best_.has_value() || chosen.step.seconds < best_->step.seconds) {
      best_ = std::move(chosen);
    }
    return absl::OkStatus();
  }

  absl::Status RefuseIt() {
    FATHOM_ASSIGN_OR_RETURN(const std::vector<Suggestion> suggestions,
                            SuggestFor(setting_, /*same_sequences=*/true));
    const std::string name = ToString(setting_.shape.parallelism);
    if (too_large_ == nullptr) {
      return Refuse(absl::StatusCode::kResourceExhausted,
                    absl::StrCat(name, " needs ", setting_.shape.ranks(), " devices; cluster ",
                                 setting_.cluster.metadata().name(), " has ", most_devices_,
                                 " that are no spares"),
                    suggestions);
    }
    const JobCosts& costs = *too_large_->costs;
    return Refuse(
        absl::StatusCode::kResourceExhausted,
        absl::StrCat(name, " needs ", BytesText(static_cast<double>(needed_bytes_)),
                     " on devices of ", BytesText(static_cast<double>(costs.capacity_bytes())),
                     ", of which ", BytesText(static_cast<double>(costs.usable_bytes())),
                     " are usable"),
        suggestions);
  }

  const JobSetting& setting_;
  const PredictOptions& options_;
  LayoutShape layout_;
  ScheduleForm form_;
  std::optional<ChosenLayout> best_;
  const DeviceSet* too_large_ = nullptr;
  int64_t needed_bytes_ = 0;
  int most_devices_ = 0;
};

// What the searches on all sets found.
struct Found {
  const DeviceSet* set = nullptr;  // of the best; null: nothing fits
  SearchResult result;  // of that set, with the bests of others; else of the set that came nearest
};

// Of what doesn't fit.
int64_t LeastBytes(const SearchResult& result) {
  return result.others.empty() ? std::numeric_limits<int64_t>::max()
                               : result.others.front().peak_bytes;
}

absl::StatusOr<Found> SearchSets(const JobSetting& setting, const PredictOptions& options) {
  Found found;
  int64_t considered = 0;
  int64_t infeasible = 0;
  std::vector<std::pair<const DeviceSet*, CostedLayout>> beaten;
  for (const DeviceSet& set : setting.sets) {
    if (set.devices == 0) continue;
    SearchRequest request;
    request.space = setting.LimitsOn(set);
    request.base = setting.base;
    request.usable_bytes = set.costs->usable_bytes();
    request.schedule = options.schedule;
    request.candidates = options.candidates;
    FATHOM_ASSIGN_OR_RETURN(
        SearchResult result,
        SearchLayouts(request, set.costs->Functions(setting.base.sequence_length)));
    considered += result.considered;
    infeasible += result.infeasible;
    const bool fits = result.best.has_value();
    if (found.set == nullptr ? fits || LeastBytes(result) < LeastBytes(found.result)
                             : fits && result.best->seconds < found.result.best->seconds) {
      if (found.set != nullptr) beaten.emplace_back(found.set, *found.result.best);
      if (fits) found.set = &set;
      found.result = std::move(result);
    } else if (fits) {
      beaten.emplace_back(&set, *std::move(result.best));
    }
  }
  found.result.considered = considered;
  found.result.infeasible = infeasible;
  for (auto& [set, layout] : beaten) {
    layout.why =
        absl::StrCat(WhereText(*set), ": ", SecondsText(layout.seconds), " a step against ",
                     SecondsText(found.result.best->seconds), " ", WhereText(*found.set));
    found.result.others.insert(found.result.others.begin(), std::move(layout));
  }
  return found;
}

absl::StatusOr<ChosenLayout> InFull(const Found& found) {
  const CostedLayout& best = *found.result.best;
  FATHOM_ASSIGN_OR_RETURN(const ScheduleForm form,
                          FormOf(best.schedule, best.layout.parallelism.pipeline()));
  FATHOM_ASSIGN_OR_RETURN(schedule::Schedule schedule, ScheduleOn(*found.set, best.layout, form));
  FATHOM_ASSIGN_OR_RETURN(auto memory, found.set->costs->MemoryOf(best.layout, schedule));
  return InFull(*found.set, best.layout, std::move(schedule), std::move(memory));
}

absl::Status RefuseAll(const JobSetting& setting, const Found& found) {
  FATHOM_ASSIGN_OR_RETURN(const std::vector<Suggestion> suggestions,
                          SuggestFor(setting, /*same_sequences=*/true));
  std::string least = "no layout";
  for (const CostedLayout& other : found.result.others) {
    if (other.fits) continue;
    least = absl::StrCat("the least is ", BytesText(static_cast<double>(other.peak_bytes)), " (",
                         ToString(other.layout.parallelism), ")");
    break;
  }
  const DeviceSet& set = setting.largest();
  return Refuse(
      absl::StatusCode::kResourceExhausted,
      absl::StrCat("no layout of ", setting.sequences, " sequences a step fits the ", set.devices,
                   " devices of cluster ", setting.cluster.metadata().name(), ": ", least,
                   " on devices of ", BytesText(static_cast<double>(set.costs->capacity_bytes())),
                   ", of which ", BytesText(static_cast<double>(set.costs->usable_bytes())),
                   " are usable"),
      suggestions);
}

v1::Candidate ToProto(const JobSetting& setting, const CostedLayout& costed) {
  v1::Candidate candidate;
  *candidate.mutable_layout() = ToProto(costed.layout, costed.schedule);
  candidate.set_feasible(costed.fits);
  candidate.set_step_seconds(costed.seconds);
  candidate.set_peak_bytes(costed.peak_bytes);
  candidate.set_why(costed.why);
  if (costed.fits) {
    const v1::Parallelism& grid = costed.layout.parallelism;
    candidate.set_gpu_hours_per_trillion_tokens(GpuHoursPerTrillionTokens(
        static_cast<double>(grid.pipeline()) * grid.expert() * grid.replicas(), costed.seconds,
        static_cast<double>(setting.sequences * setting.base.sequence_length)));
  }
  return candidate;
}

// Best first; of a job with a layout of its own, the best says how it compares.
void FillSearch(const JobSetting& setting, const Found& found, const ChosenLayout& chosen,
                bool named, v1::SearchSummary* summary) {
  summary->set_considered(found.result.considered);
  summary->set_infeasible(found.result.infeasible);
  if (found.set != nullptr) {
    v1::Candidate& best = *summary->add_candidates();
    best = ToProto(setting, *found.result.best);
    if (named) {
      CostedLayout own;
      own.layout = chosen.layout;
      own.schedule = chosen.schedule.kind;
      own.run_by_ranks = RunByRanks(own.schedule, own.layout.recomputation);
      own.fits = true;
      own.seconds = chosen.step.seconds;
      own.breakdown = chosen.step.breakdown;
      const int nodes = found.set->costs->Functions(setting.base.sequence_length)
                            .nodes_of_group(own.layout.parallelism);
      best.set_why(found.result.best->seconds < own.seconds
                       ? absl::StrCat(PercentText(1 - found.result.best->seconds / own.seconds),
                                      " faster than the job's own layout (",
                                      WhyItLost(own, &*found.result.best, 0, nodes), ")")
                       : "no faster than the job's own layout");
    } else {
      best.set_why(found.result.leaves_idle ? "the best; no layout that fits uses every device"
                                            : "the best");
    }
  }
  for (const CostedLayout& other : found.result.others) {
    *summary->add_candidates() = ToProto(setting, other);
  }
}

}  // namespace

absl::StatusOr<PredictedJob> Predict(const v1::Job& job, const v1::ClusterDescription& cluster,
                                     const PredictOptions& options) {
  FATHOM_ASSIGN_OR_RETURN(const JobSetting setting, ResolveSetting(job, cluster));
  const bool named = setting.named && !options.take_best;
  std::optional<ChosenLayout> chosen;
  if (named) {
    FATHOM_ASSIGN_OR_RETURN(chosen, NamedLayout(setting, options).Choose());
  }
  Found found;
  if (options.search || !named) {
    FATHOM_ASSIGN_OR_RETURN(found, SearchSets(setting, options));
  }
  if (!chosen.has_value()) {
    if (found.set == nullptr) return RefuseAll(setting, found);
    FATHOM_ASSIGN_OR_RETURN(chosen, InFull(found));
  }
  FATHOM_ASSIGN_OR_RETURN(PredictedJob result, FillPrediction(setting, *chosen));
  result.prediction.mutable_layout()->set_from_job(named);
  FillSearch(setting, found, *chosen, named, result.prediction.mutable_search());
  return result;
}

}  // namespace fathom::planner
