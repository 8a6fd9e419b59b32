#include "worker/agent/agent_metrics.h"

#include <array>
#include <cstdint>
#include <map>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/metric_catalog.h"
#include "worker/agent/node_probe.h"

namespace fathom {
namespace {

constexpr std::array kStates = {v1::RANK_STATE_STARTING, v1::RANK_STATE_LISTENING,
                                v1::RANK_STATE_LOADING,  v1::RANK_STATE_TRAINING,
                                v1::RANK_STATE_HELD,     v1::RANK_STATE_MOVED,
                                v1::RANK_STATE_FINISHED, v1::RANK_STATE_PARKED,
                                v1::RANK_STATE_FAILED,   v1::RANK_STATE_STOPPED};

// "training"
std::string Label(v1::RankState state) {
  return absl::AsciiStrToLower(absl::StripPrefix(v1::RankState_Name(state), "RANK_STATE_"));
}

bool HasProcess(v1::RankState state) {
  return state == v1::RANK_STATE_STARTING || state == v1::RANK_STATE_LISTENING ||
         state == v1::RANK_STATE_LOADING || state == v1::RANK_STATE_TRAINING ||
         state == v1::RANK_STATE_HELD;
}

}  // namespace

AgentMetrics::AgentMetrics(MetricRegistry* registry) : registry_(registry) {
  registry_->Set(metrics::kCoordinatorConnected, 0);
  registry_->Add(metrics::kRankStarts, 0);
  registry_->Add(metrics::kRankMoves, {"boundary"}, 0);
  registry_->Add(metrics::kRankMoves, {"once"}, 0);
  registry_->Add(metrics::kReportsSent, 0);
  registry_->Add(metrics::kReconnects, 0);
}

void AgentMetrics::Show(const v1::NodeReport& report, const Processes& processes) {
  absl::MutexLock lock(&mutex_);
  registry_->Add(metrics::kRankMoves, {"boundary"},
                 static_cast<double>(processes.moves_at_boundary - processes_.moves_at_boundary));
  registry_->Add(metrics::kRankMoves, {"once"},
                 static_cast<double>(processes.moves_at_once - processes_.moves_at_once));
  report_ = report;
  processes_ = processes;
}

void AgentMetrics::Refresh() {
  absl::MutexLock lock(&mutex_);
  registry_->Set(metrics::kWorkerDevices, report_.node().devices_size());
  registry_->Set(metrics::kWorkerIdleProcesses, processes_.idle);
  std::map<v1::RankState, int> counts;
  std::set<Series> shown;
  // In order of epochs within a job, so the newest one stays.
  for (const v1::RankStatus& rank : report_.ranks()) {
    ++counts[rank.state()];
    const Series series(rank.job(), absl::StrCat(rank.rank()));
    shown.insert(series);
    ShowRank(series, rank);
  }
  for (const v1::RankState state : kStates) {
    registry_->Set(metrics::kWorkerRanks, {Label(state)}, counts[state]);
  }
  for (const Series& series : shown_) {
    if (!shown.contains(series)) RemoveSeries(series);
  }
  shown_ = std::move(shown);
}

void AgentMetrics::ShowRank(const Series& series, const v1::RankStatus& rank) {
  if (rank.has_last_step()) ShowStep(series, rank.last_step());
  const int64_t bytes = HasProcess(rank.state()) ? ResidentBytes(rank.pid()) : 0;
  registry_->Set(metrics::kRankMemoryBytes, {series.first, series.second},
                 static_cast<double>(bytes));
}

void AgentMetrics::ShowStep(const Series& series, const v1::StepReport& step) {
  const auto& [job, rank] = series;
  registry_->Set(metrics::kRankStep, {job, rank}, static_cast<double>(step.step()));
  registry_->Set(metrics::kRankStepSeconds, {job, rank}, step.seconds());
  registry_->Set(metrics::kRankSentBytes, {job, rank}, static_cast<double>(step.bytes_sent()));
  const std::pair<const char*, double> parts[] = {
      {"forward", step.forward_seconds()},     {"backward", step.backward_seconds()},
      {"weight", step.weight_seconds()},       {"overlapped", step.overlapped_seconds()},
      {"wait", step.wait_seconds()},           {"reduce", step.reduce_seconds()},
      {"optimizer", step.optimizer_seconds()},
  };
  for (const auto& [part, seconds] : parts) {
    registry_->Set(metrics::kRankPartSeconds, {job, rank, part}, seconds);
  }
}

void AgentMetrics::RemoveSeries(const Series& series) {
  const std::vector<std::string> labels = {series.first, series.second};
  for (const MetricSpec* metric :
       {&metrics::kRankStep, &metrics::kRankStepSeconds, &metrics::kRankSentBytes,
        &metrics::kRankPartSeconds, &metrics::kRankMemoryBytes}) {
    registry_->Remove(*metric, labels);
  }
}

void AgentMetrics::RankStarted() { registry_->Add(metrics::kRankStarts); }

void AgentMetrics::RankExited(absl::string_view how) {
  registry_->Add(metrics::kRankExits, {std::string(how)});
}

void AgentMetrics::StreamState(bool open) {
  if (open) registry_->Add(metrics::kReconnects);
  registry_->Set(metrics::kCoordinatorConnected, open ? 1 : 0);
}

void AgentMetrics::ReportSent() { registry_->Add(metrics::kReportsSent); }

}  // namespace fathom
