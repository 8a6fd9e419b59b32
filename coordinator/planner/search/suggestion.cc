#include "coordinator/planner/search/suggestion.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/types/optional.h"
#include "common/base/limits.h"
#include "common/base/status_util.h"
#include "coordinator/planner/cost/step_fields.h"
#include "coordinator/planner/search/loss_reason.h"
#include "coordinator/planner/search/schedule_form.h"
#include "coordinator/planner/stage_split.h"

namespace fathom::planner {
namespace {

constexpr char kPayload[] = "fathom.v1.SearchSummary";
// Layouts whose memory is reckoned in full before giving up.
constexpr int kMaxTried = 500;
constexpr int kMaxSequencesFactor = 64;

// None where it doesn't fit, or no schedule takes it.
absl::StatusOr<std::optional<Suggestion>> Try(const SuggestionRequest& request, const Shape& shape,
                                              JobCosts* costs) {
  LayoutShape layout = WithShape(request.base, shape, model::Recomputation::kSelective);
  const int pipeline = shape.parallelism.pipeline();
  FATHOM_ASSIGN_OR_RETURN(const std::vector<v1::Stage> stages,
                          SplitStages(costs->config(), layout.sequence_length, pipeline));
  for (const v1::Stage& stage : stages) layout.stage_layers.push_back(stage.layer_count());
  ScheduleForm form = SequentialForm();
  if (pipeline > 1) {
    FATHOM_ASSIGN_OR_RETURN(form, FindScheduleForm(kEngineKind));
  }
  const absl::StatusOr<schedule::Schedule> schedule =
      MakeFormSchedule(form, pipeline, static_cast<int>(shape.micro_batches), {});
  if (!schedule.ok()) return std::optional<Suggestion>();
  FATHOM_ASSIGN_OR_RETURN(const auto memory, costs->MemoryOf(layout, *schedule));
  Suggestion suggestion;
  suggestion.peak_bytes = Largest(memory).peak_bytes();
  if (suggestion.peak_bytes > costs->usable_bytes()) return std::optional<Suggestion>();
  suggestion.layout = ToProto(layout, form.kind);
  return std::optional<Suggestion>(std::move(suggestion));
}

absl::StatusOr<std::vector<Suggestion>> FirstThatFit(const SuggestionRequest& request,
                                                     const std::vector<Shape>& shapes,
                                                     JobCosts* costs) {
  FATHOM_ASSIGN_OR_RETURN(const ScheduleForm form, FindScheduleForm(kEngineKind));
  std::vector<Suggestion> found;
  int tried = 0;
  for (const Shape& shape : shapes) {
    if (static_cast<int>(found.size()) >= request.count || tried >= kMaxTried) break;
    const LayoutShape layout = WithShape(request.base, shape, model::Recomputation::kSelective);
    const ScheduleForm& used = shape.parallelism.pipeline() == 1 ? SequentialForm() : form;
    if (costs->LeastBytes(layout, used) > costs->usable_bytes()) continue;
    const bool same_grid = std::any_of(found.begin(), found.end(), [&](const Suggestion& other) {
      return ToString(other.layout.parallelism()) == ToString(shape.parallelism);
    });
    if (same_grid) continue;
    ++tried;
    FATHOM_ASSIGN_OR_RETURN(std::optional<Suggestion> suggestion, Try(request, shape, costs));
    if (suggestion.has_value()) found.push_back(*std::move(suggestion));
  }
  return found;
}

std::string ToText(const Suggestion& suggestion) {
  const v1::PredictedLayout& layout = suggestion.layout;
  const v1::Parallelism& grid = layout.parallelism();
  const std::string pool = suggestion.pool.empty() ? "" : " in pool " + suggestion.pool;
  return absl::StrCat(
      "pipeline ", grid.pipeline(), ", expert ", grid.expert(), ", replicas ", grid.replicas(),
      ", micro_batches ", layout.micro_batches(), ", micro_batch_sequences ",
      layout.micro_batch_sequences(),
      layout.nodes() > 0 ? absl::StrCat(" on ", layout.nodes(), " nodes", pool) : "", " (",
      BytesText(static_cast<double>(suggestion.peak_bytes)), " a device)");
}

}  // namespace

absl::StatusOr<std::vector<Suggestion>> NearestLayouts(const SuggestionRequest& request,
                                                       JobCosts* costs) {
  const std::vector<Shape> shapes = request.same_sequences
                                        ? NearestShapes(request.limits, request.to)
                                        : NearestShapesOfAnyBatch(request.limits, request.to);
  return FirstThatFit(request, shapes, costs);
}

absl::StatusOr<std::vector<Suggestion>> LargerCluster(const SuggestionRequest& request, int nodes,
                                                      int devices_per_node, JobCosts* costs) {
  for (int factor = 1; factor <= kMaxSequencesFactor; factor *= 2) {
    for (int64_t n = nodes; n * devices_per_node <= limits::kMaxRanksPerJob; n *= 2) {
      SuggestionRequest larger = request;
      larger.count = 1;
      larger.limits.devices = static_cast<int>(n * devices_per_node);
      larger.limits.sequences = request.limits.sequences * factor;
      std::vector<Shape> shapes = PartialShapes(larger.limits);
      for (Shape& shape : FullShapes(larger.limits)) shapes.push_back(std::move(shape));
      std::stable_sort(shapes.begin(), shapes.end(),
                       [](const Shape& a, const Shape& b) { return a.ranks() < b.ranks(); });
      FATHOM_ASSIGN_OR_RETURN(std::vector<Suggestion> found, FirstThatFit(larger, shapes, costs));
      if (found.empty()) continue;
      const v1::Parallelism& grid = found[0].layout.parallelism();
      const int64_t ranks = int64_t{grid.pipeline()} * grid.expert() * grid.replicas();
      found[0].layout.set_nodes(
          static_cast<int32_t>((ranks + devices_per_node - 1) / devices_per_node));
      return found;
    }
  }
  return std::vector<Suggestion>();
}

absl::Status Refuse(absl::StatusCode code, const std::string& why,
                    const std::vector<Suggestion>& suggestions) {
  std::string text = why;
  v1::SearchSummary summary;
  for (size_t i = 0; i < suggestions.size(); ++i) {
    absl::StrAppend(&text, i == 0 ? "; nearest that would do: " : "; or ", ToText(suggestions[i]));
    v1::Candidate& candidate = *summary.add_candidates();
    *candidate.mutable_layout() = suggestions[i].layout;
    candidate.set_feasible(true);
    candidate.set_peak_bytes(suggestions[i].peak_bytes);
  }
  absl::Status status(code, text);
  if (!suggestions.empty()) status.SetPayload(kPayload, absl::Cord(summary.SerializeAsString()));
  return status;
}

std::vector<v1::PredictedLayout> SuggestedLayouts(const absl::Status& refusal) {
  std::vector<v1::PredictedLayout> layouts;
  const absl::optional<absl::Cord> payload = refusal.GetPayload(kPayload);
  v1::SearchSummary summary;
  if (!payload.has_value() || !summary.ParseFromString(std::string(*payload))) return layouts;
  for (const v1::Candidate& candidate : summary.candidates()) layouts.push_back(candidate.layout());
  return layouts;
}

v1::Job WithLayout(v1::Job job, const v1::PredictedLayout& layout) {
  *job.mutable_spec()->mutable_parallelism() = layout.parallelism();
  v1::Training* training = job.mutable_spec()->mutable_training();
  training->set_micro_batches(layout.micro_batches());
  training->set_micro_batch_sequences(layout.micro_batch_sequences());
  training->set_validation_batches(0);  // as many: what it had need not fill the pipeline
  return job;
}

}  // namespace fathom::planner
