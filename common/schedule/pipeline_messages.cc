#include "common/schedule/pipeline_messages.h"

#include <algorithm>
#include <deque>
#include <map>

#include "absl/strings/str_cat.h"

namespace fathom::schedule {
namespace {

void AddMessages(const Schedule& schedule, int rank, const Op& op, Messages& messages) {
  if (op.kind == OpKind::kWeight) return;
  const bool gradients = op.kind != OpKind::kForward;
  const int stage = StageOf(schedule, rank, op.direction, op.chunk);
  const int source = gradients ? stage + 1 : stage - 1;
  const int target = gradients ? stage - 1 : stage + 1;
  auto exists = [&](int other) { return other >= 0 && other < schedule.stages; };
  if (exists(source)) {
    const int peer = RankOf(schedule, source, op.direction);
    const int sender = ChunkOf(schedule, source);
    messages.receives.push_back({{peer, rank, gradients}, op.direction, op.micro_batch, sender});
  }
  if (exists(target)) {
    const int peer = RankOf(schedule, target, op.direction);
    messages.sends.push_back({{rank, peer, gradients}, op.direction, op.micro_batch, op.chunk});
  }
}

class Replayer {
 public:
  Replayer(const Schedule& schedule, int slots)
      : schedule_(schedule), slots_(slots), ranks_(schedule.lists.size()) {}

  absl::Status Run(absl::FunctionRef<void(int, int, const Messages&)> started) {
    bool moved = true;
    while (moved && mismatch_.empty()) {
      moved = false;
      for (int rank = 0; rank < static_cast<int>(ranks_.size()); ++rank) {
        while (Advance(rank, started)) moved = true;
      }
    }
    return Stuck();
  }

 private:
  struct RankState {
    size_t next = 0;  // instruction
    bool running = false;
    size_t sent = 0;  // of the running instruction's messages
    Messages messages;
  };
  struct ChannelState {
    int held = 0;  // sent, and the instruction that takes it has not ended
    std::deque<Message> arrived;
  };

  // Does the rank's next possible thing; false if there is none.
  bool Advance(int rank, absl::FunctionRef<void(int, int, const Messages&)> started) {
    RankState& state = ranks_[rank];
    if (state.next == schedule_.lists[rank].size()) return false;
    if (!state.running) {
      state.messages = MessagesOf(schedule_, rank, schedule_.lists[rank][state.next]);
      const auto& receives = state.messages.receives;
      if (!std::all_of(receives.begin(), receives.end(),
                       [&](const Message& m) { return !channels_[m.channel].arrived.empty(); })) {
        return false;
      }
      for (const Message& message : receives) Take(message);
      if (!mismatch_.empty()) return false;
      started(rank, static_cast<int>(state.next), state.messages);
      state.running = true;
      state.sent = 0;
      return true;
    }
    if (state.sent < state.messages.sends.size()) {
      const Message& message = state.messages.sends[state.sent];
      ChannelState& channel = channels_[message.channel];
      const bool local = message.channel.from == message.channel.to;
      if (slots_ > 0 && !local && channel.held >= slots_) return false;
      ++channel.held;
      channel.arrived.push_back(message);
      ++state.sent;
      return true;
    }
    for (const Message& message : state.messages.receives) --channels_[message.channel].held;
    state.running = false;
    ++state.next;
    return true;
  }

  void Take(const Message& wanted) {
    std::deque<Message>& arrived = channels_[wanted.channel].arrived;
    if (arrived.front() != wanted && mismatch_.empty()) {
      mismatch_ = absl::StrCat(ToString(wanted), " is to be taken, but the oldest sent is ",
                               ToString(arrived.front()));
    }
    arrived.pop_front();
  }

  absl::Status Stuck() const {
    if (!mismatch_.empty()) return absl::InvalidArgumentError(mismatch_);
    std::string waits;
    for (size_t rank = 0; rank < ranks_.size(); ++rank) {
      const RankState& state = ranks_[rank];
      if (state.next == schedule_.lists[rank].size()) continue;
      const bool sending = state.running;
      const auto& all = sending ? state.messages.sends : state.messages.receives;
      absl::StrAppend(&waits, waits.empty() ? "" : "; ", "rank ", rank, " at instruction ",
                      state.next, " (", ToString(schedule_.lists[rank][state.next]), ") waits ",
                      sending ? "for room to send " : "to receive ",
                      sending ? ToString(all[state.sent]) : FirstMissing(all));
    }
    if (waits.empty()) return absl::OkStatus();
    return absl::FailedPreconditionError(absl::StrCat("deadlock: ", waits));
  }

  std::string FirstMissing(const std::vector<Message>& receives) const {
    for (const Message& message : receives) {
      const auto found = channels_.find(message.channel);
      if (found == channels_.end() || found->second.arrived.empty()) return ToString(message);
    }
    return "nothing";
  }

  const Schedule& schedule_;
  const int slots_;
  std::vector<RankState> ranks_;
  std::map<Channel, ChannelState> channels_;
  std::string mismatch_;  // of the first message taken in another order than sent
};

}  // namespace

std::string ToString(const Message& message) {
  return absl::StrCat(message.channel.gradients ? "gradient B" : "activation F",
                      message.direction + message.chunk, ".", message.micro_batch, " from rank ",
                      message.channel.from, " to rank ", message.channel.to);
}

Messages MessagesOf(const Schedule& schedule, int rank, const Instruction& instruction) {
  Messages messages;
  AddMessages(schedule, rank, instruction.first, messages);
  if (instruction.overlapped) AddMessages(schedule, rank, instruction.second, messages);
  return messages;
}

absl::Status Replay(const Schedule& schedule, int slots,
                    absl::FunctionRef<void(int, int, const Messages&)> started) {
  return Replayer(schedule, slots).Run(started);
}

}  // namespace fathom::schedule
