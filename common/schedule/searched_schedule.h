// A schedule of our own: made for the actual times of each stage, the time of a message and the
// memory that activations may take, instead of for stages that are all alike.
//
// It starts from the best named schedule of the same placement that fits the memory, so it is never
// slower than that; lists made by dispatching ready work by due time, and then seeded local search
// on the lists, look for better ones. Pure: the same request gives the same lists. Effort is
// counted in instructions timed, so that a request takes about as long whatever its size is.
#ifndef FATHOM_COMMON_SCHEDULE_SEARCHED_SCHEDULE_H_
#define FATHOM_COMMON_SCHEDULE_SEARCHED_SCHEDULE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/schedule/compiled_schedule.h"
#include "common/schedule/instruction.h"
#include "common/schedule/step_costs.h"

namespace fathom::schedule {

// The kind of a searched schedule.
inline constexpr char kSearchedKind[] = "searched";

// How stages lie on ranks, which says how many copies of the weights there are.
enum class PlacementFamily : uint8_t {
  kLoop,           // as 1F1B and the zero-bubble ones; with several chunks, as interleaved 1F1B
  kV,              // as ZB-V and DualPipeV: stages r and 2P - 1 - r
  kBidirectional,  // as DualPipe: stages r and P - 1 - r, a direction each; weights twice
};

inline constexpr int64_t kQuickEffort = 600'000;       // tens of milliseconds
inline constexpr int64_t kDefaultEffort = 30'000'000;  // about a second

struct SearchRequest {
  int ranks = 0;
  int micro_batches = 0;
  PlacementFamily family = PlacementFamily::kLoop;
  int chunks = 1;  // of kLoop; the other families have theirs
  StepCosts costs;
  // Activations that a rank may hold at once, in micro-batches of a chunk; 0: any number.
  int max_activations = 0;
  // The same in bytes, where `activation_bytes` of a micro-batch are given: of each stage, or one
  // entry for all.
  double max_activation_bytes = 0;
  std::vector<double> activation_bytes;
  int64_t effort = kDefaultEffort;
  uint64_t seed = 1;
};

struct SearchedSchedule {
  Schedule schedule;  // passes CheckSchedule
  Simulation simulation;
  std::string named;          // kind of the best named schedule that fits; empty: none does
  double named_makespan = 0;  // of that
  double bound = 0;           // no schedule of this placement and memory is quicker
  int64_t timed = 0;          // instructions, of all lists tried
};

// INVALID_ARGUMENT: a shape that the family does not take, costs that fail CheckStepCosts, or
// memory in which no schedule runs; the message says how much is needed.
absl::StatusOr<SearchedSchedule> SearchSchedule(const SearchRequest& request);

// "loop", "v", "bidirectional". INVALID_ARGUMENT: another name.
absl::StatusOr<PlacementFamily> ParsePlacementFamily(absl::string_view name);

// Kinds of ScheduleKinds with this placement, and as many chunks on a rank.
std::vector<std::string> NamedKindsOf(PlacementFamily family, int chunks);

// Stages of a family's schedule on so many ranks.
int StagesOf(PlacementFamily family, int ranks, int chunks);

}  // namespace fathom::schedule

#endif  // FATHOM_COMMON_SCHEDULE_SEARCHED_SCHEDULE_H_
