#include "coordinator/service/core_metrics.h"

#include <algorithm>
#include <array>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "coordinator/core/job_state.h"

namespace fathom {
namespace {

constexpr const MetricSpec* kJobMetrics[] = {&metrics::kJobStep,
                                             &metrics::kJobTargetStep,
                                             &metrics::kJobLoss,
                                             &metrics::kJobMtpLoss,
                                             &metrics::kJobBalanceLoss,
                                             &metrics::kJobValidationLoss,
                                             &metrics::kJobGradientNorm,
                                             &metrics::kJobLearningRate,
                                             &metrics::kJobTokensPerSecond,
                                             &metrics::kJobTokens,
                                             &metrics::kJobStepSeconds,
                                             &metrics::kStagePartSeconds,
                                             &metrics::kStageStepSeconds,
                                             &metrics::kJobExpectedStepSeconds,
                                             &metrics::kStageExpectedSeconds,
                                             &metrics::kJobBubbleRatio,
                                             &metrics::kJobMaxViolation,
                                             &metrics::kJobSentBytes,
                                             &metrics::kJobCheckpointStep,
                                             &metrics::kJobCheckpointSeconds,
                                             &metrics::kJobCheckpointBytes,
                                             &metrics::kJobState,
                                             &metrics::kJobEpoch,
                                             &metrics::kJobRestarts,
                                             &metrics::kJobRecoveries,
                                             &metrics::kJobRecoveryPhaseSeconds,
                                             &metrics::kJobRecoveryPauseSeconds,
                                             &metrics::kJobRedoneSteps,
                                             &metrics::kJobReplicasShed,
                                             &metrics::kJobWaitingSeconds};

using Part = std::pair<const char*, double>;

std::array<Part, 7> PartsOf(const v1::StepReport& step) {
  return {{{"forward", step.forward_seconds()},
           {"backward", step.backward_seconds()},
           {"weight", step.weight_seconds()},
           {"overlapped", step.overlapped_seconds()},
           {"wait", step.wait_seconds()},
           {"reduce", step.reduce_seconds()},
           {"optimizer", step.optimizer_seconds()}}};
}

std::array<Part, 6> PhasesOf(const v1::RecoveryRecord& recovery) {
  return {{{"detect", recovery.detect()},
           {"decide", recovery.decide()},
           {"fence", recovery.fence()},
           {"rejoin", recovery.rejoin()},
           {"load", recovery.load()},
           {"first_step", recovery.first_step()}}};
}

// How `fathomctl get nodes` calls it, in lower case.
std::string SchedulabilityOf(const NodeEntry& entry, const DurableNode& node) {
  if (entry.state == v1::NODE_STATE_LOST) return "lost";
  if (!entry.IsUp()) return "expected";
  if (node.admin.draining()) return node.drained ? "drained" : "draining";
  if (node.admin.cordoned()) return "cordoned";
  if (node.preflight.finished_ms() > 0 && !node.preflight.passed()) return "unfit";
  return entry.state == v1::NODE_STATE_SPARE ? "spare" : "ready";
}

std::string Lower(const std::string& name) { return absl::AsciiStrToLower(name); }

}  // namespace

void CoreMetrics::Export(const CoordinatorCore& core, Moment now) {
  std::set<std::string> wanted;
  int ended = 0;
  for (auto it = core.state().jobs().rbegin(); it != core.state().jobs().rend(); ++it) {
    const DurableJob& job = *it->second;
    if (IsFinal(job.state) && ++ended > kEndedJobsMax) continue;
    wanted.insert(job.id.value());
    ExportJob(core, job, now);
  }
  std::vector<std::string> gone;
  for (const auto& [job, shown] : shown_) {
    if (!wanted.contains(job)) gone.push_back(job);
  }
  for (const std::string& job : gone) RemoveJob(job);
  ExportCluster(core, now);
  ExportSchedulability(core);
  CountEvents(core);
}

void CoreMetrics::RemoveJob(const std::string& job) {
  for (const MetricSpec* metric : kJobMetrics) registry_->Remove(*metric, {job});
  shown_.erase(job);
}

// Those that ended before this coordinator started are only shown, not counted.
void CoreMetrics::CountEvents(const CoordinatorCore& core) {
  const auto& events = core.state().events();
  const uint64_t newest = core.state().sequence();
  const uint64_t counted = counted_events_.value_or(newest);
  counted_events_ = newest;
  for (auto it = events.rbegin(); it != events.rend() && it->sequence() > counted; ++it) {
    registry_->Add(metrics::kLoggedEvents, {it->kind()});
    if (it->kind() == "NodeLost") registry_->Add(metrics::kNodeLosses, {it->node()});
  }
}

void CoreMetrics::ExportSchedulability(const CoordinatorCore& core) {
  std::map<std::string, int> counts;
  for (const char* each :
       {"ready", "spare", "cordoned", "draining", "drained", "unfit", "lost", "expected"}) {
    counts[each] = 0;
  }
  for (const auto& [name, entry] : core.nodes().nodes()) {
    ++counts[SchedulabilityOf(entry, *core.state().FindNode(name))];
  }
  for (const auto& [name, count] : counts) {
    registry_->Set(metrics::kNodesBySchedulability, {name}, count);
  }
}

void CoreMetrics::ExportRecoveries(const DurableJob& job, Shown* shown) {
  const std::string& id = job.id.value();
  for (const auto& recovery : job.recoveries) {
    if (!recovery->finished() || recovery->epoch() <= shown->recovered_epoch) continue;
    shown->recovered_epoch = recovery->epoch();
    registry_->Add(metrics::kJobRecoveries, {id, recovery->cause()});
    registry_->Add(metrics::kJobRedoneSteps, {id}, static_cast<double>(recovery->steps_redone()));
    if (recovery->pause_seconds() >= 0) {
      registry_->Set(metrics::kJobRecoveryPauseSeconds, {id}, recovery->pause_seconds());
    }
    for (const auto& [phase, seconds] : PhasesOf(*recovery)) {
      if (seconds < 0) continue;
      registry_->Set(metrics::kJobRecoveryPhaseSeconds, {id, phase}, seconds);
      registry_->Observe(metrics::kRecoveryPhaseSeconds, {phase}, seconds);
    }
  }
}

void CoreMetrics::ExportJob(const CoordinatorCore& core, const DurableJob& job, Moment now) {
  const std::string& id = job.id.value();
  Shown& shown = shown_[id];
  const std::string state = Lower(NameOfState(job.state));
  if (shown.state != state) {
    registry_->Remove(metrics::kJobState, {id});
    registry_->Set(metrics::kJobState, {id, state}, 1);
    shown.state = state;
  }
  registry_->Set(metrics::kJobEpoch, {id}, static_cast<double>(job.epoch));
  registry_->Set(metrics::kJobTargetStep, {id},
                 static_cast<double>(job.job->spec().training().steps()));
  registry_->Add(metrics::kJobRestarts, {id}, static_cast<double>(job.restarts - shown.restarts));
  shown.restarts = job.restarts;
  ExportRecoveries(job, &shown);
  const int32_t wanted = job.job->spec().parallelism().replicas();
  const int32_t present = job.HasCurrentPlan() ? job.plan->spec().parallelism().replicas() : wanted;
  registry_->Set(metrics::kJobReplicasShed, {id}, std::max(wanted - present, 0));
  const bool waits = !IsFinal(job.state) && !core.WaitingReason(job.id).empty();
  registry_->Set(
      metrics::kJobWaitingSeconds, {id},
      waits ? static_cast<double>(now.wall_ms - std::max(job.queued_ms, job.submitted_ms)) / 1000
            : 0);
  const Gang* gang = core.FindGang(job.id);
  if (gang != nullptr) {
    if (shown.token_epoch != gang->plan().epoch()) shown.tokens = 0;
    shown.token_epoch = gang->plan().epoch();
    const int64_t tokens = std::max(gang->tokens_counted(), shown.tokens);
    registry_->Add(metrics::kJobTokens, {id}, static_cast<double>(tokens - shown.tokens));
    shown.tokens = tokens;
    registry_->Set(metrics::kJobTokensPerSecond, {id}, gang->TokensPerSecond());
    ExportStages(id, *gang);
    ExportExpectation(id, core.FindExpectation(job.id));
  } else if (IsFinal(job.state)) {
    registry_->Set(metrics::kJobTokensPerSecond, {id}, 0);
  }
  const v1::StepReport& step =
      gang != nullptr && gang->last_step().step() > 0 ? gang->last_step() : job.last_step;
  if (step.step() > 0) ExportStep(id, step);
  const v1::ValidationReport& validation =
      gang != nullptr && gang->validation().step() > 0 ? gang->validation() : job.validation;
  if (validation.step() > 0) registry_->Set(metrics::kJobValidationLoss, {id}, validation.loss());
  if (job.checkpoint.step() > 0) {
    registry_->Set(metrics::kJobCheckpointStep, {id}, static_cast<double>(job.checkpoint.step()));
    registry_->Set(metrics::kJobCheckpointSeconds, {id}, job.checkpoint.seconds());
    registry_->Set(metrics::kJobCheckpointBytes, {id}, static_cast<double>(job.checkpoint.bytes()));
  }
}

void CoreMetrics::ExportStep(const std::string& job, const v1::StepReport& step) {
  registry_->Set(metrics::kJobStep, {job}, static_cast<double>(step.step()));
  registry_->Set(metrics::kJobLoss, {job}, step.loss());
  registry_->Set(metrics::kJobMtpLoss, {job}, step.mtp_loss());
  registry_->Set(metrics::kJobBalanceLoss, {job}, step.balance_loss());
  registry_->Set(metrics::kJobGradientNorm, {job}, step.gradient_norm());
  registry_->Set(metrics::kJobLearningRate, {job}, step.learning_rate());
  registry_->Set(metrics::kJobStepSeconds, {job}, step.seconds());
  registry_->Set(metrics::kJobMaxViolation, {job}, step.max_violation());
}

// Of an older plan than the present one nothing is told.
void CoreMetrics::ExportExpectation(const std::string& job, const Expectation* expectation) {
  registry_->Remove(metrics::kJobExpectedStepSeconds, {job});
  registry_->Remove(metrics::kStageExpectedSeconds, {job});
  if (expectation == nullptr || expectation->prediction == nullptr) return;
  const v1::Prediction& prediction = *expectation->prediction;
  registry_->Set(metrics::kJobExpectedStepSeconds, {job}, prediction.step().seconds());
  for (const v1::PredictedRank& rank : prediction.ranks()) {
    const std::string label = absl::StrCat(rank.pipeline_rank());
    registry_->Set(metrics::kStageExpectedSeconds, {job, label, "busy"}, rank.busy_s());
    registry_->Set(metrics::kStageExpectedSeconds, {job, label, "wait"}, rank.idle_s());
  }
}

void CoreMetrics::ExportStages(const std::string& job, const Gang& gang) {
  struct Sum {
    std::array<double, 7> parts{};
    double slowest = 0;
    int ranks = 0;
  };
  std::map<int32_t, Sum> stages;
  double waited = 0;
  double total = 0;
  double sent_bytes = 0;
  for (const v1::RankStatus& rank : gang.ranks()) {
    if (rank.last_step().step() == 0) continue;
    const v1::StepReport& step = rank.last_step();
    Sum& sum = stages[gang.plan().ranks(rank.rank()).pipeline_rank()];
    const auto parts = PartsOf(step);
    for (size_t i = 0; i < parts.size(); ++i) sum.parts[i] += parts[i].second;
    sum.slowest = std::max(sum.slowest, step.seconds());
    ++sum.ranks;
    waited += step.wait_seconds();
    total += step.seconds();
    sent_bytes += static_cast<double>(step.bytes_sent());
  }
  for (const auto& [pipeline_rank, sum] : stages) {
    const std::string label = absl::StrCat(pipeline_rank);
    const auto names = PartsOf(v1::StepReport());
    for (size_t i = 0; i < names.size(); ++i) {
      registry_->Set(metrics::kStagePartSeconds, {job, label, names[i].first},
                     sum.parts[i] / sum.ranks);
    }
    registry_->Set(metrics::kStageStepSeconds, {job, label}, sum.slowest);
  }
  if (total > 0) registry_->Set(metrics::kJobBubbleRatio, {job}, waited / total);
  if (!stages.empty()) registry_->Set(metrics::kJobSentBytes, {job}, sent_bytes);
}

void CoreMetrics::ExportCluster(const CoordinatorCore& core, Moment now) {
  std::map<v1::NodeState, int> nodes = {{v1::NODE_STATE_READY, 0},
                                        {v1::NODE_STATE_LOST, 0},
                                        {v1::NODE_STATE_SPARE, 0},
                                        {v1::NODE_STATE_EXPECTED, 0}};
  const DeviceMap devices(core.nodes(), core.state(), JobId(), false, {});
  std::map<std::string, bool> present;
  for (const auto& [name, entry] : core.nodes().nodes()) {
    ++nodes[entry.state];
    const std::string& node = name.value();
    present[node] = true;
    registry_->Set(metrics::kNodeUp, {node}, entry.IsUp() ? 1 : 0);
    registry_->Set(metrics::kNodeDevices, {node},
                   static_cast<double>(entry.report.node().devices_size()));
    registry_->Set(metrics::kNodeHeldDevices, {node}, static_cast<double>(devices.CountHeld(node)));
    registry_->Set(metrics::kNodeReportAge, {node},
                   static_cast<double>(now.steady_ms - entry.last_seen_steady_ms) / 1000);
  }
  for (const auto& [node, shown] : nodes_) {
    if (present.contains(node)) continue;
    for (const MetricSpec* metric : {&metrics::kNodeUp, &metrics::kNodeDevices,
                                     &metrics::kNodeHeldDevices, &metrics::kNodeReportAge}) {
      registry_->Remove(*metric, {node});
    }
  }
  nodes_ = std::move(present);
  for (const auto& [state, count] : nodes) {
    registry_->Set(metrics::kNodes, {Lower(NameOfState(state))}, count);
  }
  std::map<v1::JobState, int> jobs;
  for (int state = v1::JOB_STATE_PENDING; state < v1::JobState_ARRAYSIZE; ++state) {
    jobs[static_cast<v1::JobState>(state)] = 0;
  }
  for (const auto& [number, job] : core.state().jobs()) ++jobs[job->state];
  for (const auto& [state, count] : jobs) {
    registry_->Set(metrics::kJobs, {Lower(NameOfState(state))}, count);
  }
  registry_->Set(metrics::kQueuedJobs, core.WaitingCount());
}

}  // namespace fathom
