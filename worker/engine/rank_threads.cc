#include "worker/engine/rank_threads.h"

#include <mutex>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/real_clock.h"
#include "common/base/status_util.h"
#include "common/data/token_file.h"
#include "common/plan/even_plan.h"
#include "common/plan/job_resolve.h"
#include "common/plan/plan_layout.h"
#include "gtest/gtest.h"
#include "kernels/ops.h"
#include "worker/engine/checkpoint.h"
#include "worker/engine/rank_parts.h"
#include "worker/engine/train_loop.h"
#include "worker/transport/rendezvous.h"

namespace fathom::engine {
namespace {

class Collector : public TrainObserver {
 public:
  explicit Collector(JobResult* result) : result_(result) {}
  void OnTraining(const v1::RankTraining&) override {}
  void OnStep(const v1::StepReport& report) override {
    if (result_ != nullptr) result_->steps.push_back(report);
  }
  void OnCheckpoint(const v1::CheckpointReport& report) override {
    if (result_ != nullptr) result_->checkpoints.push_back(report);
  }
  void OnValidation(const v1::ValidationReport& report) override {
    if (result_ != nullptr) result_->validations.push_back(report);
  }

 private:
  JobResult* const result_;
};

void CollectGradients(RankParts& parts, JobResult* result) {
  for (OptimizerShard& shard : parts.optimizer->shards()) {
    const float* block = static_cast<const float*>(shard.block->gradients.data);
    ForEachTensor(*shard.block, shard.own,
                  [&](const model::Parameter& parameter, transport::Range range) {
                    std::vector<float>& tensor = result->gradients[parameter.spec.name];
                    tensor.resize(parameter.spec.size());
                    std::copy(block + range.begin, block + range.end,
                              tensor.begin() + (range.begin - parameter.offset));
                  });
  }
}

void CollectLosses(const RankParts& parts, const ScheduleLosses& losses, JobResult* result) {
  const int64_t micro_batches =
      parts.plan.spec().training().micro_batches() * plan::LaneCount(parts.plan);
  result->micro_batch_losses.resize(micro_batches);
  result->micro_batch_mtp_losses.resize(micro_batches);
  for (size_t direction = 0; direction < losses.by_direction.size(); ++direction) {
    for (size_t i = 0; i < losses.by_direction[direction].size(); ++i) {
      const int64_t index = plan::MicroBatchIndex(
          parts.plan, parts.lane, static_cast<int>(direction), static_cast<int64_t>(i));
      result->micro_batch_losses[index] = losses.by_direction[direction][i].loss;
      result->micro_batch_mtp_losses[index] = losses.by_direction[direction][i].mtp_loss;
    }
  }
}

// What the rank threads share.
struct Meeting {
  v1::Plan plan;
  JobSetting setting;
  transport::ChannelLayout layout;
  std::vector<std::unique_ptr<transport::Rendezvous>> listeners;
  std::vector<transport::PeerAddress> peers;
  RealClock clock;
  std::mutex mutex;
  JobResult result;  // guarded by mutex, but for the lists that rank 0's observer fills
};

absl::Status RunRank(int rank, Meeting* meeting) {
  FATHOM_ASSIGN_OR_RETURN(
      std::unique_ptr<RankParts> parts,
      PrepareRank(meeting->plan, rank, kernels::CreateCpuOps(), &meeting->clock));
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
      ConnectRank(meeting->layout, std::move(window), parts.get(), &meeting->clock));
  Collector observer(rank == 0 ? &meeting->result : nullptr);
  std::unique_ptr<CheckpointWriter> checkpoints;
  if (!meeting->setting.checkpoint_directory.empty()) {
    checkpoints = std::make_unique<CheckpointWriter>(meeting->setting.checkpoint_directory,
                                                     parts.get(), &meeting->clock);
  }
  TrainLoop loop(parts.get(), checkpoints.get(), &meeting->clock, &observer);
  std::string weights;
  if (meeting->setting.stop_after == 0) {
    FATHOM_ASSIGN_OR_RETURN(const TrainEnd end, loop.Run());
    weights = end.weights_sha256;
  } else {
    FATHOM_RETURN_IF_ERROR(loop.Restore());
    while (loop.steps_done() < meeting->setting.stop_after) FATHOM_RETURN_IF_ERROR(loop.RunStep());
  }
  FATHOM_RETURN_IF_ERROR(parts->world->Barrier());
  std::lock_guard<std::mutex> lock(meeting->mutex);
  if (rank == 0) meeting->result.weights_sha256 = weights;
  CollectGradients(*parts, &meeting->result);
  CollectLosses(*parts, loop.last_losses(), &meeting->result);
  return absl::OkStatus();
}

}  // namespace

