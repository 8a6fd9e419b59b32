#include "worker/calibration/profile_run.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/status_util.h"
#include "common/calibration/least_squares.h"
#include "common/calibration/op_time_names.h"
#include "common/cluster/device_profiles.h"
#include "common/model/precision_recipe.h"
#include "worker/calibration/core_clock.h"
#include "worker/calibration/message_probe.h"
#include "worker/calibration/op_fit.h"
#include "worker/calibration/profile_jobs.h"
#include "worker/calibration/step_counts.h"
#include "worker/calibration/training_run.h"

namespace fathom::calibration {
namespace {

constexpr int64_t kTokens = 200'000;
constexpr char kTokenFile[] = "calibration-tokens.bin";

// Of one rank, by its thread's time.
double StepSeconds(const MeasuredRank& rank) {
  std::vector<double> seconds;
  for (const v1::StepReport& step : rank.steps) seconds.push_back(step.seconds());
  return Median(std::move(seconds));
}

v1::OpTime Entry(const char* op, double fixed, double per_byte) {
  v1::OpTime entry;
  entry.set_op(op);
  entry.set_fixed_seconds(fixed);
  entry.set_seconds_per_byte(per_byte);
  return entry;
}

bool IsHostCopy(const OpShape& shape) {
  return shape.op == "CopyFromHost" || shape.op == "CopyToHost";
}

// Copies to and from the backend's memory are part of the token exchange, which counts them.
void DropHostCopies(TypicalCalls* calls) {
  for (auto at = calls->begin(); at != calls->end();) {
    const auto here = at++;
    if (IsHostCopy(here->first)) calls->erase(here);
  }
}

// One shape in one precision on one rank, by round.
struct AloneRun {
  std::string name;
  TrainingRun training;
  StepCounts counts;
  std::vector<TypicalCalls> ops;
  std::vector<double> step_s;
};

// Several ranks that train one of those together, by round.
struct Group {
  size_t alone = 0;  // index of the same job on one rank
  TrainingRun training;
  std::vector<double> step_s;
  std::vector<double> core_over_alone;
};

// A run of one rank, over all rounds.
struct Typical {
  TypicalCalls ops;
  double ops_s = 0;
  double step_s = 0;
};

Typical TypicalOfRounds(const AloneRun& run) {
  Typical out;
  out.ops = MedianOf(run.ops);
  out.ops_s = TotalSeconds(out.ops);
  // What is beside the ops: from steps and ops of the same round.
  std::vector<double> over_ops;
  for (size_t round = 0; round < run.ops.size(); ++round) {
    over_ops.push_back(run.step_s[round] / TotalSeconds(run.ops[round]));
  }
  out.step_s = out.ops_s * Median(std::move(over_ops));
  return out;
}

// What steps take beside ops and hashes: per call of an op, byte exchanged, instruction and step.
void FitRest(const std::vector<AloneRun>& runs, const std::vector<Typical>& typical, double hash,
             v1::OpTimes* times) {
  std::vector<Equation> equations;
  for (size_t i = 0; i < runs.size(); ++i) {
    const StepCounts& counts = runs[i].counts;
    const double step = typical[i].step_s;
    const double rest = std::max(0.0, step - typical[i].ops_s - hash * counts.hashed_bytes);
    equations.push_back(
        {{counts.calls, counts.exchange_bytes, counts.instructions, 1.0}, rest, 1 / (step * step)});
  }
  const std::vector<double> x = NonNegativeLeastSquares(equations);
  *times->add_ops() = Entry(kOverhead, x[0], 0);
  *times->add_ops() = Entry(kExchange, 0, x[1]);
  *times->add_ops() = Entry(kInstruction, x[2], 0);
  *times->add_ops() = Entry(kStep, x[3], 0);
  *times->add_ops() = Entry(kHash, 0, hash);
}

// Standard deviation of the tokens that an expert gets, over the mean, from what two expert ranks
// got at a time: the mean absolute deviation of half of the experts' sum, were they independent
// and normal. 0: no call is known.
double SpreadOfExperts(const OpSamples& of_one_rank, int64_t experts) {
  double calls = 0;
  double rows = 0;
  for (const auto& [shape, samples] : of_one_rank) {
    if (shape.op != "WeightedSwiGluForward") continue;
    calls += static_cast<double>(samples.size());
    rows += static_cast<double>(samples.size()) * static_cast<double>(shape.m);
  }
  if (calls == 0) return 0;
  double deviation = 0;
  for (const auto& [shape, samples] : of_one_rank) {
    if (shape.op != "WeightedSwiGluForward") continue;
    deviation +=
        static_cast<double>(samples.size()) * std::abs(static_cast<double>(shape.m) - rows / calls);
  }
  return deviation / rows * std::sqrt(static_cast<double>(experts) * M_PI / 2);
}

// What messages and hashes cost, by round.
struct Probes {
  std::vector<MessageTimes> shm, tcp;
  std::vector<double> reduce, hash;
};

template <typename Probe>
double MedianOver(const std::vector<Probe>& probes, double Probe::*field) {
  std::vector<double> values;
  for (const Probe& probe : probes) values.push_back(probe.*field);
  return Median(std::move(values));
}

void AddProbes(const Probes& probes, v1::OpTimes* times) {
  const auto add = [&](const char* message, const char* latency,
                       const std::vector<MessageTimes>& wire) {
    *times->add_ops() = Entry(message, MedianOver(wire, &MessageTimes::seconds_per_message),
                              MedianOver(wire, &MessageTimes::seconds_per_byte));
    *times->add_ops() = Entry(latency, MedianOver(wire, &MessageTimes::latency_seconds), 0);
  };
  add(kMessageShm, kLatencyShm, probes.shm);
  add(kMessageTcp, kLatencyTcp, probes.tcp);
  *times->add_ops() = Entry(kReduce, 0, Median(probes.reduce));
  *times->add_ops() = Entry(kTurn, 0, 0);
}

// The built-in profile of a core with what was measured of this one.
absl::StatusOr<v1::DeviceProfile> FrameOf(const ProfileOptions& options) {
  FATHOM_ASSIGN_OR_RETURN(v1::DeviceProfile profile, cluster::FindProfile("cpu"));
  profile.set_title(absl::StrCat("a core of ", options.machine));
  if (options.memory_bytes > 0) {
    profile.set_memory_bytes(options.memory_bytes / options.cores);
    for (v1::Source& source : *profile.mutable_sources()) {
      if (source.figure() == "memory_bytes") source.set_text("this machine's memory per core");
    }
  }
  return profile;
}

}  // namespace

class MachineProfile::Measured {
 public:
  Measured(const ProfileOptions& options, const Clock* clock)
      : options_(options), clock_(clock), core_(clock), meter_s_(ProbeClock(clock)) {}

