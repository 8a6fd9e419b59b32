// What a rank process holds in memory across epochs: shards of training state, whole, each with its
// layout, step and hash.
//
// Its own: the two buffers that the optimizer writes in turn, so the newest step s and s-1; and
// where snapshots are taken more rarely, copies of the steps they were taken at. Those of the rank
// whose buddy it is: the newest two snapshots. All outlive the parts of an epoch, which may be
// destroyed at any moment: a shard that is being written is not whole until its step is set.
//
// A history of the steps that epochs began from tells states of an abandoned future from those of
// the present one: after epoch e went back to step r, what an epoch before e made beyond r is void.
//
// Used by one thread at a time. Memory is such that the CPU can address it.
#ifndef FATHOM_WORKER_ENGINE_STATE_MEMORY_H_
#define FATHOM_WORKER_ENGINE_STATE_MEMORY_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "kernels/ops.h"
#include "worker/engine/state_layout.h"

namespace fathom::engine {

inline constexpr int64_t kNotWhole = -1;

// What a state is sent and hashed in.
inline constexpr int64_t kStateChunkBytes = int64_t{256} << 10;

// XXH64 over the bytes, chunk after chunk, each chunk's hash seeding the next.
uint64_t HashState(absl::Span<const std::byte> bytes);

// One shard at one step.
class ShardState {
 public:
  // Zeroed memory; from `ops` (kept alive), or of the process when that is null.
  ShardState(std::shared_ptr<const StateLayout> layout, int shard,
             std::shared_ptr<kernels::Ops> ops);
  ~ShardState();
  ShardState(const ShardState&) = delete;
  ShardState& operator=(const ShardState&) = delete;

  const StateLayout& layout() const { return *layout_; }
  const std::shared_ptr<const StateLayout>& shared_layout() const { return layout_; }
  int shard() const { return shard_; }
  bool Is(const StateLayout& layout, int shard) const {
    return shard_ == shard && layout_->key() == layout.key();
  }

  absl::Span<std::byte> bytes() { return {data_, bytes_}; }
  absl::Span<const std::byte> bytes() const { return {data_, bytes_}; }

  bool whole() const { return step_ != kNotWhole; }
  int64_t step() const { return step_; }
  uint64_t epoch() const { return epoch_; }  // that made it
  uint64_t hash() const { return hash_; }

  // Before the first byte is written.
  void Invalidate() { step_ = kNotWhole; }
  // After the last one.
  void SetWhole(int64_t step, uint64_t epoch, uint64_t hash);
  // The bytes are still those that SetWhole was told the hash of.
  bool Verify() const { return whole() && HashState(bytes()) == hash_; }

 private:
  // Constant.
  const std::shared_ptr<const StateLayout> layout_;
  const int shard_;
  const std::shared_ptr<kernels::Ops> ops_;
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;

  int64_t step_ = kNotWhole;
  uint64_t epoch_ = 0;
  uint64_t hash_ = 0;
};

// Epoch e began from the state after step r.
struct RestorePoint {
  uint64_t epoch = 0;
  int64_t step = 0;

  bool operator==(const RestorePoint&) const = default;
};

// Restore points of any order and number, as one history: by epoch, without those that a later one
// makes meaningless, the newest kRestorePointsMax.
inline constexpr size_t kRestorePointsMax = 32;
std::vector<RestorePoint> MergeHistory(std::vector<RestorePoint> points);

// Whether a state that `epoch` made after `step` lies on the way to the present.
bool OnHistory(absl::Span<const RestorePoint> history, uint64_t epoch, int64_t step);

class StateMemory {
 public:
  // Newest step of which this process holds its own whole state; 0: none, or the initial one.
  int64_t newest_step() const;

  // The two buffers of an optimizer: those of the epoch before where layout and shard are the same,
  // with what they hold, else new ones.
  std::array<std::shared_ptr<ShardState>, 2> OwnBuffers(
      const std::shared_ptr<const StateLayout>& layout, int shard,
      const std::shared_ptr<kernels::Ops>& ops);

  // A copy of an own state, for a snapshot that is not of every step; the newest two are kept.
  void RetainCopy(const ShardState& state);

  // Where the next snapshot of this shard, held for another rank, is to be written: never over the
  // newest whole one of it. It is invalid until it is set whole.
  std::shared_ptr<ShardState> BeginHeld(const std::shared_ptr<const StateLayout>& layout,
                                        int shard);

  // Everything whole, own ones first; the same order until something changes.
  struct Entry {
    std::shared_ptr<ShardState> state;
    bool own = false;
  };
  std::vector<Entry> Whole() const;

  // Where epochs began, as all their ranks agreed: states off the way to the present are void.
  void Learn(absl::Span<const RestorePoint> points);
  const std::vector<RestorePoint>& history() const { return history_; }

  // Every shard of the present epoch is at its buddy (or none is to be): what an earlier layout or
  // place left behind goes.
  void DropForeign();

 private:
  std::vector<std::shared_ptr<ShardState>> own_;       // the present optimizer's
  std::vector<std::shared_ptr<ShardState>> retained_;  // copies of own states
  std::vector<std::shared_ptr<ShardState>> held_;      // the present ward's
  // Of earlier places, until DropForeign.
  std::vector<Entry> foreign_;
  std::vector<RestorePoint> history_;
};

}  // namespace fathom::engine

#endif  // FATHOM_WORKER_ENGINE_STATE_MEMORY_H_
