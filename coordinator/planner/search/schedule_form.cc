#include "coordinator/planner/search/schedule_form.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "common/base/status_util.h"
#include "common/schedule/dualpipe.h"
#include "common/schedule/named_schedules.h"
#include "common/schedule/searched_schedule.h"

namespace fathom::planner {
namespace {

// The smallest pipeline that every kind takes.
constexpr int kProbeRanks = 2;
constexpr int kProbeMicroBatches = 8;

bool HasPairs(const schedule::Schedule& schedule) {
  for (const auto& list : schedule.lists) {
    for (const schedule::Instruction& instruction : list) {
      if (instruction.overlapped) return true;
    }
  }
  return false;
}

}  // namespace

absl::StatusOr<ScheduleForm> FindScheduleForm(const std::string& kind) {
  if (absl::AsciiStrToLower(kind) == schedule::kSearchedKind) {
    // It lies as DualPipe does, and searches from there.
    FATHOM_ASSIGN_OR_RETURN(ScheduleForm form, FindScheduleForm(kEngineKind));
    form.kind = schedule::kSearchedKind;
    return form;
  }
  FATHOM_ASSIGN_OR_RETURN(const schedule::Schedule probe,
                          schedule::MakeSchedule(kind, kProbeRanks, kProbeMicroBatches));
  ScheduleForm form;
  form.kind = probe.kind;
  form.chunks = probe.chunks;
  form.directions = probe.directions;
  form.pairs = HasPairs(probe);
  form.mirrored = probe.directions == 2 || probe.placement == schedule::Placement::kV;
  return form;
}

absl::StatusOr<std::vector<ScheduleForm>> ScheduleForms() {
  std::vector<ScheduleForm> forms;
  for (const std::string& kind : schedule::ScheduleKinds()) {
    FATHOM_ASSIGN_OR_RETURN(forms.emplace_back(), FindScheduleForm(kind));
  }
  return forms;
}

ScheduleForm SequentialForm() {
  ScheduleForm form;
  form.kind = kSequentialKind;
  return form;
}

absl::StatusOr<schedule::Schedule> MakeFormSchedule(
    const ScheduleForm& form, int pipeline, int micro_batches,
    const std::vector<schedule::StageCosts>& stages) {
  if (pipeline == 1) return schedule::Sequential(micro_batches);
  if (form.kind == schedule::kSearchedKind) {
    if (stages.empty()) return schedule::MakeSchedule(kEngineKind, pipeline, micro_batches);
    schedule::SearchRequest request;
    request.ranks = pipeline;
    request.micro_batches = micro_batches;
    request.family = schedule::PlacementFamily::kBidirectional;
    request.costs.stages = stages;
    request.max_activations = pipeline + 1;  // as DualPipe
    request.effort = schedule::kQuickEffort;
    FATHOM_ASSIGN_OR_RETURN(schedule::SearchedSchedule found, schedule::SearchSchedule(request));
    return std::move(found.schedule);
  }
  return schedule::MakeSchedule(form.kind, pipeline, micro_batches);
}

bool RunByRanks(const std::string& kind, model::Recomputation recomputation) {
  return (kind == kEngineKind || kind == kSequentialKind) &&
         recomputation == model::Recomputation::kSelective;
}

}  // namespace fathom::planner
