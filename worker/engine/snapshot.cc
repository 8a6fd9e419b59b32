#include "worker/engine/snapshot.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/hash.h"
#include "common/base/status_util.h"
#include "common/plan/buddy.h"

namespace fathom::engine {
namespace {

constexpr char kChannel[] = "snapshot";
constexpr int kSlotsMin = 4;
constexpr int kSlotsMax = 64;
// Into how many pumps of full slots a large shard is divided: a step of a pipeline has more
// instructions than that.
constexpr int64_t kPumpsPerShard = 64;

struct Header {
  int64_t step = 0;
  int64_t bytes = 0;
  int64_t epoch = 0;
  uint64_t hash = 0;
};

int64_t Chunks(int64_t bytes) { return (bytes + kStateChunkBytes - 1) / kStateChunkBytes; }

}  // namespace

std::vector<transport::ChannelSpec> SnapshotStream::Channels(const v1::Plan& plan,
                                                             const StateLayout& layout) {
  std::vector<transport::ChannelSpec> specs;
  if (plan.ranks_size() == 1) return specs;
  // Those of one lane stand for all: lanes are alike but for the sizes of their experts' runs.
  int64_t chunks = 0;
  for (int shard = 0; shard < plan.spec().parallelism().pipeline(); ++shard) {
    chunks = std::max(chunks, Chunks(layout.ShardBytes(shard)));
  }
  const int slots =
      static_cast<int>(std::clamp<int64_t>(chunks / kPumpsPerShard, kSlotsMin, kSlotsMax));
  const std::vector<int> buddies = plan::BuddiesOf(plan);
  for (int rank = 0; rank < plan.ranks_size(); ++rank) {
    specs.push_back({kChannel, rank, buddies[static_cast<size_t>(rank)], slots,
                     static_cast<uint64_t>(kStateChunkBytes)});
  }
  return specs;
}

SnapshotStream::SnapshotStream(const v1::Plan& plan, int rank,
                               std::shared_ptr<const StateLayout> layout,
                               transport::ChannelSet* channels, StateMemory* memory,
                               const Clock* clock)
    : rank_(rank),
      ward_(plan::WardOf(plan, rank)),
      layout_(std::move(layout)),
      memory_(memory),
      clock_(clock) {
  if (ward_ < 0) return;
  to_buddy_ = channels->sender(kChannel, plan::BuddyOf(plan, rank));
  from_ward_ = channels->receiver(kChannel, ward_);
  ward_bytes_ = layout_->ShardBytes(ward_);
}

void SnapshotStream::Begin(std::shared_ptr<const ShardState> state) {
  FATHOM_CHECK(!sending() && !receiving()) << "a snapshot is in progress";
  FATHOM_CHECK(state->whole() && state->Is(*layout_, rank_)) << "no state of this rank";
  if (ward_ < 0) return;
  state_ = std::move(state);
  incoming_ = memory_->BeginHeld(layout_, ward_);
  to_send_ = 1 + Chunks(static_cast<int64_t>(state_->bytes().size()));
  to_receive_ = 1 + Chunks(ward_bytes_);
  sent_ = received_ = 0;
  hash_so_far_ = 0;
}

absl::Status SnapshotStream::Pump() {
  if (!sending() && !receiving()) return absl::OkStatus();
  const absl::Duration start = clock_->Steady();
  const absl::Status status = PumpUntimed();
  spent_ += clock_->Steady() - start;
  return status;
}

absl::Status SnapshotStream::Finish() {
  const absl::Duration start = clock_->Steady();
  const absl::Status status = FinishUntimed();
  spent_ += clock_->Steady() - start;
  return status;
}

absl::Duration SnapshotStream::TakeTimeSpent() {
  return std::exchange(spent_, absl::ZeroDuration());
}

absl::Status SnapshotStream::PumpUntimed() {
  while (sending()) {
    FATHOM_ASSIGN_OR_RETURN(const bool ready, to_buddy_->Ready());
    if (!ready) break;
    FATHOM_RETURN_IF_ERROR(SendNext());
  }
  while (receiving()) {
    FATHOM_ASSIGN_OR_RETURN(const bool ready, from_ward_->Ready());
    if (!ready) break;
    FATHOM_RETURN_IF_ERROR(ReceiveNext());
  }
  return absl::OkStatus();
}

absl::Status SnapshotStream::FinishUntimed() {
  while (true) {
    FATHOM_RETURN_IF_ERROR(PumpUntimed());
    if (!sending() && !receiving()) break;
    if (sending() && (!receiving() || sent_ <= received_)) {
      FATHOM_RETURN_IF_ERROR(SendNext());
    } else {
      FATHOM_RETURN_IF_ERROR(ReceiveNext());
    }
  }
  if (state_ != nullptr) finished_step_ = state_->step();
  state_ = nullptr;
  incoming_ = nullptr;
  return absl::OkStatus();
}

absl::Status SnapshotStream::SendNext() {
  if (sent_ == 0) {
    const Header header = {state_->step(), static_cast<int64_t>(state_->bytes().size()),
                           static_cast<int64_t>(state_->epoch()), state_->hash()};
    FATHOM_RETURN_IF_ERROR(
        to_buddy_->Send({reinterpret_cast<const std::byte*>(&header), sizeof(header)}));
  } else {
    const size_t at = static_cast<size_t>((sent_ - 1) * kStateChunkBytes);
    FATHOM_RETURN_IF_ERROR(to_buddy_->Send(state_->bytes().subspan(at, kStateChunkBytes)));
  }
  ++sent_;
  return absl::OkStatus();
}

absl::Status SnapshotStream::ReceiveNext() {
  FATHOM_ASSIGN_OR_RETURN(const absl::Span<const std::byte> message, from_ward_->Receive());
  FATHOM_RETURN_IF_ERROR(received_ == 0 ? TakeHeader(message) : TakeChunk(message));
  FATHOM_RETURN_IF_ERROR(from_ward_->Release());
  if (++received_ < to_receive_) return absl::OkStatus();
  if (hash_so_far_ != incoming_hash_) {
    return absl::AbortedError(absl::StrCat("CORRUPTION: the state of rank ", ward_, " after step ",
                                           state_->step(), " arrived at rank ", rank_,
                                           " with hash ", absl::Hex(hash_so_far_), "; rank ", ward_,
                                           " had made it with ", absl::Hex(incoming_hash_)));
  }
  incoming_->SetWhole(state_->step(), static_cast<uint64_t>(incoming_epoch_), incoming_hash_);
  return absl::OkStatus();
}

absl::Status SnapshotStream::TakeHeader(absl::Span<const std::byte> message) {
  Header header;
  if (message.size() != sizeof(header)) {
    return absl::InternalError(
        absl::StrCat("snapshot of rank ", ward_, ": a header of ", message.size(), " bytes"));
  }
  std::memcpy(&header, message.data(), sizeof(header));
  if (header.step != state_->step() || header.bytes != ward_bytes_) {
    return absl::InternalError(absl::StrCat("snapshot of rank ", ward_, ": ", header.bytes,
                                            " bytes of step ", header.step, " where ", ward_bytes_,
                                            " of step ", state_->step(), " were expected"));
  }
  incoming_epoch_ = header.epoch;
  incoming_hash_ = header.hash;
  return absl::OkStatus();
}

absl::Status SnapshotStream::TakeChunk(absl::Span<const std::byte> message) {
  const size_t at = static_cast<size_t>((received_ - 1) * kStateChunkBytes);
  const absl::Span<std::byte> to = incoming_->bytes().subspan(at, kStateChunkBytes);
  if (message.size() != to.size()) {
    return absl::InternalError(absl::StrCat("snapshot of rank ", ward_, ": a chunk of ",
                                            message.size(), " bytes where ", to.size(),
                                            " were expected"));
  }
  std::memcpy(to.data(), message.data(), to.size());
  hash_so_far_ = Xxh64(to.data(), to.size(), hash_so_far_);
  return absl::OkStatus();
}

}  // namespace fathom::engine
