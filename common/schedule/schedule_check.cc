#include "common/schedule/schedule_check.h"

#include <algorithm>
#include <deque>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status_util.h"
#include "common/schedule/pipeline_messages.h"

namespace fathom::schedule {
namespace {

absl::Status CheckShape(const Schedule& s) {
  auto bad = [&](auto... parts) {
    return absl::InvalidArgumentError(absl::StrCat("schedule \"", s.kind, "\": ", parts...));
  };
  if (s.ranks < 1) return bad(s.ranks, " ranks; at least 1 is needed");
  if (s.lists.size() != static_cast<size_t>(s.ranks)) {
    return bad(s.lists.size(), " lists for ", s.ranks, " ranks; each rank needs one");
  }
  if (s.chunks < 1 || s.stages != int64_t{s.ranks} * s.chunks) {
    return bad(s.stages, " stages for ", s.ranks, " ranks of ", s.chunks, " chunks");
  }
  if (s.directions != 1 && s.directions != 2) return bad(s.directions, " directions; 1 or 2");
  if (s.chunks > 1 && s.directions == 2) {
    return bad(s.chunks, " chunks in two directions; each direction has one");
  }
  if (s.placement == Placement::kV && s.chunks != 2) {
    return bad(s.chunks, " chunks in the shape of a V; it has 2");
  }
  if (s.directions == 2 && s.ranks % 2 != 0) {
    return bad(s.ranks, " ranks; two directions need an even number");
  }
  if (s.micro_batches < s.directions || s.micro_batches % s.directions != 0) {
    return bad(s.micro_batches, " micro-batches do not divide into ", s.directions, " directions");
  }
  return absl::OkStatus();
}

// Reads one rank's list from its beginning.
class RankReader {
 public:
  explicit RankReader(const Schedule& schedule)
      : directions_(schedule.directions),
        chunks_(schedule.chunks),
        per_direction_(BatchesPerDirection(schedule)),
        forwards_(directions_ * chunks_, 0),
        backwards_(directions_ * chunks_, 0) {}

  // Empty, or what is wrong.
  std::string Read(const Instruction& instruction) {
    if (!instruction.overlapped) return Read(instruction.first);
    if (instruction.first.kind != OpKind::kForward ||
        instruction.second.kind != OpKind::kBackward) {
      return "an overlapped pair is a forward, then a full backward";
    }
    // The backward first: its forward must have ended before the pair begins.
    std::string problem = Read(instruction.second);
    return problem.empty() ? Read(instruction.first) : problem;
  }

  std::string Finish(bool forward_only) const {
    for (int i = 0; i < directions_ * chunks_; ++i) {
      if (forwards_[i] != per_direction_) return Count("forwards", i, forwards_[i]);
      const int backwards = forward_only ? 0 : per_direction_;
      if (backwards_[i] != backwards) return Count("backwards", i, backwards_[i]);
    }
    if (!deferred_.empty()) {
      return absl::StrCat(deferred_.size(), " deferred weight gradients are never run");
    }
    return "";
  }

 private:
  std::string Read(const Op& op) {
    if (op.direction < 0 || op.direction >= directions_) {
      return absl::StrCat("there is no direction ", op.direction);
    }
    if (op.chunk < 0 || op.chunk >= chunks_) return absl::StrCat("there is no chunk ", op.chunk);
    if (op.kind == OpKind::kWeight) return ReadWeight(op);
    const int stage = op.direction * chunks_ + op.chunk;
    const bool forward = op.kind == OpKind::kForward;
    int& next = forward ? forwards_[stage] : backwards_[stage];
    if (op.micro_batch != next || next == per_direction_) {
      return next == per_direction_
                 ? absl::StrCat("all ", per_direction_, " of its direction have come before")
                 : absl::StrCat("micro-batch ", next, " of its direction is next");
    }
    if (!forward && next >= forwards_[stage]) return "its forward has not run before";
    ++next;
    if (op.kind == OpKind::kBackwardInput) deferred_.push_back({stage, op.micro_batch});
    return "";
  }

