#include "worker/engine/rank_session.h"

#include <condition_variable>
#include <cstdio>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status_util.h"
#include "kernels/ops.h"
#include "proto/fathom/v1/worker.pb.h"
#include "worker/engine/checkpoint.h"
#include "worker/engine/rank_parts.h"
#include "worker/engine/train_loop.h"
#include "worker/transport/rendezvous.h"

namespace fathom::engine {
namespace {

// Reads the daemon's commands on a thread of its own, because the training thread may be waiting
// for a peer when the order to stop arrives.
class CommandReader {
 public:
  explicit CommandReader(RankChannel* channel) : channel_(channel) {}
  ~CommandReader() {
    channel_->Shutdown();
    if (thread_.joinable()) thread_.join();
  }

  void Start() {
    thread_ = std::thread([this] { Read(); });
  }

  // The peer table, or CANCELLED once the daemon wants an end.
  absl::StatusOr<std::vector<transport::PeerAddress>> WaitForPeers() {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return peers_.has_value() || stopped_; });
    if (stopped_) return absl::CancelledError(stop_reason_);
    return *peers_;
  }

  // From now on the order to stop also ends waits of these; null for neither.
  void Watch(transport::Rendezvous* rendezvous, transport::Window* window) {
    std::unique_lock<std::mutex> lock(mutex_);
    rendezvous_ = rendezvous;
    window_ = window;
    if (stopped_) Interrupt();
  }

  bool stopped() {
    std::unique_lock<std::mutex> lock(mutex_);
    return stopped_;
  }

 private:
  void Read() {
    while (true) {
      v1::RankCommand command;
      const absl::StatusOr<bool> got = channel_->Receive(&command);
      std::unique_lock<std::mutex> lock(mutex_);
      if (!got.ok() || !*got || command.has_stop()) {
        stopped_ = true;
        stop_reason_ = command.has_stop() ? command.stop().reason() : "the node's daemon is gone";
        Interrupt();
        changed_.notify_all();
        return;
      }
      if (command.has_peers() && !peers_.has_value()) {
        peers_.emplace();
        for (const v1::RankEndpoint& peer : command.peers().peers()) {
          peers_->push_back({peer.rank(), peer.node(), peer.endpoint()});
        }
        changed_.notify_all();
      }
    }
  }

  void Interrupt() {
    if (rendezvous_ != nullptr) rendezvous_->Cancel();
    if (window_ != nullptr) window_->Abort(absl::CancelledError(stop_reason_));
  }

  RankChannel* const channel_;
  std::thread thread_;
  std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_.
  std::optional<std::vector<transport::PeerAddress>> peers_;
  bool stopped_ = false;
  std::string stop_reason_;
  transport::Rendezvous* rendezvous_ = nullptr;
  transport::Window* window_ = nullptr;
};

// Passes what happens on to the daemon, and a line of each step to the rank's log.
class ChannelObserver : public TrainObserver {
 public:
  explicit ChannelObserver(RankChannel* channel) : channel_(channel) {}

  void OnTraining(int64_t steps_done) override {
    std::printf("training from step %lld\n", static_cast<long long>(steps_done));
    v1::RankEvent event;
    event.mutable_training()->set_first_step(steps_done);
    Send(event);
  }
  void OnStep(const v1::StepReport& report) override {
    std::printf("step %lld loss %.4f norm %.3f lr %.3g %.3f s (wait %.3f, reduce %.3f)\n",
                static_cast<long long>(report.step()), report.loss(), report.gradient_norm(),
                report.learning_rate(), report.seconds(), report.wait_seconds(),
                report.reduce_seconds());
    v1::RankEvent event;
    *event.mutable_step() = report;
    Send(event);
  }
  void OnCheckpoint(const v1::CheckpointReport& report) override {
    std::printf("checkpoint %s weights %s\n", report.manifest().c_str(),
                report.weights_sha256().c_str());
    v1::RankEvent event;
    *event.mutable_checkpoint() = report;
    Send(event);
  }
  void OnValidation(const v1::ValidationReport& report) override {
    std::printf("validation at step %lld: loss %.4f\n", static_cast<long long>(report.step()),
                report.loss());
    v1::RankEvent event;
    *event.mutable_validation() = report;
    Send(event);
  }

