#include "worker/engine/rank_orders.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_util.h"
#include "common/plan/buddy.h"
#include "common/plan/plan_check.h"
#include "worker/engine/thread_stack.h"

namespace fathom::engine {
namespace {

constexpr absl::Duration kStackPatience = absl::Seconds(1);

std::vector<transport::PeerAddress> TableOf(const v1::RankPeers& peers) {
  std::vector<transport::PeerAddress> table;
  for (const v1::RankEndpoint& peer : peers.peers()) {
    table.push_back({peer.rank(), peer.node(), peer.endpoint()});
  }
  return table;
}

// What of an epoch can be prepared while the one before it still trains.
absl::StatusOr<std::unique_ptr<transport::Rendezvous>> ListenFor(const v1::RankStart& start) {
  FATHOM_RETURN_IF_ERROR(plan::CheckPlan(start.plan()));
  return transport::Rendezvous::Listen(start.bind_host());
}

}  // namespace

RankOrders::RankOrders(RankChannel* channel, RankEvents* events, RankProgress* progress)
    : channel_(channel),
      events_(events),
      progress_(progress),
      training_thread_(pthread_self()),
      training_thread_id_(gettid()) {}

RankOrders::~RankOrders() {
  channel_->Shutdown();
  if (thread_.joinable()) thread_.join();
}

void RankOrders::StartReading() {
  thread_ = std::thread([this] { Read(); });
}

absl::StatusOr<RankOrders::Assignment> RankOrders::Enter() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return stopped_ || (next_ && next_->start.rank() >= 0); });
  if (stopped_) return absl::CancelledError(stop_reason_);
  Assignment entered = *std::move(next_);
  next_.reset();
  entered_ = entered.epoch();
  in_epoch_ = true;
  connected_ = false;
  peers_ = std::move(entered.peers);
  dropped_.reset();
  return entered;
}

absl::StatusOr<std::vector<transport::PeerAddress>> RankOrders::WaitForPeers() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return peers_.has_value() || ending(); });
  if (ending()) return absl::CancelledError("told to leave the epoch");
  return *peers_;
}

void RankOrders::Watch(transport::Rendezvous* rendezvous, transport::Window* window) {
  const std::lock_guard lock(mutex_);
  rendezvous_ = rendezvous;
  window_ = window;
  if (window != nullptr) connected_ = true;
  if (ending()) Interrupt();
}

BoundaryWish RankOrders::WishAtBoundary(const v1::Plan& present) {
  const std::lock_guard lock(mutex_);
  BoundaryWish wish;
  if (next_ && (next_->peers || next_->start.rank() < 0)) {
    wish.ready_for = next_->epoch();
    wish.leaves_state_behind = plan::LeavesStateBehind(present, next_->start.plan());
  }
  wish.park = park_ == entered_;
  return wish;
}

RankOrders::Ending RankOrders::Leave() {
  const std::lock_guard lock(mutex_);
  in_epoch_ = false;
  rendezvous_ = nullptr;
  window_ = nullptr;
  Ending ending;
  ending.stopped = stopped_;
  ending.stop_reason = stop_reason_;
  ending.unusable = unusable_;
  ending.unusable_epoch = unusable_epoch_;
  ending.dropped = std::exchange(dropped_, std::nullopt);
  ending.moves_on = next_ && next_->start.rank() >= 0;
  ending.dismissed = next_ && next_->start.rank() < 0;
  return ending;
}

void RankOrders::Read() {
  while (true) {
    v1::RankCommand command;
    const absl::StatusOr<bool> got = channel_->Receive(&command);
    if (!got.ok() || !*got) return Stop("the node's daemon is gone");
    switch (command.command_case()) {
      case v1::RankCommand::kStart:
        OnStart(std::move(*command.mutable_start()));
        break;
      case v1::RankCommand::kPeers:
        OnPeers(command.peers());
        break;
      case v1::RankCommand::kHold:
        OnHold(command.hold());
        break;
      case v1::RankCommand::kPark: {
        const std::lock_guard lock(mutex_);
        park_ = std::max(park_, command.park().epoch());
        break;
      }
      case v1::RankCommand::kDiagnose:
        OnDiagnose(command.diagnose().token());
        break;
      case v1::RankCommand::kStop:
        return Stop(command.stop().reason());
      case v1::RankCommand::COMMAND_NOT_SET:
        break;  // of a newer daemon
    }
  }
}

