#include "cli/schedule_verb.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <ostream>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "cli/render.h"
#include "cli/value.h"
#include "common/base/status_util.h"
#include "common/schedule/event_simulator.h"
#include "common/schedule/instruction.h"
#include "common/schedule/named_schedules.h"

namespace fathom::cli {
namespace {

using schedule::Instruction;
using schedule::Op;
using schedule::OpKind;
using schedule::Schedule;
using schedule::SimulatedRank;
using schedule::Simulation;
using schedule::StageCosts;

constexpr double kCostMax = 1e12;
// Of stages * micro-batches: more is no text that anybody reads.
constexpr int64_t kPrintedCellsMax = int64_t{1} << 20;
constexpr int kTimelineColumnsMin = 20;
constexpr int kColumnsPerUnitMax = 4;  // of the shortest op
constexpr int kOtherColumns = 24;      // of a table's line, beside the timeline

// "F=1,B=1,W=1,FB=3", any of them. B is the gradient for the input; a full backward is B and W.
absl::StatusOr<StageCosts> ParseCosts(const std::string& text) {
  double f = 1, b = 1, w = 1, fb = 0;
  std::set<std::string> seen;
  for (const absl::string_view part : absl::StrSplit(text, ',', absl::SkipWhitespace())) {
    const auto bad = [&](auto... why) {
      return absl::InvalidArgumentError(absl::StrCat("--costs: \"", part, "\": ", why...,
                                                     "; give F=1,B=1,W=1,FB=3, any of them"));
    };
    const std::vector<std::string> sides = absl::StrSplit(part, absl::MaxSplits('=', 1));
    const std::string name = absl::AsciiStrToUpper(absl::StripAsciiWhitespace(sides.front()));
    double* const target = name == "F"    ? &f
                           : name == "B"  ? &b
                           : name == "W"  ? &w
                           : name == "FB" ? &fb
                                          : nullptr;
    if (target == nullptr) return bad("no such cost");
    if (sides.size() < 2 || !absl::SimpleAtod(sides[1], target)) return bad("no number");
    if (!(*target >= 0 && *target <= kCostMax)) {
      return bad("not between 0 and ", absl::StrFormat("%g", kCostMax));
    }
    if (!seen.insert(name).second) return bad(name, " is given twice");
  }
  if (!seen.contains("FB")) fb = f + b + w;
  StageCosts costs;
  costs.forward = f;
  costs.backward = b + w;
  costs.backward_input = b;
  costs.weight = w;
  costs.overlapped = fb;
  return costs;
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

void PrintForPeople(const Schedule& schedule, const Simulation& simulation, Session& session) {
  double busy = 0;
  for (const SimulatedRank& rank : simulation.ranks) busy += rank.busy;
  const double whole = simulation.makespan * schedule.ranks;
  session.out() << absl::StrFormat(
      "%s: %d ranks, %d stages, %d micro-batches: makespan %g, %.1f%% of it idle\n", schedule.kind,
      schedule.ranks, schedule.stages, schedule.micro_batches, simulation.makespan,
      whole > 0 ? 100 * (1 - busy / whole) : 0.0);
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
  FATHOM_ASSIGN_OR_RETURN(const StageCosts costs, ParseCosts(options.costs));
  FATHOM_ASSIGN_OR_RETURN(
      const Schedule schedule,
      schedule::MakeSchedule(options.kind, options.ranks, options.micro_batches, options.chunks));
  if (int64_t{schedule.stages} * schedule.micro_batches > kPrintedCellsMax) {
    return absl::InvalidArgumentError(absl::StrCat(
        schedule.micro_batches, " micro-batches on ", schedule.stages,
        " stages are too many to print; choose at most ", kPrintedCellsMax / schedule.stages));
  }
  FATHOM_ASSIGN_OR_RETURN(const Simulation simulation, schedule::Simulate(schedule, {costs}));
  if (session.for_people()) {
    PrintForPeople(schedule, simulation, session);
  } else {
    session.out() << RenderOne(schedule.kind, ScheduleValue(schedule, simulation),
                               session.format());
  }
  return absl::OkStatus();
}

}  // namespace fathom::cli