 private:
  // A daemon that is gone is noticed by the reader; nothing more to do about it here.
  void Send(const v1::RankEvent& event) {
    std::fflush(stdout);
    if (!channel_->Send(event).ok()) std::fprintf(stderr, "the node's daemon does not listen\n");
  }

  RankChannel* const channel_;
};

absl::StatusOr<v1::RankStart> ReceiveStart(RankChannel* channel) {
  v1::RankCommand command;
  FATHOM_ASSIGN_OR_RETURN(const bool got, channel->Receive(&command));
  if (!got || !command.has_start()) {
    return absl::FailedPreconditionError("the node's daemon sent no start command first");
  }
  return std::move(*command.mutable_start());
}

absl::Status Train(const v1::RankStart& start, RankChannel* channel, CommandReader* reader,
                   const Clock* clock) {
  FATHOM_ASSIGN_OR_RETURN(std::unique_ptr<RankParts> parts,
                          PrepareRank(start.plan(), start.rank(), kernels::CreateCpuOps(), clock));
  FATHOM_ASSIGN_OR_RETURN(const transport::ChannelLayout layout, PlanChannels(start.plan()));
  FATHOM_ASSIGN_OR_RETURN(std::unique_ptr<transport::Rendezvous> rendezvous,
                          transport::Rendezvous::Listen(start.bind_host()));
  v1::RankEvent listening;
  listening.set_listening(rendezvous->endpoint());
  FATHOM_RETURN_IF_ERROR(channel->Send(listening));
  FATHOM_ASSIGN_OR_RETURN(const std::vector<transport::PeerAddress> peers, reader->WaitForPeers());

  const v1::RestartPolicy& policy = start.plan().spec().restart();
  transport::RendezvousOptions options;
  options.job = start.plan().job();
  options.epoch = start.plan().epoch();
  options.rank = start.rank();
  options.node = start.plan().ranks(start.rank()).node();
  options.bind_host = start.bind_host();
  options.window_bytes = layout.window_bytes[start.rank()];
  options.signal_count = layout.signal_count[start.rank()];
  options.connect_timeout = absl::Seconds(policy.start_timeout_s());
  options.wait_timeout = absl::Seconds(policy.peer_timeout_s());
  reader->Watch(rendezvous.get(), nullptr);
  absl::StatusOr<std::unique_ptr<transport::Window>> window = rendezvous->Connect(options, peers);
  reader->Watch(nullptr, nullptr);
  FATHOM_RETURN_IF_ERROR(window.status());
  FATHOM_RETURN_IF_ERROR(ConnectRank(layout, *std::move(window), parts.get(), clock));

  reader->Watch(nullptr, parts->window.get());
  ChannelObserver observer(channel);
  CheckpointWriter checkpoints(start.checkpoint_directory(), parts.get(), clock);
  TrainLoop loop(parts.get(), &checkpoints, clock, &observer);
  absl::StatusOr<std::string> weights = loop.Run();
  // Nobody leaves while a peer may still wait for its last message.
  absl::Status left = weights.ok() ? parts->world->Barrier() : weights.status();
  reader->Watch(nullptr, nullptr);
  FATHOM_RETURN_IF_ERROR(left);
  v1::RankEvent finished;
  finished.mutable_finished()->set_weights_sha256(*weights);
  return channel->Send(finished);
}

}  // namespace

absl::Status RunRankSession(RankChannel channel, const Clock* clock) {
  FATHOM_ASSIGN_OR_RETURN(const v1::RankStart start, ReceiveStart(&channel));
  absl::Status status;
  {
    CommandReader reader(&channel);
    reader.Start();
    status = Train(start, &channel, &reader, clock);
    if (reader.stopped()) {
      std::printf("stopped: %s\n", status.ToString().c_str());
      return absl::OkStatus();
    }
    if (!status.ok()) {
      v1::RankEvent failed;
      failed.set_failed(status.ToString());
      if (!channel.Send(failed).ok()) std::fprintf(stderr, "could not report the failure\n");
    }
  }
  return status;
}

}  // namespace fathom::engine
