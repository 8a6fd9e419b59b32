#include "worker/engine/rank_session.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/atomic_file.h"
#include "common/base/status_util.h"
#include "kernels/ops.h"
#include "proto/fathom/v1/worker.pb.h"
#include "worker/engine/checkpoint.h"
#include "worker/engine/rank_events.h"
#include "worker/engine/rank_orders.h"
#include "worker/engine/rank_parts.h"
#include "worker/engine/rank_progress.h"
#include "worker/engine/state_memory.h"
#include "worker/engine/train_loop.h"
#include "worker/transport/rendezvous.h"

namespace fathom::engine {
namespace {

// Passes what happens in an epoch on to the daemon, and its wishes to the training.
class EpochObserver : public TrainObserver {
 public:
  EpochObserver(const v1::RankStart& start, RankEvents* events, RankOrders* orders)
      : epoch_(start.plan().epoch()),
        timeline_file_(start.timeline_file()),
        events_(events),
        orders_(orders) {}

  void OnTraining(const v1::RankTraining& training) override {
    events_->Training(epoch_, training);
  }
  void OnStep(const v1::StepReport& report) override { events_->Step(epoch_, report); }
  void OnCheckpoint(const v1::CheckpointReport& report) override {
    events_->Checkpoint(epoch_, report);
  }
  void OnValidation(const v1::ValidationReport& report) override {
    events_->Validation(epoch_, report);
  }
  void OnTimeline(const v1::Timeline& timeline) override {
    if (timeline_file_.empty()) return;
    const absl::Status kept = ReplaceFile(timeline_file_, timeline.SerializeAsString());
    if (!kept.ok()) events_->Log(epoch_, absl::StrCat("timeline not kept: ", kept.message()));
  }
  BoundaryWish WishAtBoundary(const v1::Plan& present) override {
    return orders_->WishAtBoundary(present);
  }

