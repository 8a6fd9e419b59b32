#include "common/schedule/pipeline_messages.h"

#include <array>
#include <cstddef>
#include <tuple>

#include "absl/container/flat_hash_map.h"
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

// Channels by number, so that following a message costs no search.
class ChannelTable {
 public:
  explicit ChannelTable(const Schedule& schedule)
      : schedule_(schedule),
        ways_(2 * schedule.directions * schedule.chunks),
        takes_(static_cast<size_t>(schedule.ranks) * ways_, -1),
        gives_(takes_.size(), -1) {
    absl::flat_hash_map<std::tuple<int, int, bool>, int> numbers;
    auto number = [&](const Channel& channel) {
      const auto [found, fresh] = numbers.try_emplace(
          std::tuple(channel.from, channel.to, channel.gradients), channels_.size());
      if (fresh) channels_.push_back(channel);
      return found->second;
    };
    for (int rank = 0; rank < schedule.ranks; ++rank) {
      for (int way = 0; way < ways_; ++way) {
        const OpKind kind = way % 2 == 0 ? OpKind::kForward : OpKind::kBackward;
        Messages messages;
        AddMessages(schedule, rank, {kind, way / 2 / schedule.chunks, 0, way / 2 % schedule.chunks},
                    messages);
        const size_t place = static_cast<size_t>(rank) * ways_ + way;
        for (const Message& m : messages.receives) takes_[place] = number(m.channel);
        for (const Message& m : messages.sends) gives_[place] = number(m.channel);
      }
    }
  }

  size_t size() const { return channels_.size(); }
  const Channel& operator[](int number) const { return channels_[number]; }
  // That the op takes its message from, or gives one to; -1: there is none.
  int Takes(int rank, const Op& op) const { return Find(takes_, rank, op); }
  int Gives(int rank, const Op& op) const { return Find(gives_, rank, op); }

 private:
  int Find(const std::vector<int>& table, int rank, const Op& op) const {
    if (op.kind == OpKind::kWeight) return -1;
    const int way =
        2 * (op.direction * schedule_.chunks + op.chunk) + (op.kind == OpKind::kForward ? 0 : 1);
    return table[static_cast<size_t>(rank) * ways_ + way];
  }

  const Schedule& schedule_;
  const int ways_;  // of a micro-batch through a rank, forwards and backwards
  std::vector<Channel> channels_;
  std::vector<int> takes_;  // by rank, then way
  std::vector<int> gives_;
};

class Replayer {
 public:
  Replayer(const Schedule& schedule, int slots)
      : schedule_(schedule),
        slots_(slots),
        table_(schedule),
        ranks_(schedule.lists.size()),
        channels_(table_.size()) {}

  absl::Status Run(absl::FunctionRef<void(int, int, const Messages&)> started) {
    for (int rank = static_cast<int>(ranks_.size()) - 1; rank >= 0; --rank) Wake(rank);
    while (!awake_.empty() && mismatch_.empty()) {
      const int rank = awake_.back();
      awake_.pop_back();
      ranks_[rank].awake = false;
      while (Advance(rank, started)) {
      }
    }
    return Stuck();
  }

 private:
  struct RankState {
    size_t next = 0;  // instruction
    bool awake = false;
    bool prepared = false;  // what follows is the next instruction's
    bool running = false;
    size_t sent = 0;  // of the running instruction's messages
    Messages messages;
    std::array<int, 2> takes;  // channels of its messages
    std::array<int, 2> gives;
  };
  struct ChannelState {
    int held = 0;  // sent, and the instruction that takes it has not ended
    size_t taken = 0;
    std::vector<Message> sent;
  };

  void Wake(int rank) {
    if (ranks_[rank].awake) return;
    ranks_[rank].awake = true;
    awake_.push_back(rank);
  }

  void Prepare(int rank, RankState& state) {
    if (state.prepared) return;
    const Instruction& instruction = schedule_.lists[rank][state.next];
    state.messages.receives.clear();
    state.messages.sends.clear();
    size_t takes = 0;
    size_t gives = 0;
    auto add = [&](const Op& op) {
      AddMessages(schedule_, rank, op, state.messages);
      if (const int from = table_.Takes(rank, op); from >= 0) state.takes[takes++] = from;
      if (const int to = table_.Gives(rank, op); to >= 0) state.gives[gives++] = to;
    };
    add(instruction.first);
    if (instruction.overlapped) add(instruction.second);
    state.prepared = true;
  }

  // Does the rank's next possible thing; false if there is none.
  bool Advance(int rank, absl::FunctionRef<void(int, int, const Messages&)> started) {
    RankState& state = ranks_[rank];
    if (state.next == schedule_.lists[rank].size()) return false;
    Prepare(rank, state);
    const auto& receives = state.messages.receives;
    if (!state.running) {
      for (size_t i = 0; i < receives.size(); ++i) {
        if (!HasArrived(state.takes[i])) return false;
      }
      for (size_t i = 0; i < receives.size(); ++i) Take(state.takes[i], receives[i]);
      if (!mismatch_.empty()) return false;
      started(rank, static_cast<int>(state.next), state.messages);
      state.running = true;
      state.sent = 0;
      return true;
    }
    if (state.sent < state.messages.sends.size()) {
      const int number = state.gives[state.sent];
      const Message& message = state.messages.sends[state.sent];
      ChannelState& channel = channels_[number];
      const bool local = message.channel.from == message.channel.to;
      if (slots_ > 0 && !local && channel.held >= slots_) return false;
      ++channel.held;
      channel.sent.push_back(message);
      ++state.sent;
      Wake(message.channel.to);
      return true;
    }
    for (size_t i = 0; i < receives.size(); ++i) {
      --channels_[state.takes[i]].held;
      Wake(receives[i].channel.from);
    }
    state.running = false;
    state.prepared = false;
    ++state.next;
    return true;
  }

  bool HasArrived(int number) const {
    return channels_[number].taken < channels_[number].sent.size();
  }

  void Take(int number, const Message& wanted) {
    ChannelState& channel = channels_[number];
    // Two halves of a pair may take from one channel, and only the first may have come.
    if (!HasArrived(number)) {
      mismatch_ = absl::StrCat(ToString(wanted), " is to be taken, but is not sent");
      return;
    }
    const Message& oldest = channel.sent[channel.taken];
    if (oldest != wanted && mismatch_.empty()) {
      mismatch_ = absl::StrCat(ToString(wanted), " is to be taken, but the oldest sent is ",
                               ToString(oldest));
    }
    ++channel.taken;
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
                      sending ? ToString(all[state.sent]) : FirstMissing(state));
    }
    if (waits.empty()) return absl::OkStatus();
    return absl::FailedPreconditionError(absl::StrCat("deadlock: ", waits));
  }

  std::string FirstMissing(const RankState& state) const {
    for (size_t i = 0; i < state.messages.receives.size(); ++i) {
      if (!HasArrived(state.takes[i])) return ToString(state.messages.receives[i]);
    }
    return "nothing";
  }

  const Schedule& schedule_;
  const int slots_;
  const ChannelTable table_;
  std::vector<RankState> ranks_;
  std::vector<ChannelState> channels_;  // by number
  std::vector<int> awake_;              // ranks that may be able to do something
  std::string mismatch_;                // of the first message taken in another order than sent
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
