// What the detectors see is told as an event, once; in the mode "act" the core also does something
// about it.
#include <algorithm>
#include <map>
#include <numeric>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/base/text.h"
#include "common/plan/plan_layout.h"
#include "coordinator/core/coordinator_core.h"
#include "coordinator/core/job_state.h"

namespace fathom {
namespace {

constexpr double kDefaultStartTimeoutS = 120;
constexpr size_t kStackBytesMax = 4000;      // of a rank's stack in the record of a hang
constexpr size_t kStacksBytesMax = 400'000;  // of all of them
constexpr size_t kRanksToldMax = 8;

enum class Mode { kOff, kObserve, kAct };

Mode ModeOf(const std::string& given, Mode fallback) {
  if (given.empty()) return fallback;
  if (given == "act") return Mode::kAct;
  return given == "observe" ? Mode::kObserve : Mode::kOff;
}

std::string RankOn(const v1::Plan& plan, int32_t rank) {
  return absl::StrCat("rank ", rank, " on node ", plan.ranks(rank).node());
}

// The same number for ranks of which `group_of` gives the same list.
template <typename GroupOf>
std::vector<int32_t> Numbered(const v1::Plan& plan, GroupOf group_of) {
  std::vector<int32_t> numbers(static_cast<size_t>(plan.ranks_size()), -1);
  for (int32_t rank = 0; rank < plan.ranks_size(); ++rank) {
    if (numbers[rank] >= 0) continue;
    for (const int member : group_of(plan, rank)) numbers[member] = rank;
  }
  return numbers;
}

std::vector<const v1::StepReport*> NewestSteps(const Gang& gang) {
  std::vector<const v1::StepReport*> steps;
  steps.reserve(gang.ranks().size());
  for (const v1::RankStatus& rank : gang.ranks()) steps.push_back(&rank.last_step());
  return steps;
}

}  // namespace

CoordinatorCore::JobDetectors& CoordinatorCore::DetectorsOf(const DurableJob& job) {
  JobDetectors& detectors = job_detectors_[job.id];
  if (detectors.plan == job.plan) return detectors;
  detectors = JobDetectors();
  detectors.plan = job.plan;
  const v1::Plan& plan = *job.plan;
  std::vector<double> cost(static_cast<size_t>(plan.ranks_size()), 1.0);
  if (options_.planning.rank_costs) {
    std::vector<double> known = options_.planning.rank_costs(plan);
    if (known.size() == cost.size()) cost = std::move(known);
  }
  // A plan without a grid: alike in work, and what each holds isn't known.
  std::vector<int32_t> same_work(cost.size(), 0);
  std::vector<int32_t> same_weights(cost.size());
  std::iota(same_weights.begin(), same_weights.end(), 0);
  const v1::Parallelism& shape = plan.spec().parallelism();
  const bool grid = shape.pipeline() > 0 && shape.expert() > 0 && shape.replicas() > 0 &&
                    RanksOf(plan.spec()) == plan.ranks_size();
  if (grid) {
    same_work = Numbered(plan, plan::DenseGroup);
    same_weights = Numbered(plan, plan::ExpertOwnerGroup);
  }
  detectors.straggler.emplace(std::move(cost), std::move(same_work));
  detectors.corruption.emplace(same_weights);
  return detectors;
}

void CoordinatorCore::RunDetectors(Moment now) {
  std::erase_if(job_detectors_, [this](const auto& entry) {
    const auto job = state_.Find(entry.first);
    return job == nullptr || !IsActive(job->state);
  });
  // Where this program stood still itself, jobs did not.
  const int64_t pause_ms = detected_ms_ < 0 ? 0 : now.steady_ms - detected_ms_;
  detected_ms_ = now.steady_ms;
  if (pause_ms > options_.lease_ms / 2) {
    for (auto& [id, detectors] : job_detectors_) detectors.hang.Pardon(pause_ms);
  }
  // While most nodes are silent, what jobs do isn't known.
  if (nodes_.MostAreSilent()) return;
  std::vector<JobId> running;
  for (const auto& [id, gang] : gangs_) running.push_back(id);
  for (const JobId& id : running) {
    // Each may have changed the job.
    for (const auto detect : {&CoordinatorCore::DetectCorruption, &CoordinatorCore::DetectHang,
                              &CoordinatorCore::DetectStraggler}) {
      const auto job = state_.Find(id);
      const Gang* gang = FindGang(id);
      const bool trains = job != nullptr && job->state == v1::JOB_STATE_RUNNING &&
                          job->HasCurrentPlan() && gang != nullptr &&
                          &gang->plan() == job->plan.get();
      if (trains) (this->*detect)(*job, *gang, now);
    }
  }
  DetectBadHealth(now);
}

// --- Hang ---

void CoordinatorCore::DetectHang(const DurableJob& job, const Gang& gang, Moment now) {
  const Mode mode = ModeOf(options_.detectors.hang(), Mode::kAct);
  if (mode == Mode::kOff || gang.failure() != nullptr) return;
  const v1::JobSpec& spec = job.job->spec();
  const v1::Training& training = spec.training();
  HangSample sample;
  sample.epoch = job.epoch;
  const double start_s = spec.restart().start_timeout_s();
  sample.first_step_s = start_s > 0 ? start_s : kDefaultStartTimeoutS;
  if (gang.FirstStepDone()) {
    sample.step = gang.newest_step().step;
    sample.step_seconds = gang.newest_step().seconds;
  }
  sample.last_step = sample.step >= training.steps();
  if (training.validation_every() > 0 && sample.step % training.validation_every() == 0) {
    sample.extra_steps = static_cast<double>(training.validation_batches()) /
                         static_cast<double>(std::max<int64_t>(training.micro_batches(), 1));
  }
  // What a node that is not in touch did since its last report isn't known; silence is counted only
  // as far as all have spoken.
  sample.now_ms = now.steady_ms;
  for (const auto& [name, ranks] : gang.ranks_on()) {
    const NodeEntry* node = nodes_.Find(NodeName(name));
    if (node != nullptr) sample.now_ms = std::min(sample.now_ms, node->last_seen_steady_ms);
  }
  JobDetectors& detectors = DetectorsOf(job);
  const HangDetector::Verdict verdict = detectors.hang.Watch(sample);
  if (verdict == HangDetector::Verdict::kAsk) {
    if (mode == Mode::kObserve && detectors.hung_step == sample.step) return;
    v1::JobChange change;
    change.set_diagnose(job.diagnose + 1);
    ChangeJob(job, "JobSilent",
              absl::StrFormat("no rank reported a step after step %d for %.1f s; all are asked "
                              "what they are at",
                              sample.step,
                              static_cast<double>(detectors.hang.silent_ms(sample.now_ms)) / 1000),
              std::move(change), now);
  }
  if (verdict == HangDetector::Verdict::kConclude) {
    if (mode == Mode::kObserve && detectors.hung_step == sample.step) return;
    detectors.hung_step = sample.step;
    ConcludeHang(job, gang, mode == Mode::kAct, now);
  }
}

void CoordinatorCore::ConcludeHang(const DurableJob& job, const Gang& gang, bool act, Moment now) {
  const auto token = static_cast<uint64_t>(job.diagnose);
  const double patience_s = DetectorsOf(job).hang.patience_ms() / 1000;
  const std::vector<HangBlame> blamed = BlameForHang(gang.ranks(), token, patience_s);
  GangFailure failure;
  failure.cause = "hang";
  failure.message = absl::StrFormat(
      "no new step after step %d within %.1f s: ", gang.newest_step().step, patience_s);
  if (blamed.empty()) {
    absl::StrAppend(&failure.message, "all ranks wait for each other");
  } else {
    failure.node = gang.plan().ranks(blamed[0].rank).node();
    std::vector<std::string> whys;
    for (const HangBlame& one : blamed) {
      if (whys.size() >= kRanksToldMax) break;
      whys.push_back(absl::StrCat(RankOn(gang.plan(), one.rank), ": ", one.why));
    }
    if (blamed.size() > whys.size()) {
      whys.push_back(absl::StrCat("and ", blamed.size() - whys.size(), " more"));
    }
    absl::StrAppend(&failure.message, absl::StrJoin(whys, "; "));
  }
  std::string told = failure.message;
  v1::JobChange change;
  const size_t stack_bytes = std::min(kStackBytesMax, kStacksBytesMax / gang.ranks().size());
  for (const v1::RankStatus& rank : gang.ranks()) {
    v1::RankDiagnosis& diagnosis = *change.add_diagnoses();
    if (rank.diagnosis().token() != token) {
      diagnosis.set_token(token);
      diagnosis.set_process("no answer");
    } else {
      diagnosis = rank.diagnosis();
      diagnosis.set_stack(CutText(diagnosis.stack(), stack_bytes));
    }
    absl::StrAppendFormat(
        &told, "\n%s: %s%s", RankOn(gang.plan(), rank.rank()), diagnosis.process(),
        diagnosis.instruction().empty()
            ? std::string()
            : absl::StrFormat(", %s for %.1f s", diagnosis.instruction(), diagnosis.seconds()));
  }
  ChangeJob(job, "JobHung", told, std::move(change), now);
  if (act) FailEpoch(*state_.Find(job.id), gang, failure, now);
}

// --- Stragglers ---

void CoordinatorCore::DetectStraggler(const DurableJob& job, const Gang& gang, Moment now) {
  const Mode mode = ModeOf(options_.detectors.straggler(), Mode::kObserve);
  if (mode == Mode::kOff || !gang.FirstStepDone()) return;
  JobDetectors& detectors = DetectorsOf(job);
  const std::optional<Straggler> found = detectors.straggler->Watch(NewestSteps(gang));
  if (!found.has_value()) return;
  const std::string& node = job.plan->ranks(found->rank).node();
  const std::string what = absl::StrFormat(
      "%s is slow: its own part of step %d took %.3f s where %.3f s were expected, as in the "
      "%d steps before",
      RankOn(*job.plan, found->rank), found->step, found->busy_s, found->expected_s,
      kStragglerSteps - 1);
  if (detectors.stragglers_told.insert(found->rank).second) {
    DetectorEvent("StragglerDetected", job.id, NodeName(node), what, now);
  }
  if (mode == Mode::kAct) ReplaceNode(job, NodeName(node), absl::StrCat("straggler: ", what), now);
}

// One at a time, and only where another can take its place.
void CoordinatorCore::ReplaceNode(const DurableJob& job, const NodeName& node,
                                  const std::string& reason, Moment now) {
  if (job.next_plan != nullptr || job.park != nullptr) return;
  for (const auto& [name, decided] : state_.nodes()) {
    if (name == node && decided->admin.draining()) return;
    const bool ours = decided->admin.draining() && decided->admin.actor() == "coordinator";
    if (ours && HasRanks(name)) return;
  }
  const std::vector<v1::DrainedJob> moves = WhereTo(node, "");
  const bool all_fit = std::all_of(moves.begin(), moves.end(),
                                   [](const v1::DrainedJob& move) { return move.to_size() > 0; });
  if (!all_fit) return;
  v1::NodeAdmin admin;
  admin.set_cordoned(true);
  admin.set_draining(true);
  admin.set_reason(reason);
  admin.set_cause("straggler");
  admin.set_actor("coordinator");
  admin.set_since_ms(now.wall_ms);
  StartDrain(node, std::move(admin), "", now);
}

// --- Corruption ---

// A rank that says so itself has failed; this makes its node the one that is not used again.
GangFailure CoordinatorCore::JudgeCorruption(const DurableJob& job, GangFailure failure,
                                             Moment now) {
  const Mode mode = ModeOf(options_.detectors.corruption(), Mode::kAct);
  if (mode == Mode::kOff || !SpeaksOfCorruption(failure.message)) return failure;
  failure.cause = "corruption";
  const NodeName node(failure.node);
  DetectorEvent("CorruptionDetected", job.id, node, failure.message, now);
  if (mode == Mode::kAct && !node.empty()) {
    GiveUpNode(node, absl::StrCat("corruption: ", failure.message), now);
  }
  return failure;
}

void CoordinatorCore::DetectCorruption(const DurableJob& job, const Gang& gang, Moment now) {
  const Mode mode = ModeOf(options_.detectors.corruption(), Mode::kAct);
  if (mode == Mode::kOff || gang.failure() != nullptr) return;
  const std::optional<WeightsDiffer> found = DetectorsOf(job).corruption->Watch(NewestSteps(gang));
  if (!found.has_value()) return;
  std::vector<std::string> names;
  for (const int32_t rank : found->ranks) {
    if (names.size() < kRanksToldMax) names.push_back(RankOn(*job.plan, rank));
  }
  if (!found->blamed) {
    DetectorEvent(
        "CorruptionDetected", job.id, NodeName(),
        absl::StrCat("after step ", found->step, " the weights of ", absl::StrJoin(names, " and "),
                     " differ; which are wrong can't be told"),
        now);
    return;
  }
  const NodeName node(job.plan->ranks(found->ranks.front()).node());
  GangFailure failure;
  failure.cause = "corruption";
  failure.node = node.value();
  failure.message =
      absl::StrCat("after step ", found->step, " the weights of ", absl::StrJoin(names, ", "),
                   " differ from those of most ranks with the same parameters");
  DetectorEvent("CorruptionDetected", job.id, node, failure.message, now);
  if (mode != Mode::kAct) return;
  for (const int32_t rank : found->ranks) {
    GiveUpNode(NodeName(job.plan->ranks(rank).node()),
               absl::StrCat("corruption: ", failure.message), now);
  }
  const auto after = state_.Find(job.id);
  if (IsActive(after->state) && after->epoch == job.epoch) FailEpoch(*after, gang, failure, now);
}

void CoordinatorCore::GiveUpNode(const NodeName& node, const std::string& reason, Moment now) {
  if (state_.FindNode(node)->admin.draining()) return;
  v1::NodeAdmin admin;
  admin.set_cordoned(true);
  admin.set_draining(true);
  admin.set_reason(reason);
  admin.set_cause("corruption");
  admin.set_actor("coordinator");
  admin.set_since_ms(now.wall_ms);
  admin.set_deadline_ms(now.wall_ms);
  StartDrain(node, std::move(admin), "", now);
}

// --- Nodes ---

void CoordinatorCore::NodeReturned(const NodeName& node, Moment now) {
  const Mode mode = ModeOf(options_.detectors.flapping(), Mode::kAct);
  if (mode == Mode::kOff || !flaps_.NodeReturned(node, now.steady_ms)) return;
  const std::string what = absl::StrCat("lost and back ", kNodeFlapsMax, " times within ",
                                        TimeInWords(static_cast<double>(kFlapWindowMs) / 1000));
  DetectorEvent("FlappingDetected", JobId(), node, what, now);
  const v1::NodeAdmin& admin = state_.FindNode(node)->admin;
  if (mode != Mode::kAct || admin.cordoned() || admin.draining()) return;
  CordonNode(node, absl::StrCat("flapping: ", what), "coordinator", "", now);
}

void CoordinatorCore::DetectBadHealth(Moment now) {
  const Mode mode = ModeOf(options_.detectors.health(), Mode::kObserve);
  if (mode == Mode::kOff) return;
  std::vector<std::pair<NodeName, std::string>> bad;
  for (const auto& [name, entry] : nodes_.nodes()) {
    if (!entry.IsUp() || !entry.report.has_health()) continue;
    std::string what = health_.Watch(name, entry.report.health());
    if (!what.empty()) bad.emplace_back(name, std::move(what));
  }
  for (const auto& [name, what] : bad) {
    DetectorEvent("HealthDetected", JobId(), name,
                  absl::StrCat("fatal in ", kFatalProbes, " probes in a row: ", what), now);
    const v1::NodeAdmin& before = state_.FindNode(name)->admin;
    if (mode != Mode::kAct || before.draining()) continue;
    v1::NodeAdmin admin;
    admin.set_cordoned(true);
    admin.set_draining(true);
    admin.set_reason(absl::StrCat("health: ", what));
    admin.set_cause("health");
    admin.set_actor("coordinator");
    admin.set_since_ms(now.wall_ms);
    StartDrain(name, std::move(admin), "", now);
  }
}

void CoordinatorCore::DetectorEvent(const std::string& kind, const JobId& job, const NodeName& node,
                                    const std::string& message, Moment now) {
  v1::Record record = NewRecord(kind, message, now);
  record.set_job(job.value());
  record.set_node(node.value());
  record.mutable_node_change();
  Put(std::move(record));
}

}  // namespace fathom