 private:
  const uint64_t epoch_;
  const std::string timeline_file_;
  RankEvents* const events_;
  RankOrders* const orders_;
};

// The node of the first peer that the error names as "rank <r> on node <n>"; empty if it names
// none.
std::string BlamedNode(const v1::Plan& plan, absl::string_view error) {
  constexpr absl::string_view kRank = "rank ";
  constexpr absl::string_view kNode = " on node ";
  for (size_t at = error.find(kRank); at != error.npos; at = error.find(kRank, at + 1)) {
    const absl::string_view rest = error.substr(at + kRank.size());
    const size_t digits = rest.find_first_not_of("0123456789");
    int rank = 0;
    if (digits == rest.npos || !absl::SimpleAtoi(rest.substr(0, digits), &rank)) continue;
    if (rank < plan.ranks_size() && rest.substr(digits, kNode.size()) == kNode) {
      return plan.ranks(rank).node();
    }
  }
  return "";
}

absl::Status SendOutputTo(const std::string& file) {
  std::fflush(stdout);
  const int fd = open(file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (fd < 0) return absl::ErrnoToStatus(errno, absl::StrCat("the rank's log ", file));
  const bool moved = dup2(fd, STDOUT_FILENO) >= 0 && dup2(fd, STDERR_FILENO) >= 0;
  const int error = errno;
  close(fd);
  if (!moved) return absl::ErrnoToStatus(error, absl::StrCat("the rank's log ", file));
  return absl::OkStatus();
}

class RankSession {
 public:
  RankSession(RankChannel* channel, const Clock* clock)
      : clock_(clock), events_(channel), progress_(clock), orders_(channel, &events_, &progress_) {}

  absl::Status Run();

 private:
  // Where in an epoch an error happened decides whose fault it is.
  enum class Stage { kPreparing, kMeeting, kTraining };

  absl::StatusOr<TrainEnd> RunEpoch(RankOrders::Assignment& epoch);
  absl::StatusOr<std::unique_ptr<transport::Window>> Meet(RankOrders::Assignment& epoch,
                                                          const transport::ChannelLayout& layout);
  absl::StatusOr<TrainEnd> Train(const v1::RankStart& start, RankParts* parts);
  bool PeersFailed(const absl::Status& error) const;
  void Hold(uint64_t epoch, std::string message, std::string blamed_node);

  const Clock* const clock_;
  RankEvents events_;
  RankProgress progress_;
  StateMemory memory_;  // of all epochs
  RankOrders orders_;   // ends its thread before the others go
  Stage stage_ = Stage::kPreparing;
};

absl::Status RankSession::Run() {
  orders_.StartReading();
  while (true) {
    progress_.At("wait for orders");
    absl::StatusOr<RankOrders::Assignment> epoch = orders_.Enter();
    if (!epoch.ok()) {
      events_.Log(0, absl::StrCat("stopped: ", epoch.status().message()));
      return absl::OkStatus();
    }
    const uint64_t number = epoch->epoch();
    const absl::StatusOr<TrainEnd> end = RunEpoch(*epoch);
    const RankOrders::Ending ending = orders_.Leave();
    if (end.ok() && end->kind == TrainEnd::Kind::kFinished) {
      return events_.Finished(number, end->weights_sha256);
    }
    if (end.ok() && end->kind == TrainEnd::Kind::kParked) {
      events_.Parked(number, end->step);
      return absl::OkStatus();
    }
    if (ending.stopped) {
      events_.Log(number, absl::StrCat("stopped: ", ending.stop_reason));
      return absl::OkStatus();
    }
    if (!ending.unusable.ok()) {
      events_.Failed(ending.unusable_epoch, ending.unusable);
      return ending.unusable;
    }
    if (end.ok()) {
      const std::string left =
          absl::StrCat("left at the boundary of step ", end->step, " for epoch ", end->next_epoch);
      if (ending.moves_on) {
        events_.Log(number, left);
        continue;
      }
      Hold(number, left, "");
      if (ending.dismissed) return absl::OkStatus();
    } else if (!PeersFailed(end.status())) {
      events_.Failed(number, end.status());
      return end.status();
    } else if (ending.dropped) {
      Hold(number, *ending.dropped, "");
    } else {
      Hold(number, end.status().ToString(),
           BlamedNode(epoch->start.plan(), end.status().message()));
    }
  }
}

void RankSession::Hold(uint64_t epoch, std::string message, std::string blamed_node) {
  v1::RankHeld held;
  held.set_message(std::move(message));
  held.set_blamed_node(std::move(blamed_node));
  held.set_step(memory_.newest_step());
  events_.Held(epoch, held);
}

bool RankSession::PeersFailed(const absl::Status& error) const {
  if (stage_ == Stage::kPreparing) return false;
  // At a meeting it's a peer of another epoch.
  if (stage_ == Stage::kMeeting && error.code() == absl::StatusCode::kFailedPrecondition) {
    return true;
  }
  return IsFaultOfPeer(error);
}

absl::StatusOr<TrainEnd> RankSession::RunEpoch(RankOrders::Assignment& epoch) {
  stage_ = Stage::kPreparing;
  progress_.At("prepare");
  const v1::RankStart& start = epoch.start;
  if (!start.log_file().empty()) FATHOM_RETURN_IF_ERROR(SendOutputTo(start.log_file()));
  FATHOM_ASSIGN_OR_RETURN(std::unique_ptr<RankParts> parts,
                          PrepareRank(start.plan(), start.rank(), kernels::CreateCpuOps(), clock_));
  parts->meter->TellProgress(&progress_);
  FATHOM_ASSIGN_OR_RETURN(const transport::ChannelLayout layout, PlanChannels(start.plan()));
  FATHOM_ASSIGN_OR_RETURN(std::unique_ptr<transport::Window> window, Meet(epoch, layout));
  events_.Loading(epoch.epoch());

  stage_ = Stage::kTraining;
  progress_.At("build");
  FATHOM_RETURN_IF_ERROR(ConnectRank(layout, std::move(window), parts.get(), clock_, &memory_));
  orders_.Watch(nullptr, parts->window.get());
  absl::StatusOr<TrainEnd> end = Train(start, parts.get());
  // Peers that still wait for this rank learn at once that it is gone.
  if (!end.ok()) parts->window->Abort(absl::CancelledError("this rank has left the epoch"));
  progress_.At("leave");
  orders_.Watch(nullptr, nullptr);
  return end;
}

absl::StatusOr<std::unique_ptr<transport::Window>> RankSession::Meet(
    RankOrders::Assignment& epoch, const transport::ChannelLayout& layout) {
  const v1::RankStart& start = epoch.start;
  if (epoch.listener == nullptr) {
    FATHOM_ASSIGN_OR_RETURN(epoch.listener, transport::Rendezvous::Listen(start.bind_host()));
    events_.Listening(epoch.epoch(), epoch.listener->endpoint()).IgnoreError();
  }
  stage_ = Stage::kMeeting;
  progress_.At("wait for the peer table");
  FATHOM_ASSIGN_OR_RETURN(const std::vector<transport::PeerAddress> peers, orders_.WaitForPeers());

  const v1::RestartPolicy& policy = start.plan().spec().restart();
  transport::RendezvousOptions options;
  options.job = start.plan().job();
  options.epoch = epoch.epoch();
  options.rank = start.rank();
  options.node = start.plan().ranks(start.rank()).node();
  options.bind_host = start.bind_host();
  options.window_bytes = layout.window_bytes[start.rank()];
  options.signal_count = layout.signal_count[start.rank()];
  options.wait_timeout = absl::Seconds(policy.peer_timeout_s());
  // All listen before the table goes out, so whom it takes longer to reach than to wait for is not
  // to be reached. At a boundary others may still have to end their step.
  options.connect_timeout = std::min(absl::Seconds(policy.start_timeout_s()), options.wait_timeout);
  if (start.at_boundary()) options.connect_timeout += options.wait_timeout;
  progress_.At("connect");
  orders_.Watch(epoch.listener.get(), nullptr);
  auto window = epoch.listener->Connect(options, peers);
  orders_.Watch(nullptr, nullptr);
  return window;
}

absl::StatusOr<TrainEnd> RankSession::Train(const v1::RankStart& start, RankParts* parts) {
  EpochObserver observer(start, &events_, &orders_);
  CheckpointWriter checkpoints(start.checkpoint_directory(), parts, clock_);
  TrainLoop loop(parts, &checkpoints, clock_, &observer);
  progress_.At("restore");
  absl::StatusOr<TrainEnd> end = loop.Run();
  if (!end.ok()) return end;
  // Nobody leaves while a peer may still wait for its last message. What is finished or parked
  // stays so when a peer doesn't come to this: its checkpoint is published.
  progress_.At("last barrier");
  const absl::Status left = parts->world->Barrier();
  if (left.ok()) return end;
  if (end->kind == TrainEnd::Kind::kMoved) return left;
  events_.Log(start.plan().epoch(), absl::StrCat("peers left early: ", left.message()));
  parts->window->Abort(left);
  return end;
}

}  // namespace

absl::Status RunRankSession(RankChannel channel, const Clock* clock) {
  return RankSession(&channel, clock).Run();
}

}  // namespace fathom::engine
