// How each kind of pipeline schedule lies on ranks, asked from the schedules themselves, and which
// of them ranks run today.
#ifndef FATHOM_COORDINATOR_PLANNER_SEARCH_SCHEDULE_FORM_H_
#define FATHOM_COORDINATOR_PLANNER_SEARCH_SCHEDULE_FORM_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/model/layer_ops.h"
#include "common/schedule/event_simulator.h"
#include "common/schedule/instruction.h"

namespace fathom::planner {

inline constexpr char kSequentialKind[] = "sequential";  // of a pipeline of one, whatever the kind
inline constexpr char kEngineKind[] = "dualpipe";        // that worker/engine runs otherwise

struct ScheduleForm {
  std::string kind;
  int chunks = 1;         // stages of one direction on a rank
  int directions = 1;     // 2: a rank also holds the stage of the other end
  bool pairs = false;     // overlaps forwards with backwards
  bool mirrored = false;  // a rank's two stages are i and S-1-i of S

  int stages(int pipeline) const { return chunks * pipeline; }
};

// Kinds of a pipeline of more than one rank.
absl::StatusOr<std::vector<ScheduleForm>> ScheduleForms();

// In capitals or not, with or without - and _. INVALID_ARGUMENT: no such kind; names all.
absl::StatusOr<ScheduleForm> FindScheduleForm(const std::string& kind);

ScheduleForm SequentialForm();

// "searched" looks for one that suits the stages' costs, with DualPipe's placement and activations;
// without costs it is DualPipe. INVALID_ARGUMENT: the kind doesn't take these numbers.
absl::StatusOr<schedule::Schedule> MakeFormSchedule(
    const ScheduleForm& form, int pipeline, int micro_batches,
    const std::vector<schedule::StageCosts>& stages);

// Whether worker/engine runs it: DualPipe or a pipeline of one, with selective recomputation.
bool RunByRanks(const std::string& kind, model::Recomputation recomputation);

}  // namespace fathom::planner

#endif  // FATHOM_COORDINATOR_PLANNER_SEARCH_SCHEDULE_FORM_H_