  std::string ReadWeight(const Op& op) {
    if (deferred_.empty()) return "no weight gradient is deferred";
    const int stage = op.direction * chunks_ + op.chunk;
    if (deferred_.front() != std::pair(stage, op.micro_batch)) {
      return absl::StrCat("it names ", stage, ".", op.micro_batch, " but the oldest deferred is ",
                          deferred_.front().first, ".", deferred_.front().second);
    }
    deferred_.pop_front();
    return "";
  }

  std::string Count(const char* what, int index, int count) const {
    return absl::StrCat(count, " ", what, " of ", chunks_ > 1 ? "chunk " : "direction ", index,
                        " where there are ", per_direction_, " micro-batches");
  }

  const int directions_;
  const int chunks_;
  const int per_direction_;
  // By direction, then chunk.
  std::vector<int> forwards_;
  std::vector<int> backwards_;
  std::deque<std::pair<int, int>> deferred_;
};

absl::Status CheckList(const Schedule& schedule, int rank) {
  RankReader reader(schedule);
  const auto& list = schedule.lists[rank];
  for (size_t i = 0; i < list.size(); ++i) {
    const std::string problem = reader.Read(list[i]);
    if (!problem.empty()) {
      return absl::InvalidArgumentError(absl::StrCat("rank ", rank, ", instruction ", i, " (",
                                                     ToString(list[i]), "): ", problem));
    }
  }
  const std::string problem = reader.Finish(schedule.kind == kForwardOnlyKind);
  if (problem.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("rank ", rank, ": ", problem));
}

}  // namespace

absl::Status CheckScheduleLists(const Schedule& schedule) {
  FATHOM_RETURN_IF_ERROR(CheckShape(schedule));
  for (int rank = 0; rank < schedule.ranks; ++rank) {
    FATHOM_RETURN_IF_ERROR(CheckList(schedule, rank));
  }
  return absl::OkStatus();
}

absl::Status CheckSchedule(const Schedule& schedule, int slots_per_channel) {
  FATHOM_RETURN_IF_ERROR(CheckScheduleLists(schedule));
  return Replay(schedule, slots_per_channel, [](int, int, const Messages&) {});
}

int MaxInFlight(const Schedule& schedule) {
  // clock[a][b]: instructions of rank b that have surely ended when rank a starts its next one.
  using Clock = std::vector<int>;
  const int ranks = schedule.ranks;
  std::vector<Clock> clocks(ranks, Clock(ranks, 0));
  struct ChannelState {
    std::deque<Clock> arrivals;  // what each message's sender knew
    std::vector<int> takers;     // the receiver's instructions that take a message, ascending
    int sent = 0;
  };
  std::map<Channel, ChannelState> channels;
  for (int rank = 0; rank < ranks; ++rank) {
    for (int i = 0; i < static_cast<int>(schedule.lists[rank].size()); ++i) {
      for (const Message& m : MessagesOf(schedule, rank, schedule.lists[rank][i]).receives) {
        channels[m.channel].takers.push_back(i);
      }
    }
  }
  int most = 0;
  const absl::Status status = Replay(schedule, 0, [&](int rank, int index, const Messages& all) {
    Clock& clock = clocks[rank];
    for (const Message& message : all.receives) {
      auto& arrivals = channels[message.channel].arrivals;
      for (int r = 0; r < ranks; ++r) clock[r] = std::max(clock[r], arrivals.front()[r]);
      arrivals.pop_front();
    }
    clock[rank] = index;
    for (const Message& message : all.sends) {
      ChannelState& channel = channels[message.channel];
      const int ended = clock[message.channel.to];
      const auto freed = std::lower_bound(channel.takers.begin(), channel.takers.end(), ended);
      ++channel.sent;
      if (message.channel.from != message.channel.to) {
        most = std::max(most, channel.sent - static_cast<int>(freed - channel.takers.begin()));
      }
      channel.arrivals.push_back(clock);
      channel.arrivals.back()[rank] = index + 1;
    }
    clock[rank] = index + 1;
  });
  FATHOM_CHECK(status.ok()) << status.ToString();
  return most;
}

}  // namespace fathom::schedule
