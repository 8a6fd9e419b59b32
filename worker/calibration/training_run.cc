#include "worker/calibration/training_run.h"

#include <memory>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_util.h"
#include "common/data/token_file.h"
#include "common/plan/even_plan.h"
#include "kernels/ops.h"
#include "worker/calibration/core_clock.h"
#include "worker/engine/rank_parts.h"
#include "worker/engine/train_loop.h"
#include "worker/transport/rendezvous.h"

namespace fathom::calibration {
namespace {

class StepCollector : public engine::TrainObserver {
 public:
  void OnTraining(const v1::RankTraining&) override {}
  void OnStep(const v1::StepReport& report) override { steps.push_back(report); }
  void OnCheckpoint(const v1::CheckpointReport&) override {}
  void OnValidation(const v1::ValidationReport&) override {}

  std::vector<v1::StepReport> steps;
};

// What the rank threads share.
struct Meeting {
  v1::Plan plan;
  const TrainingRun* run = nullptr;
  const Clock* clock = nullptr;
  transport::ChannelLayout layout;
  double core_seconds = 0;  // of all measured steps; rank 0 writes
  std::vector<std::unique_ptr<transport::Rendezvous>> listeners;
  std::vector<transport::PeerAddress> peers;
};

absl::Status RunRank(int rank, Meeting* meeting, MeasuredRank* measured) {
  OpMeter meter;
  meter.Switch(false);
  std::unique_ptr<kernels::Ops> ops = kernels::CreateCpuOps();
  if (meeting->run->meter_ops) {
    const Clock* clock = meeting->run->meter_clock;
    ops = MeterOps(std::move(ops), clock != nullptr ? clock : meeting->clock, &meter);
  }
  FATHOM_ASSIGN_OR_RETURN(std::unique_ptr<engine::RankParts> parts,
                          engine::PrepareRank(meeting->plan, rank, std::move(ops), meeting->clock));
  transport::RendezvousOptions options;
  options.job = meeting->plan.job();
  options.epoch = meeting->plan.epoch();
  options.rank = rank;
  options.node = meeting->peers[rank].node;
  options.window_bytes = meeting->layout.window_bytes[rank];
  options.signal_count = meeting->layout.signal_count[rank];
  FATHOM_ASSIGN_OR_RETURN(std::unique_ptr<transport::Window> window,
                          meeting->listeners[rank]->Connect(options, meeting->peers));
  FATHOM_RETURN_IF_ERROR(
      engine::ConnectRank(meeting->layout, std::move(window), parts.get(), meeting->clock));
  StepCollector observer;
  engine::TrainLoop loop(parts.get(), nullptr, meeting->clock, &observer);
  FATHOM_RETURN_IF_ERROR(loop.Restore());
  for (int64_t step = 0; step < meeting->run->warm_steps; ++step) {
    FATHOM_RETURN_IF_ERROR(loop.RunStep());
  }
  observer.steps.clear();
  const double before = ProcessCoreSeconds();
  for (int64_t step = 0; step < meeting->run->steps; ++step) {
    FATHOM_RETURN_IF_ERROR(loop.RunStep());
    if (!meeting->run->meter_ops) continue;
    meter.Switch(true);
    FATHOM_RETURN_IF_ERROR(loop.RunStep());
    meter.Switch(false);
    observer.steps.pop_back();
  }
  if (rank == 0) meeting->core_seconds = ProcessCoreSeconds() - before;
  measured->ops = meter.samples();
  measured->steps = std::move(observer.steps);
  return parts->world->Barrier();
}

}  // namespace

absl::StatusOr<MeasuredTraining> RunTraining(const TrainingRun& run, const Clock* clock) {
  Meeting meeting;
  meeting.plan = plan::EvenPlan(run.spec, run.ranks_per_node);
  meeting.plan.set_job("calibration");
  meeting.plan.set_epoch(1);
  meeting.run = &run;
  meeting.clock = clock;
  FATHOM_ASSIGN_OR_RETURN(meeting.layout, engine::PlanChannels(meeting.plan));
  const int ranks = meeting.plan.ranks_size();
  for (int rank = 0; rank < ranks; ++rank) {
    FATHOM_ASSIGN_OR_RETURN(std::unique_ptr<transport::Rendezvous> listener,
                            transport::Rendezvous::Listen("127.0.0.1"));
    meeting.peers.push_back({rank, meeting.plan.ranks(rank).node(), listener->endpoint()});
    meeting.listeners.push_back(std::move(listener));
  }
  MeasuredTraining measured;
  measured.ranks.resize(ranks);
  std::vector<absl::Status> statuses(ranks);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back(
        [&, rank] { statuses[rank] = RunRank(rank, &meeting, &measured.ranks[rank]); });
  }
  for (std::thread& thread : threads) thread.join();
  for (int rank = 0; rank < ranks; ++rank) {
    FATHOM_RETURN_IF_ERROR(WithContext(statuses[rank], absl::StrCat("rank ", rank)));
  }
  measured.core_seconds = meeting.core_seconds / static_cast<double>(run.steps);
  return measured;
}

absl::Status WriteCalibrationTokens(const std::string& path, int64_t tokens) {
  constexpr int kBytes = 256;  // values of a byte; the next id ends a document
  FATHOM_ASSIGN_OR_RETURN(auto writer, data::TokenFileWriter::Create(
                                           path, data::TokenizerKind::kBytes, kBytes + 1, kBytes));
  // Words of a fixed linear congruential sequence.
  const std::string words[] = {"the ",    "pipe ", "of ",    "experts ",
                               "learns ", "a ",    "stage ", "and "};
  uint64_t state = 12345;
  for (const data::Split split : {data::Split::kTraining, data::Split::kValidation}) {
    const int64_t wanted = split == data::Split::kTraining ? tokens : tokens / 8;
    std::vector<int32_t> document;
    while (static_cast<int64_t>(document.size()) < wanted) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      for (const char c : words[state >> 61]) document.push_back(static_cast<unsigned char>(c));
    }
    FATHOM_RETURN_IF_ERROR(writer.AddDocument(split, document));
  }
  return writer.Finish(1, 1, "calibration").status();
}

}  // namespace fathom::calibration
