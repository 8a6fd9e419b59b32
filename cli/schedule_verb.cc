#include "cli/schedule_verb.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "cli/pipeline_svg.h"
#include "cli/render.h"
#include "cli/schedule_costs.h"
#include "cli/schedule_timeline.h"
#include "cli/value.h"
#include "common/base/atomic_file.h"
#include "common/base/status_util.h"
#include "common/schedule/compiled_schedule.h"
#include "common/schedule/instruction.h"
#include "common/schedule/named_schedules.h"
#include "common/schedule/searched_schedule.h"
#include "common/schedule/step_costs.h"

namespace fathom::cli {
namespace {

using schedule::Instruction;
using schedule::Op;
using schedule::OpKind;
using schedule::Schedule;
using schedule::SimulatedRank;
using schedule::Simulation;
using schedule::StepCosts;

// Of ranks * micro-batches: more is no text that anybody reads.
constexpr int64_t kPrintedCellsMax = int64_t{1} << 20;
constexpr int kTimelineColumnsMin = 20;
constexpr int kColumnsPerUnitMax = 4;  // of the shortest op
constexpr int kOtherColumns = 24;      // of a table's line, beside the timeline

// A schedule and, of a searched one, what it is measured against.
struct Made {
  Schedule schedule;
  Simulation simulation;
  std::string comparison;  // a sentence for people
};

absl::StatusOr<Made> Search(const ScheduleOptions& options, const StepCosts& costs) {
  schedule::SearchRequest request;
  request.ranks = options.ranks;
  request.micro_batches = options.micro_batches;
  request.costs = costs;
  request.max_activations = options.max_activations;
  if (!options.family.empty()) {
    FATHOM_ASSIGN_OR_RETURN(request.family, schedule::ParsePlacementFamily(options.family));
  }
  if (options.chunks > 0) {
    if (request.family != schedule::PlacementFamily::kLoop) {
      return absl::InvalidArgumentError(
          absl::StrCat("--chunks ", options.chunks, ": only the loop takes a number of chunks"));
    }
    request.chunks = options.chunks;
  }
  FATHOM_ASSIGN_OR_RETURN(schedule::SearchedSchedule found, schedule::SearchSchedule(request));
  Made made;
  made.comparison =
      found.named.empty()
          ? "No named schedule of this placement takes these numbers."
          : absl::StrFormat("The best named one of this placement and memory: %s, %g.", found.named,
                            found.named_makespan);
  absl::StrAppendFormat(&made.comparison, " None can be quicker than %g.\n", found.bound);
  made.schedule = std::move(found.schedule);
  made.simulation = std::move(found.simulation);
  return made;
}

absl::StatusOr<Made> Make(const ScheduleOptions& options, const StepCosts& costs) {
  if (absl::AsciiStrToLower(options.kind) == schedule::kSearchedKind) {
    return Search(options, costs);
  }
  if (!options.family.empty() || options.max_activations > 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(options.family.empty() ? "--max-activations" : "--family", " is of --kind ",
                     schedule::kSearchedKind, "; ", options.kind, " has its own"));
  }
  Made made;
  FATHOM_ASSIGN_OR_RETURN(
      made.schedule,
      schedule::MakeSchedule(options.kind, options.ranks, options.micro_batches, options.chunks));
  FATHOM_ASSIGN_OR_RETURN(const auto compiled, schedule::CompiledSchedule::Make(made.schedule));
  FATHOM_ASSIGN_OR_RETURN(made.simulation, compiled.Simulate(costs));
  return made;
}

// Before anything is made, since more could not be printed anyway.
absl::Status CheckPrintable(const ScheduleOptions& options) {
  const int64_t stages = int64_t{std::max(options.ranks, 1)} * std::max(options.chunks, 1);
  if (std::max(options.micro_batches, 0) <= kPrintedCellsMax / stages) return absl::OkStatus();
  const int64_t most = kPrintedCellsMax / stages;
  return absl::InvalidArgumentError(
      absl::StrCat(options.micro_batches, " micro-batches on ", stages,
                   " stages are too many to print; choose at most ",
                   most > 0 ? absl::StrCat(most)
                            : absl::StrCat(kPrintedCellsMax, " stages, ranks times chunks")));
}

Value ScheduleValue(const Schedule& schedule, const Simulation& simulation) {
  Value idle = Value::List();
  Value peaks = Value::List();
  Value ranks = Value::List();
  for (int rank = 0; rank < schedule.ranks; ++rank) {
    idle.Add(simulation.ranks[rank].idle);
    peaks.Add(simulation.ranks[rank].peak_live);
    Value list = Value::List();
    for (const Instruction& instruction : schedule.lists[rank]) {
      list.Add(schedule::ToString(instruction));
    }
    ranks.Add(std::move(list));
  }
  Value value = Value::Object();
  value.Set("makespan", simulation.makespan).Set("idle", std::move(idle));
  value.Set("peak_activations", std::move(peaks)).Set("ranks", std::move(ranks));
  return value;
}

// In lower case when it is not on the rank's first chunk or of the first direction.
std::string Letter(const Op& op) {
  std::string letter = op.kind == OpKind::kForward         ? "F"
                       : op.kind == OpKind::kBackward      ? "B"
                       : op.kind == OpKind::kBackwardInput ? "I"
                                                           : "W";
  if (op.direction + op.chunk > 0) absl::AsciiStrToLower(&letter);
  return letter;
}

// The longest text for an instruction that fits into `columns`, filled up.
std::string BarText(const Instruction& instruction, size_t columns) {
  const Op& first = instruction.first;
  const Op& second = instruction.second;
  std::vector<std::string> texts;  // longest first
  if (instruction.overlapped) {
    texts = {
        absl::StrCat(Letter(first), first.micro_batch, "|", Letter(second), second.micro_batch),
        absl::StrCat(Letter(first), "|", Letter(second)), "|"};
  } else {
    texts = {absl::StrCat(Letter(first), first.micro_batch), Letter(first)};
  }
  for (std::string& text : texts) {
    if (text.size() > columns) continue;
    text.resize(columns, '-');
    return text;
  }
  return "";
}

// Columns per unit of time: whole numbers of them for the shortest op where that fits.
double TimelineScale(const Simulation& simulation, int columns) {
  double shortest = simulation.makespan;
  for (const SimulatedRank& rank : simulation.ranks) {
    for (size_t i = 0; i < rank.starts.size(); ++i) {
      const double time = rank.ends[i] - rank.starts[i];
      if (time > 0) shortest = std::min(shortest, time);
    }
  }
  if (!(simulation.makespan > 0)) return 0;
  const double fit = columns * shortest / simulation.makespan;
  const double per_unit = fit < 1 ? fit : std::min(std::floor(fit), double{kColumnsPerUnitMax});
  return per_unit / shortest;
}

std::string Timeline(const std::vector<Instruction>& list, const SimulatedRank& rank,
                     double scale) {
  std::string line;
  for (size_t i = 0; i < list.size(); ++i) {
    const auto from = static_cast<size_t>(std::llround(rank.starts[i] * scale));
    const auto to = static_cast<size_t>(std::llround(rank.ends[i] * scale));
    if (from > line.size()) line.resize(from, '.');
    if (to > line.size()) line += BarText(list[i], to - line.size());
  }
  return line;
}

void PrintForPeople(const Made& made, Session& session) {
  const Schedule& schedule = made.schedule;
  const Simulation& simulation = made.simulation;
  double busy = 0;
  for (const SimulatedRank& rank : simulation.ranks) busy += rank.busy;
  const double whole = simulation.makespan * schedule.ranks;
  session.out() << absl::StrFormat(
      "%s: %d ranks, %d stages, %d micro-batches: makespan %g, %.1f%% of it idle\n", schedule.kind,
      schedule.ranks, schedule.stages, schedule.micro_batches, simulation.makespan,
      whole > 0 ? 100 * (1 - busy / whole) : 0.0);
  session.out() << made.comparison;
  const double scale = TimelineScale(
      simulation,
      std::max(kTimelineColumnsMin, session.environment().terminal_columns - kOtherColumns));
  Table table;
  table.columns = {{"RANK", false, true},
                   {"IDLE", false, true},
                   {"PEAK", false, true},
                   {"TIMELINE"},
                   {"INSTRUCTIONS", true}};
  for (int rank = 0; rank < schedule.ranks; ++rank) {
    const SimulatedRank& simulated = simulation.ranks[rank];
    Row row;
    row.name = absl::StrCat(rank);
    row.cells = {row.name, absl::StrFormat("%g", simulated.idle), absl::StrCat(simulated.peak_live),
                 Timeline(schedule.lists[rank], simulated, scale),
                 schedule::ToString(schedule.lists[rank])};
    table.rows.push_back(std::move(row));
  }
  session.out() << RenderTable(table, session.format())
                << "F forward, B backward, I backward for the input only, W its deferred weight "
                   "gradient, | an overlapped pair,\n. idle; then the micro-batch, where it fits. ";
  if (schedule.directions == 2) session.out() << "Lower case: the other direction. ";
  if (schedule.chunks > 1) session.out() << "Lower case: not the rank's first chunk. ";
  session.out() << "PEAK: activations held, in micro-batches of a chunk.\n";
}

}  // namespace

absl::Status RunSchedule(const ScheduleOptions& options, Session& session) {
  StepCosts costs;
  FATHOM_ASSIGN_OR_RETURN(costs.stages, ParseScheduleCosts(options.costs, options.stage_costs));
  costs.message_time = options.message_time;
  FATHOM_RETURN_IF_ERROR(CheckPrintable(options));
  FATHOM_ASSIGN_OR_RETURN(const Made made, Make(options, costs));
  if (!options.svg.empty()) {
    const PictureOptions picture = {.title = made.schedule.kind, .has_seconds = false};
    FATHOM_RETURN_IF_ERROR(WithContext(
        WriteFileAtomically(session.AbsolutePath(options.svg),
                            PipelineSvg(TimelineOf(made.schedule, made.simulation), picture)),
        "--svg"));
  }
  if (session.for_people()) {
    PrintForPeople(made, session);
  } else {
    session.out() << RenderOne(made.schedule.kind, ScheduleValue(made.schedule, made.simulation),
                               session.format());
  }
  return absl::OkStatus();
}

}  // namespace fathom::cli
