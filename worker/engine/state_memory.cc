#include "worker/engine/state_memory.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

#include "common/base/check.h"
#include "common/base/hash.h"

namespace fathom::engine {
namespace {

constexpr size_t kHeldMax = 2;

// The state to write over: one that isn't whole, else the oldest.
std::shared_ptr<ShardState> Oldest(const std::vector<std::shared_ptr<ShardState>>& states) {
  return *std::min_element(states.begin(), states.end(),
                           [](const auto& a, const auto& b) { return a->step() < b->step(); });
}

}  // namespace

uint64_t HashState(absl::Span<const std::byte> bytes) {
  uint64_t hash = 0;
  for (size_t at = 0; at < bytes.size(); at += kStateChunkBytes) {
    const absl::Span<const std::byte> chunk = bytes.subspan(at, kStateChunkBytes);
    hash = Xxh64(chunk.data(), chunk.size(), hash);
  }
  return hash;
}

ShardState::ShardState(std::shared_ptr<const StateLayout> layout, int shard,
                       std::shared_ptr<kernels::Ops> ops)
    : layout_(std::move(layout)),
      shard_(shard),
      ops_(std::move(ops)),
      bytes_(static_cast<size_t>(layout_->ShardBytes(shard))) {
  if (bytes_ == 0) return;
  if (ops_ != nullptr) {
    data_ = static_cast<std::byte*>(ops_->Allocate(bytes_));
  } else {
    data_ = static_cast<std::byte*>(::operator new(bytes_, std::align_val_t(kStateAlignBytes)));
    std::memset(data_, 0, bytes_);
  }
}

ShardState::~ShardState() {
  if (data_ == nullptr) return;
  if (ops_ != nullptr) {
    ops_->Free(data_);
  } else {
    ::operator delete(data_, std::align_val_t(kStateAlignBytes));
  }
}

void ShardState::SetWhole(int64_t step, uint64_t epoch, uint64_t hash) {
  FATHOM_CHECK(step >= 0) << step;
  step_ = step;
  epoch_ = epoch;
  hash_ = hash;
}

std::vector<RestorePoint> MergeHistory(std::vector<RestorePoint> points) {
  // Of one epoch, the lowest step first; an epoch has but one unless two ranks of it were told
  // differently, and then the lower is the safe one.
  std::sort(points.begin(), points.end(), [](const RestorePoint& a, const RestorePoint& b) {
    return a.epoch != b.epoch ? a.epoch < b.epoch : a.step > b.step;
  });
  std::vector<RestorePoint> history;
  for (const RestorePoint& point : points) {
    // A later epoch that began no later than an earlier one voids all that the earlier one voids.
    while (!history.empty() && history.back().step >= point.step) history.pop_back();
    history.push_back(point);
  }
  if (history.size() > kRestorePointsMax) {
    history.erase(history.begin(), history.end() - kRestorePointsMax);
  }
  return history;
}

bool OnHistory(absl::Span<const RestorePoint> history, uint64_t epoch, int64_t step) {
  // Of epochs before the oldest point of a full history nothing is known.
  if (history.size() == kRestorePointsMax && epoch < history.front().epoch) return false;
  for (const RestorePoint& point : history) {
    if (point.epoch > epoch && step > point.step) return false;
  }
  return true;
}

int64_t StateMemory::newest_step() const {
  int64_t newest = 0;
  for (const Entry& entry : Whole()) {
    if (entry.own) newest = std::max(newest, entry.state->step());
  }
  return newest;
}

std::array<std::shared_ptr<ShardState>, 2> StateMemory::OwnBuffers(
    const std::shared_ptr<const StateLayout>& layout, int shard,
    const std::shared_ptr<kernels::Ops>& ops) {
  const bool same = own_.size() == 2 && own_[0]->Is(*layout, shard);
  if (!same) {
    for (auto* states : {&own_, &retained_}) {
      for (std::shared_ptr<ShardState>& state : *states) {
        if (state->whole()) foreign_.push_back({std::move(state), true});
      }
      states->clear();
    }
    for (int i = 0; i < 2; ++i) own_.push_back(std::make_shared<ShardState>(layout, shard, ops));
  }
  return {own_[0], own_[1]};
}

void StateMemory::RetainCopy(const ShardState& state) {
  FATHOM_CHECK(state.whole()) << "copy of a state that is being written";
  if (retained_.size() < kHeldMax) {
    retained_.push_back(
        std::make_shared<ShardState>(state.shared_layout(), state.shard(), nullptr));
  }
  ShardState& copy = *Oldest(retained_);
  FATHOM_CHECK(copy.Is(state.layout(), state.shard())) << "copies of another shard";
  copy.Invalidate();
  std::memcpy(copy.bytes().data(), state.bytes().data(), state.bytes().size());
  copy.SetWhole(state.step(), state.epoch(), state.hash());
}

std::shared_ptr<ShardState> StateMemory::BeginHeld(const std::shared_ptr<const StateLayout>& layout,
                                                   int shard) {
  if (!held_.empty() && !held_[0]->Is(*layout, shard)) {
    for (std::shared_ptr<ShardState>& state : held_) {
      if (state->whole()) foreign_.push_back({std::move(state), false});
    }
    held_.clear();
  }
  const bool all_whole =
      std::all_of(held_.begin(), held_.end(), [](const auto& state) { return state->whole(); });
  if (held_.size() < kHeldMax && all_whole) {
    held_.push_back(std::make_shared<ShardState>(layout, shard, nullptr));
  }
  std::shared_ptr<ShardState> state = Oldest(held_);
  state->Invalidate();
  return state;
}

std::vector<StateMemory::Entry> StateMemory::Whole() const {
  std::vector<Entry> entries;
  for (const auto& state : own_) entries.push_back({state, true});
  for (const auto& state : retained_) entries.push_back({state, true});
  for (const auto& state : held_) entries.push_back({state, false});
  entries.insert(entries.end(), foreign_.begin(), foreign_.end());
  entries.erase(std::remove_if(entries.begin(), entries.end(),
                               [](const Entry& entry) { return !entry.state->whole(); }),
                entries.end());
  return entries;
}

void StateMemory::Learn(absl::Span<const RestorePoint> points) {
  std::vector<RestorePoint> all(points.begin(), points.end());
  all.insert(all.end(), history_.begin(), history_.end());
  history_ = MergeHistory(std::move(all));
  for (const Entry& entry : Whole()) {
    if (!OnHistory(history_, entry.state->epoch(), entry.state->step())) entry.state->Invalidate();
  }
}

void StateMemory::DropForeign() { foreign_.clear(); }

}  // namespace fathom::engine