void RankOrders::OnStart(v1::RankStart start) {
  const uint64_t epoch = start.plan().epoch();
  std::string endpoint;
  {
    const std::lock_guard lock(mutex_);
    if (epoch <= entered_ || epoch <= dropped_through_) return;
    if (next_ && epoch < next_->epoch()) return;
    // One that never connected has no boundary to wait for.
    const bool at_boundary = start.at_boundary() && connected_;
    if (in_epoch_ && !at_boundary) Drop(absl::StrCat("epoch ", epoch, " takes its place"));
    if (next_ && epoch == next_->epoch()) return;
    next_.emplace();
    next_->start = std::move(start);
    // Where nothing goes on, the training thread does the same and more.
    if (in_epoch_ && at_boundary && next_->start.rank() >= 0) {
      absl::StatusOr<std::unique_ptr<transport::Rendezvous>> listener = ListenFor(next_->start);
      if (listener.ok()) {
        next_->listener = *std::move(listener);
        endpoint = next_->listener->endpoint();
      } else {
        unusable_ = listener.status();
        unusable_epoch_ = epoch;
        Interrupt();
      }
    }
    changed_.notify_all();
  }
  if (!endpoint.empty()) events_->Listening(epoch, endpoint).IgnoreError();
}

void RankOrders::OnPeers(const v1::RankPeers& peers) {
  const std::lock_guard lock(mutex_);
  if (next_ && next_->epoch() == peers.epoch() && !next_->peers) {
    next_->peers = TableOf(peers);
  } else if (in_epoch_ && entered_ == peers.epoch() && !peers_) {
    peers_ = TableOf(peers);
    changed_.notify_all();
  }
}

void RankOrders::OnHold(const v1::RankHold& hold) {
  std::optional<uint64_t> not_entered;
  {
    const std::lock_guard lock(mutex_);
    if (hold.epoch() <= dropped_through_) return;
    dropped_through_ = hold.epoch();
    if (next_ && next_->epoch() <= hold.epoch()) {
      if (next_->listener != nullptr) not_entered = next_->epoch();
      next_.reset();
    }
    if (in_epoch_ && entered_ <= hold.epoch()) Drop(hold.reason());
  }
  if (!not_entered) return;
  v1::RankHeld held;
  held.set_message(hold.reason());
  held.set_step(progress_->steps_done());
  events_->Held(*not_entered, held);
}

void RankOrders::OnDiagnose(uint64_t token) {
  const RankProgress::Reading reading = progress_->Read();
  v1::RankDiagnosis diagnosis;
  diagnosis.set_token(token);
  diagnosis.set_step(reading.steps_done + 1);
  diagnosis.set_instruction(reading.what);
  diagnosis.set_seconds(absl::ToDoubleSeconds(reading.since));
  diagnosis.set_process(KernelStateOfThread(training_thread_id_));
  const absl::StatusOr<std::string> stack = StackOfThread(training_thread_, kStackPatience);
  diagnosis.set_stack(stack.ok() ? *stack : stack.status().ToString());
  uint64_t epoch = 0;
  {
    const std::lock_guard lock(mutex_);
    epoch = entered_;
  }
  events_->Diagnosis(epoch, diagnosis);
}

void RankOrders::Stop(std::string reason) {
  const std::lock_guard lock(mutex_);
  stopped_ = true;
  stop_reason_ = std::move(reason);
  Interrupt();
}

void RankOrders::Drop(std::string reason) {
  if (dropped_) return;
  dropped_ = std::move(reason);
  Interrupt();
}

void RankOrders::Interrupt() {
  if (rendezvous_ != nullptr) rendezvous_->Cancel();
  if (window_ != nullptr) {
    window_->Abort(absl::CancelledError(stopped_ ? stop_reason_ : "told to leave the epoch"));
  }
  changed_.notify_all();
}

}  // namespace fathom::engine
