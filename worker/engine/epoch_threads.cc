#include "worker/engine/epoch_threads.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/real_clock.h"
#include "common/base/status_util.h"
#include "gtest/gtest.h"
#include "kernels/ops.h"
#include "worker/engine/checkpoint.h"
#include "worker/transport/rendezvous.h"

namespace fathom::engine {
namespace {

// Counts what a rank does, and ends it at the given operation.
class MortalWindow : public transport::Window {
 public:
  MortalWindow(std::unique_ptr<transport::Window> window, int64_t dies_at, int64_t* operations)
      : window_(std::move(window)), dies_at_(dies_at), operations_(operations) {}

  int rank() const override { return window_->rank(); }
  int size() const override { return window_->size(); }
  absl::Span<std::byte> local() override { return window_->local(); }
  absl::Status Put(int peer, uint64_t offset, absl::Span<const std::byte> bytes) override {
    FATHOM_RETURN_IF_ERROR(Count());
    return window_->Put(peer, offset, bytes);
  }
  absl::Status Signal(int peer, uint32_t index) override {
    FATHOM_RETURN_IF_ERROR(Count());
    return window_->Signal(peer, index);
  }
  absl::Status Wait(int peer, uint32_t index, uint64_t value) override {
    FATHOM_RETURN_IF_ERROR(Count());
    return window_->Wait(peer, index, value);
  }
  absl::StatusOr<bool> Poll(int peer, uint32_t index, uint64_t value) override {
    return window_->Poll(peer, index, value);
  }
  void Abort(absl::Status status) override { window_->Abort(std::move(status)); }

 private:
  absl::Status Count() {
    if (dies_at_ >= 0 && *operations_ >= dies_at_) return absl::UnavailableError("killed");
    ++*operations_;
    return absl::OkStatus();
  }

  const std::unique_ptr<transport::Window> window_;
  const int64_t dies_at_;
  int64_t* const operations_;
};

class Recorder : public TrainObserver {
 public:
  explicit Recorder(RankOutcome* outcome) : outcome_(outcome) {}
  void OnTraining(const v1::RankTraining&) override {}
  void OnStep(const v1::StepReport& report) override { outcome_->steps.push_back(report); }
  void OnCheckpoint(const v1::CheckpointReport&) override {}
  void OnValidation(const v1::ValidationReport&) override {}

 private:
  RankOutcome* const outcome_;
};

// What the ranks share; constant while they run.
struct Meeting {
  const EpochSetting& setting;
  const Memories& memories;
  transport::ChannelLayout layout;
  std::vector<std::unique_ptr<transport::Rendezvous>> listeners;
  std::vector<transport::PeerAddress> peers;
  RealClock clock;
};

absl::Status Train(const Meeting& meeting, RankParts& parts, RankOutcome* outcome) {
  const EpochSetting& setting = meeting.setting;
  Recorder recorder(outcome);
  std::unique_ptr<CheckpointWriter> checkpoints;
  if (!setting.checkpoint_directory.empty()) {
    checkpoints =
        std::make_unique<CheckpointWriter>(setting.checkpoint_directory, &parts, &meeting.clock);
  }
  TrainLoop loop(&parts, checkpoints.get(), &meeting.clock, &recorder);
  const auto train = [&]() -> absl::Status {
    FATHOM_RETURN_IF_ERROR(WithContext(loop.Restore(), "restore"));
    outcome->restored = loop.restored();
    outcome->steps_done = loop.steps_done();
    while (true) {
      if (setting.between != nullptr) FATHOM_RETURN_IF_ERROR(setting.between(parts, loop));
      if (loop.steps_done() >= setting.stop_after) break;
      FATHOM_RETURN_IF_ERROR(loop.RunStep());
      outcome->steps_done = loop.steps_done();
    }
    return parts.world->Barrier();
  };
  absl::Status status = train();
  if (status.ok()) outcome->state_hash = parts.optimizer->current()->hash();
  return status;
}

absl::Status RunRank(int rank, Meeting* meeting, RankOutcome* outcome) {
  const EpochSetting& setting = meeting->setting;
  FATHOM_ASSIGN_OR_RETURN(
      std::unique_ptr<RankParts> parts,
      PrepareRank(setting.plan, rank, kernels::CreateCpuOps(), &meeting->clock));
  transport::RendezvousOptions options;
  options.job = setting.plan.job();
  options.epoch = setting.plan.epoch();
  options.rank = rank;
  options.node = meeting->peers[rank].node;
  options.window_bytes = meeting->layout.window_bytes[rank];
  options.signal_count = meeting->layout.signal_count[rank];
  FATHOM_ASSIGN_OR_RETURN(std::unique_ptr<transport::Window> window,
                          meeting->listeners[rank]->Connect(options, meeting->peers));
  window = std::make_unique<MortalWindow>(
      std::move(window), rank == setting.victim ? setting.dies_at : -1, &outcome->operations);
  FATHOM_RETURN_IF_ERROR(ConnectRank(meeting->layout, std::move(window), parts.get(),
                                     &meeting->clock, meeting->memories[rank].get()));
  const absl::Status status = Train(*meeting, *parts, outcome);
  if (!status.ok()) parts->window->Abort(status);
  return status;
}

}  // namespace

Memories FreshMemories(int ranks) {
  Memories memories;
  for (int rank = 0; rank < ranks; ++rank) memories.push_back(std::make_unique<StateMemory>());
  return memories;
}

std::vector<RankOutcome> RunEpoch(const EpochSetting& setting, const Memories& memories) {
  const int ranks = setting.plan.ranks_size();
  std::vector<RankOutcome> outcomes(static_cast<size_t>(ranks));
  Meeting meeting{setting, memories, {}, {}, {}, {}};
  absl::StatusOr<transport::ChannelLayout> layout = PlanChannels(setting.plan);
  EXPECT_TRUE(layout.ok()) << layout.status();
  meeting.layout = *std::move(layout);
  for (int rank = 0; rank < ranks; ++rank) {
    auto listener = transport::Rendezvous::Listen("127.0.0.1");
    EXPECT_TRUE(listener.ok()) << listener.status();
    const std::string& node = setting.plan.ranks(rank).node();
    meeting.peers.push_back({rank, setting.shared_memory ? "one" : node, (*listener)->endpoint()});
    meeting.listeners.push_back(*std::move(listener));
  }
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back(
        [&, rank] { outcomes[rank].status = RunRank(rank, &meeting, &outcomes[rank]); });
  }
  for (std::thread& thread : threads) thread.join();
  return outcomes;
}

void TensorCollector::Add(const ShardState& state) {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (const StatePiece& piece : state.layout().Pieces(state.shard())) {
    std::string& tensor = bytes_[piece.tensor];
    const size_t element = static_cast<size_t>(piece.element_bytes);
    const size_t begin = static_cast<size_t>(piece.begin) * element;
    const size_t size = static_cast<size_t>(piece.end - piece.begin) * element;
    tensor.resize(std::max(tensor.size(), begin + size));
    tensor.replace(begin, size, reinterpret_cast<const char*>(state.bytes().data()) + piece.offset,
                   size);
    have_[piece.tensor].insert({piece.begin, piece.end});
  }
}

std::map<std::string, std::string> TensorCollector::Tensors() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (const auto& [name, ranges] : have_) {
    int64_t at = 0;
    for (const auto& [begin, end] : ranges) {
      EXPECT_LE(begin, at) << name << ": a part is missing";
      at = std::max(at, end);
    }
  }
  return bytes_;
}

}  // namespace fathom::engine