  absl::Status Prepare();
  absl::Status RunRound();
  absl::StatusOr<Profiled> Finish() const;

 private:
  absl::Status AddGroups(const ProfileShape& shape, const std::string& precision,
                         const std::string& token_file);
  absl::Status RunAlone(AloneRun* run);
  absl::Status RunGroup(Group* group);
  absl::Status Probe();

  const ProfileOptions options_;
  const Clock* const clock_;
  const CoreClock core_;
  const double meter_s_;
  std::vector<AloneRun> alone_;
  std::vector<Group> groups_;
  std::vector<double> spreads_;
  Probes probes_;
};

absl::Status MachineProfile::Measured::Prepare() {
  const std::string token_file = absl::StrCat(options_.scratch_folder, "/", kTokenFile);
  FATHOM_RETURN_IF_ERROR(WriteCalibrationTokens(token_file, kTokens));
  std::vector<std::string> precisions = options_.precisions;
  if (precisions.empty()) precisions = model::RecipeNames();
  v1::Parallelism one;
  for (const std::string& precision : precisions) {
    for (const ProfileShape& shape : ProfileShapes()) {
      AloneRun& run = alone_.emplace_back();
      run.name = absl::StrCat(shape.name, " ", precision);
      FATHOM_ASSIGN_OR_RETURN(run.training.spec, ProfileSpec(shape, precision, one, token_file));
      run.training.warm_steps = shape.steps;
      run.training.steps = shape.steps;
      run.training.meter_ops = true;
      run.training.meter_clock = clock_;  // a thread's own time takes longer to read than small ops
      FATHOM_ASSIGN_OR_RETURN(run.counts, CountStep(run.training.spec));
      FATHOM_RETURN_IF_ERROR(AddGroups(shape, precision, token_file));
    }
  }
  return absl::OkStatus();
}

// Of the last run of one rank.
absl::Status MachineProfile::Measured::AddGroups(const ProfileShape& shape,
                                                 const std::string& precision,
                                                 const std::string& token_file) {
  for (const v1::Parallelism& layout : GroupLayouts(options_.cores)) {
    Group& group = groups_.emplace_back();
    group.alone = alone_.size() - 1;
    FATHOM_ASSIGN_OR_RETURN(group.training.spec, ProfileSpec(shape, precision, layout, token_file));
    group.training.warm_steps = shape.steps;
    group.training.steps = shape.steps;
  }
  return absl::OkStatus();
}

absl::Status MachineProfile::Measured::RunAlone(AloneRun* run) {
  FATHOM_ASSIGN_OR_RETURN(const MeasuredTraining measured, RunTraining(run->training, &core_));
  TypicalCalls ops = TypicalOf(measured.ranks[0].ops, meter_s_, run->training.steps);
  DropHostCopies(&ops);
  run->ops.push_back(std::move(ops));
  run->step_s.push_back(StepSeconds(measured.ranks[0]));
  return absl::OkStatus();
}

absl::Status MachineProfile::Measured::RunGroup(Group* group) {
  const v1::Parallelism& layout = group->training.spec.parallelism();
  const bool first = group->step_s.empty();
  FATHOM_ASSIGN_OR_RETURN(const MeasuredTraining measured, RunTraining(group->training, clock_));
  group->step_s.push_back(StepSeconds(measured.ranks[0]));
  group->core_over_alone.push_back(measured.core_seconds / alone_[group->alone].step_s.back());
  if (!first) return absl::OkStatus();
  if (layout.expert() != 2 || layout.pipeline() != 1) return absl::OkStatus();
  // Where tokens go is the same in every round.
  TrainingRun metered = group->training;
  metered.meter_ops = true;
  FATHOM_ASSIGN_OR_RETURN(const MeasuredTraining routed, RunTraining(metered, clock_));
  spreads_.push_back(SpreadOfExperts(routed.ranks[0].ops, metered.spec.model().n_routed_experts()));
  return absl::OkStatus();
}

absl::Status MachineProfile::Measured::Probe() {
  FATHOM_ASSIGN_OR_RETURN(const MessageTimes shm, ProbeMessages(Wire::kShm, clock_));
  FATHOM_ASSIGN_OR_RETURN(const MessageTimes tcp, ProbeMessages(Wire::kTcp, clock_));
  FATHOM_ASSIGN_OR_RETURN(const double reduce, ProbeReduce(shm));
  probes_.shm.push_back(shm);
  probes_.tcp.push_back(tcp);
  probes_.reduce.push_back(reduce);
  probes_.hash.push_back(ProbeHash(&core_));
  return absl::OkStatus();
}

absl::Status MachineProfile::Measured::RunRound() {
  size_t group = 0;
  for (size_t i = 0; i < alone_.size(); ++i) {
    FATHOM_RETURN_IF_ERROR(WithContext(RunAlone(&alone_[i]), alone_[i].name));
    for (; group < groups_.size() && groups_[group].alone == i; ++group) {
      FATHOM_RETURN_IF_ERROR(
          WithContext(RunGroup(&groups_[group]), absl::StrCat(alone_[i].name, ", several ranks")));
    }
  }
  return Probe();
}

absl::StatusOr<Profiled> MachineProfile::Measured::Finish() const {
  if (probes_.hash.empty()) return absl::FailedPreconditionError("a profile without a round");
  Profiled out;
  FATHOM_ASSIGN_OR_RETURN(out.profile, FrameOf(options_));
  v1::OpTimes& times = *out.profile.mutable_op_times();
  std::vector<Typical> typical;
  std::vector<TypicalCalls> ops;
  for (const AloneRun& run : alone_) {
    typical.push_back(TypicalOfRounds(run));
    ops.push_back(typical.back().ops);
  }
  for (const v1::OpTime& entry : FitOps(ops)) *times.add_ops() = entry;
  FitRest(alone_, typical, Median(probes_.hash), &times);
  AddProbes(probes_, &times);
  times.set_cores(options_.cores);
  times.set_busy_slowdown(1);
  times.set_turns_slowdown(1);
  times.set_expert_load_spread(Median(spreads_));
  for (const Group& group : groups_) {
    v1::GroupRun& run = *times.add_group_runs();
    *run.mutable_spec() = group.training.spec;
    const double alone_s = typical[group.alone].step_s;
    run.set_step_seconds(Median(group.step_s));
    run.set_core_seconds(alone_s * Median(group.core_over_alone));
    run.set_alone_core_seconds(alone_s);
  }
  times.set_machine(options_.machine);
  times.set_measured_ms(clock_->WallMs());
  for (size_t i = 0; i < alone_.size(); ++i) {
    out.runs.push_back(
        {alone_[i].name, typical[i].step_s, typical[i].ops_s, FittedStep(times, alone_[i].counts)});
  }
  return out;
}

MachineProfile::MachineProfile(std::unique_ptr<Measured> measured)
    : measured_(std::move(measured)) {}
MachineProfile::~MachineProfile() = default;

absl::StatusOr<std::unique_ptr<MachineProfile>> MachineProfile::Start(const ProfileOptions& options,
                                                                      const Clock* clock) {
  auto measured = std::make_unique<Measured>(options, clock);
  FATHOM_RETURN_IF_ERROR(measured->Prepare());
  return std::unique_ptr<MachineProfile>(new MachineProfile(std::move(measured)));
}
absl::Status MachineProfile::RunRound() { return measured_->RunRound(); }
absl::StatusOr<Profiled> MachineProfile::Finish() const { return measured_->Finish(); }

absl::StatusOr<Profiled> RunProfile(const ProfileOptions& options, const Clock* clock,
                                    const std::function<void(absl::string_view)>& progress) {
  FATHOM_ASSIGN_OR_RETURN(const std::unique_ptr<MachineProfile> profile,
                          MachineProfile::Start(options, clock));
  for (int round = 1; round <= options.rounds; ++round) {
    progress(absl::StrCat("training small jobs, on one rank and on several, round ", round, " of ",
                          options.rounds));
    FATHOM_RETURN_IF_ERROR(profile->RunRound());
  }
  return profile->Finish();
}

std::string SummaryOf(const Profiled& profiled) {
  std::string out =
      absl::StrFormat("%-24s %12s %12s %8s\n", "training run", "measured ms", "fitted ms", "error");
  double sum = 0;
  for (const ProfiledRun& run : profiled.runs) {
    const double error = run.fitted_s / run.measured_s - 1;
    sum += std::abs(error);
    absl::StrAppendFormat(&out, "%-24s %12.3f %12.3f %+7.1f%%\n", run.name, 1e3 * run.measured_s,
                          1e3 * run.fitted_s, 100 * error);
  }
  absl::StrAppendFormat(&out, "mean error of the fit %.1f%%, of %d entries\n",
                        100 * sum / static_cast<double>(profiled.runs.size()),
                        profiled.profile.op_times().ops_size());
  return out;
}

}  // namespace fathom::calibration
