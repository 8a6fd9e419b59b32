#include "coordinator/planner/calibration/sharing_fit.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_util.h"
#include "common/calibration/least_squares.h"
#include "common/calibration/op_time_names.h"
#include "coordinator/planner/calibration/machine_step.h"

namespace fathom::planner {
namespace {

using calibration::Equation;

constexpr double kTurnUnit = 1e-6;  // by which turns are counted

v1::OpTime& TurnOf(v1::OpTimes* times) {
  for (v1::OpTime& entry : *times->mutable_ops()) {
    if (entry.op() == calibration::kTurn) return entry;
  }
  v1::OpTime& entry = *times->add_ops();
  entry.set_op(calibration::kTurn);
  return entry;
}

int RanksOf(const v1::Parallelism& layout) {
  return layout.pipeline() * layout.expert() * layout.replicas();
}

absl::StatusOr<CpuStep> PredictRun(const v1::GroupRun& run, const v1::OpTimes& times) {
  return PredictOnOneMachine(run.spec(), RanksOf(run.spec().parallelism()), times);
}

// A group run as the op times see it, before anything is fitted.
struct GroupWork {
  int ranks = 0;
  double work_s = 0;  // of cores that nobody shares
  double turns = 0;
  double measured_s = 0;  // core time
  double bias = 1;        // measured over predicted, of the job on one rank
};

absl::Status CheckRun(const v1::GroupRun& run) {
  const v1::Parallelism& layout = run.spec().parallelism();
  if (layout.pipeline() < 1 || layout.expert() < 1 || layout.replicas() < 1 ||
      run.spec().training().micro_batches() < 1) {
    return absl::InvalidArgumentError(
        "op_times.group_runs: a run without ranks or micro-batches; profile the machine again");
  }
  for (const double seconds : {run.step_seconds(), run.core_seconds(), run.alone_core_seconds()}) {
    if (seconds > 0) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("op_times.group_runs: a run of ", seconds, " s; profile the machine again"));
  }
  return absl::OkStatus();
}

absl::StatusOr<GroupWork> WorkOfRun(const v1::GroupRun& run, v1::OpTimes plain) {
  FATHOM_RETURN_IF_ERROR(CheckRun(run));
  v1::JobSpec one = run.spec();
  one.mutable_parallelism()->set_pipeline(1);
  one.mutable_parallelism()->set_expert(1);
  one.mutable_parallelism()->set_replicas(1);
  FATHOM_ASSIGN_OR_RETURN(const CpuStep alone, PredictOnOneMachine(one, 1, plain));
  FATHOM_ASSIGN_OR_RETURN(const CpuStep group, PredictRun(run, plain));
  TurnOf(&plain).set_fixed_seconds(kTurnUnit);
  FATHOM_ASSIGN_OR_RETURN(const CpuStep turning, PredictRun(run, plain));
  GroupWork out;
  out.ranks = RanksOf(run.spec().parallelism());
  out.bias = run.alone_core_seconds() / alone.core_seconds;
  out.work_s = group.core_seconds * out.bias;
  out.turns = (turning.core_seconds - group.core_seconds) / kTurnUnit;
  out.measured_s = run.core_seconds();
  return out;
}

// Equations below are weighted by the work that is known, not by the noisy measurement: else runs
// that were measured short by chance would count more.

// busy_slowdown and a turn, from groups that have a core for each rank.
void FitBusy(const std::vector<GroupWork>& works, v1::OpTimes* times) {
  std::vector<Equation> equations;
  for (const GroupWork& work : works) {
    if (work.ranks > times->cores()) continue;
    equations.push_back(
        {{work.work_s, work.turns}, work.measured_s, 1 / (work.work_s * work.work_s)});
  }
  if (equations.empty()) return;
  std::vector<double> x = calibration::NonNegativeLeastSquares(equations);
  if (x[0] < 1) {
    for (Equation& equation : equations) {
      equation.result = std::max(0.0, equation.result - equation.factors[0]);
      equation.factors.erase(equation.factors.begin());
    }
    x = {1, calibration::NonNegativeLeastSquares(equations)[0]};
  }
  times->set_busy_slowdown(x[0]);
  TurnOf(times).set_fixed_seconds(x[1]);
}

// turns_slowdown, from groups of more ranks than cores.
void FitTurns(const std::vector<GroupWork>& works, v1::OpTimes* times) {
  const double busy = times->cores() > 1 ? times->busy_slowdown() : 1;
  std::vector<Equation> equations;
  for (const GroupWork& work : works) {
    if (work.ranks <= times->cores()) continue;
    const double turns_s = work.turns * TurnOf(times).fixed_seconds();
    equations.push_back({{busy * work.work_s},
                         std::max(0.0, work.measured_s - turns_s),
                         1 / (work.work_s * work.work_s)});
  }
  if (equations.empty()) return;
  times->set_turns_slowdown(std::max(1.0, calibration::NonNegativeLeastSquares(equations)[0]));
}

// group_slowdown, from all groups, when all else is fitted.
absl::Status FitGroups(const std::vector<GroupWork>& works, v1::OpTimes* times) {
  std::vector<Equation> equations;
  for (int i = 0; i < times->group_runs_size(); ++i) {
    const v1::GroupRun& run = times->group_runs(i);
    FATHOM_ASSIGN_OR_RETURN(const CpuStep step, PredictRun(run, *times));
    const double fitted = works[i].bias * step.seconds;
    equations.push_back({{fitted}, run.step_seconds(), 1 / (fitted * fitted)});
  }
  times->set_group_slowdown(std::max(1.0, calibration::NonNegativeLeastSquares(equations)[0]));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<FittedGroup>> FitSharing(v1::OpTimes* times) {
  std::vector<FittedGroup> groups;
  if (times->group_runs().empty()) return groups;
  v1::OpTimes plain = *times;
  plain.set_busy_slowdown(1);
  plain.set_turns_slowdown(1);
  TurnOf(&plain).set_fixed_seconds(0);
  std::vector<GroupWork> works;
  for (const v1::GroupRun& run : times->group_runs()) {
    FATHOM_ASSIGN_OR_RETURN(GroupWork work, WorkOfRun(run, plain));
    works.push_back(work);
  }
  FitBusy(works, times);
  FitTurns(works, times);
  times->set_group_slowdown(1);
  FATHOM_RETURN_IF_ERROR(FitGroups(works, times));
  for (const v1::GroupRun& run : times->group_runs()) {
    const v1::Parallelism& layout = run.spec().parallelism();
    FATHOM_ASSIGN_OR_RETURN(const CpuStep step, PredictRun(run, *times));
    groups.push_back(
        {absl::StrCat("hidden ", run.spec().model().hidden_size(), " ", run.spec().precision(), " ",
                      layout.pipeline(), "x", layout.expert(), "x", layout.replicas()),
         run.step_seconds(), step.seconds, run.core_seconds(), step.core_seconds});
  }
  times->clear_group_runs();
  return groups;
}

}  // namespace fathom::planner
