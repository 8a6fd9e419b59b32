// The daemon's orders to a rank: which epoch comes next, and when the present one is to be left.
//
// A thread of its own reads them, because the training thread may be waiting for a peer, or hang,
// when they arrive. It opens the listener of an epoch that is entered at a step boundary, ends the
// waits of an epoch that is dropped, and answers what the rank is at.
//
// Of the epochs that were ordered and not entered only the newest counts. Orders about older ones,
// and repeated ones, change nothing.
#ifndef FATHOM_WORKER_ENGINE_RANK_ORDERS_H_
#define FATHOM_WORKER_ENGINE_RANK_ORDERS_H_

#include <pthread.h>
#include <sys/types.h>

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/fathom/v1/worker.pb.h"
#include "worker/agent/rank_channel.h"
#include "worker/engine/rank_events.h"
#include "worker/engine/rank_progress.h"
#include "worker/engine/thread_stack.h"
#include "worker/engine/train_loop.h"
#include "worker/transport/rendezvous.h"

namespace fathom::engine {

class RankOrders {
 public:
  // An epoch to be entered.
  struct Assignment {
    v1::RankStart start;
    std::unique_ptr<transport::Rendezvous> listener;  // null: still to be opened, and told of
    std::optional<std::vector<transport::PeerAddress>> peers;

    uint64_t epoch() const { return start.plan().epoch(); }
  };
  // Why an epoch ended, as far as orders are the reason.
  struct Ending {
    bool stopped = false;
    std::string stop_reason;
    absl::Status unusable;  // the next epoch can't be prepared here
    uint64_t unusable_epoch = 0;
    std::optional<std::string> dropped;
    // What is next: an epoch to be entered, or one that this rank has no part in.
    bool moves_on = false;
    bool dismissed = false;
  };

  // For the thread that constructs it, the training thread. All of these outlive it.
  RankOrders(RankChannel* channel, RankEvents* events, RankProgress* progress);
  ~RankOrders();

  void StartReading();

  // --- For the training thread. ---

  // The next epoch, entered by this. CANCELLED once the daemon wants an end.
  absl::StatusOr<Assignment> Enter();
  // The peer table of the epoch. CANCELLED: the epoch is to be left.
  absl::StatusOr<std::vector<transport::PeerAddress>> WaitForPeers();
  // From now on the order to leave the epoch ends waits of these; null for neither. With a window
  // the rank is connected: a later epoch at a boundary then waits for the boundary.
  void Watch(transport::Rendezvous* rendezvous, transport::Window* window);
  BoundaryWish WishAtBoundary(const v1::Plan& present);
  // The epoch is over.
  Ending Leave();

 private:
  void Read();
  void OnStart(v1::RankStart start);
  void OnPeers(const v1::RankPeers& peers);
  void OnHold(const v1::RankHold& hold);
  void OnDiagnose(uint64_t token);
  void Stop(std::string reason);
  // With mutex_ held.
  void Drop(std::string reason);
  void Interrupt();
  bool ending() const { return stopped_ || dropped_.has_value() || !unusable_.ok(); }

  RankChannel* const channel_;
  RankEvents* const events_;
  RankProgress* const progress_;
  const pthread_t training_thread_;
  const pid_t training_thread_id_;
  const AnswersForStack answers_;
  std::thread thread_;

  std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_.
  bool stopped_ = false;
  std::string stop_reason_;
  uint64_t entered_ = 0;                                      // newest epoch entered
  uint64_t dropped_through_ = 0;                              // told to hold these and all before
  bool in_epoch_ = false;                                     // `entered_` is not over
  bool connected_ = false;                                    // of it
  std::optional<std::vector<transport::PeerAddress>> peers_;  // of it
  std::optional<std::string> dropped_;                        // it, and why
  uint64_t park_ = 0;                                         // epoch to be parked
  std::optional<Assignment> next_;
  absl::Status unusable_;
  uint64_t unusable_epoch_ = 0;
  transport::Rendezvous* rendezvous_ = nullptr;
  transport::Window* window_ = nullptr;
};

}  // namespace fathom::engine

#endif  // FATHOM_WORKER_ENGINE_RANK_ORDERS_H_
