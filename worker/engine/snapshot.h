// Streams a rank's shard of a step to its buddy while the next step runs, and takes in its ward's.
//
// Between the schedule's instructions Pump sends as many chunks as there is room for at the buddy
// and takes in those that have arrived; it never waits. Finish, before the next state is committed,
// does the rest. A snapshot counts at the buddy only when it is complete and its hash is the one
// that the owner computed when it made the state.
//
// Finish can't lock up: every rank sends to one and receives from one, in a ring or rings of ranks.
// One that has sent no more chunks than it has received waits to send, else to receive. If all in a
// ring waited to send, each would wait for one that has received less than it has sent itself, so
// the numbers would fall all the way around; the same for receiving; and of two neighbours that
// wait for each other, one has what the other waits for.
#ifndef FATHOM_WORKER_ENGINE_SNAPSHOT_H_
#define FATHOM_WORKER_ENGINE_SNAPSHOT_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "proto/fathom/v1/plan.pb.h"
#include "worker/engine/state_memory.h"
#include "worker/transport/channel.h"

namespace fathom::engine {

class SnapshotStream {
 public:
  // One from every rank to its buddy. None in a job of one rank.
  static std::vector<transport::ChannelSpec> Channels(const v1::Plan& plan,
                                                      const StateLayout& layout);

  // All outlive the stream.
  SnapshotStream(const v1::Plan& plan, int rank, std::shared_ptr<const StateLayout> layout,
                 transport::ChannelSet* channels, StateMemory* memory, const Clock* clock);

  // The state must stay whole until Finish. Every rank begins with the same step, after it has
  // finished the one before.
  void Begin(std::shared_ptr<const ShardState> state);

  // ABORTED, with "CORRUPTION: ": what arrived isn't what its owner made. Else as the
  // transport, naming the peer.
  absl::Status Pump();
  absl::Status Finish();

  // Newest step of which the buddy was sent all; kNotWhole: none, or there is no buddy.
  int64_t finished_step() const { return finished_step_; }
  // Since the last call, inside Pump and Finish.
  absl::Duration TakeTimeSpent();

 private:
  bool sending() const { return sent_ < to_send_; }
  bool receiving() const { return received_ < to_receive_; }
  absl::Status PumpUntimed();
  absl::Status FinishUntimed();
  absl::Status SendNext();
  absl::Status ReceiveNext();
  absl::Status TakeHeader(absl::Span<const std::byte> message);
  absl::Status TakeChunk(absl::Span<const std::byte> message);

  // Constant.
  const int rank_;
  const int ward_;
  const std::shared_ptr<const StateLayout> layout_;
  StateMemory* const memory_;
  const Clock* const clock_;
  transport::ChannelSender* to_buddy_ = nullptr;
  transport::ChannelReceiver* from_ward_ = nullptr;
  int64_t ward_bytes_ = 0;

  // Of the snapshot in progress; messages are a header and then chunks.
  std::shared_ptr<const ShardState> state_;
  std::shared_ptr<ShardState> incoming_;
  int64_t to_send_ = 0;
  int64_t sent_ = 0;
  int64_t to_receive_ = 0;
  int64_t received_ = 0;
  int64_t incoming_epoch_ = 0;  // that made it
  uint64_t incoming_hash_ = 0;  // as its owner says
  uint64_t hash_so_far_ = 0;

  int64_t finished_step_ = kNotWhole;
  absl::Duration spent_;
};

}  // namespace fathom::engine

#endif  // FATHOM_WORKER_ENGINE_SNAPSHOT_H_