std::string WriteTestTokens(int64_t tokens) {
  const std::string path = absl::StrCat(testing::TempDir(), "/tokens-", tokens, ".bin");
  auto writer = data::TokenFileWriter::Create(path, data::TokenizerKind::kBytes, 257, 256);
  EXPECT_TRUE(writer.ok()) << writer.status();
  // Words drawn from a small vocabulary by a fixed linear congruential sequence.
  const std::string words[] = {"the ",    "pipe ", "of ",    "experts ",
                               "learns ", "a ",    "stage ", "and "};
  uint64_t state = 12345;
  for (const data::Split split : {data::Split::kTraining, data::Split::kValidation}) {
    std::vector<int32_t> document;
    while (static_cast<int64_t>(document.size()) <
           (split == data::Split::kTraining ? tokens : tokens / 8)) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      for (const char c : words[state >> 61]) document.push_back(static_cast<unsigned char>(c));
    }
    const absl::Status status = writer->AddDocument(split, document);
    EXPECT_TRUE(status.ok()) << status;
  }
  const auto info = writer->Finish(1, 1, "test");
  EXPECT_TRUE(info.ok()) << info.status();
  return path;
}

v1::JobSpec ToySpec(const std::string& token_file) {
  v1::Job job;
  job.set_api_version("fathom/v1");
  job.set_kind("Job");
  job.mutable_metadata()->set_name("toy");
  v1::JobSpec& spec = *job.mutable_spec();
  spec.mutable_model()->set_preset("toy");
  spec.set_precision("fp32");
  spec.mutable_data()->set_token_file(token_file);
  spec.mutable_training()->set_steps(3);
  spec.mutable_training()->set_micro_batches(16);
  spec.mutable_training()->set_learning_rate(1e-2);
  const absl::StatusOr<v1::Job> resolved = plan::ResolveJob(job);
  EXPECT_TRUE(resolved.ok()) << resolved.status();
  return resolved.ok() ? resolved->spec() : spec;
}

v1::Plan PlanFor(const v1::JobSpec& spec, const JobSetting& setting) {
  v1::Plan plan = plan::EvenPlan(spec, setting.ranks_per_node);
  plan.set_job("test-1");
  plan.set_epoch(setting.epoch);
  if (!setting.resume_manifest.empty()) {
    plan.mutable_resume()->set_manifest(setting.resume_manifest);
    plan.mutable_resume()->set_step(setting.resume_step);
  }
  return plan;
}

absl::StatusOr<JobResult> RunJob(const v1::JobSpec& spec, const JobSetting& setting) {
  Meeting meeting;
  meeting.plan = PlanFor(spec, setting);
  meeting.setting = setting;
  FATHOM_ASSIGN_OR_RETURN(meeting.layout, PlanChannels(meeting.plan));
  const int ranks = meeting.plan.ranks_size();
  for (int rank = 0; rank < ranks; ++rank) {
    FATHOM_ASSIGN_OR_RETURN(std::unique_ptr<transport::Rendezvous> listener,
                            transport::Rendezvous::Listen("127.0.0.1"));
    meeting.peers.push_back({rank, meeting.plan.ranks(rank).node(), listener->endpoint()});
    meeting.listeners.push_back(std::move(listener));
  }
  std::vector<absl::Status> statuses(ranks);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] { statuses[rank] = RunRank(rank, &meeting); });
  }
  for (std::thread& thread : threads) thread.join();
  for (int rank = 0; rank < ranks; ++rank) {
    FATHOM_RETURN_IF_ERROR(WithContext(statuses[rank], absl::StrCat("rank ", rank)));
  }
  return std::move(meeting.result);
}

}  // namespace fathom::engine
