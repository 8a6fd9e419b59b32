#include "coordinator/planner/calibration/shared_cores.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <limits>
#include <queue>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_util.h"

namespace fathom::planner {
namespace {

using Kind = SharedAction::Kind;

constexpr double kNever = std::numeric_limits<double>::infinity();

// Work in progress on one machine. All running ranks advance alike, so each one's end is a fixed
// point on the machine's own time, which passes as fast as one rank works.
class Cores {
 public:
  explicit Cores(const SharedMachine& machine) : machine_(machine) {}

  void Start(int rank, double seconds) { ends_.push({own_time_ + seconds, rank}); }
  bool idle() const { return ends_.empty(); }

  // When the next rank is done, if nothing changes.
  double NextEnd(double now) const {
    if (ends_.empty()) return kNever;
    return now + std::max(0.0, ends_.top().first - own_time_) / Speed();
  }
  void PassTo(double now) {
    own_time_ += (now - last_) * Speed();
    busy_ += (now - last_) * std::min(machine_.cores, static_cast<double>(ends_.size()));
    last_ = now;
  }
  double busy() const { return busy_; }  // seconds of cores
  int Finish() {
    const auto [end, rank] = ends_.top();
    own_time_ = std::max(own_time_, end);
    ends_.pop();
    return rank;
  }

 private:
  double Speed() const {
    const auto running = static_cast<double>(ends_.size());
    if (running == 0) return 0;
    double speed = std::min(1.0, machine_.cores / running);
    if (std::min(running, machine_.cores) >= 2) speed /= machine_.slowdown;
    if (running > machine_.cores) speed /= machine_.turns_slowdown;
    return speed;
  }

  const SharedMachine machine_;
  using End = std::pair<double, int>;  // on own_time_; rank
  std::priority_queue<End, std::vector<End>, std::greater<>> ends_;
  double own_time_ = 0;
  double last_ = 0;
  double busy_ = 0;
};

class Simulator {
 public:
  Simulator(const std::vector<SharedMachine>& machines, const std::vector<SharedRank>& ranks,
            int channels, const std::vector<SharedGroup>& groups)
      : ranks_(ranks), states_(ranks.size()), channels_(channels), groups_(groups.size()) {
    for (const SharedMachine& machine : machines) cores_.emplace_back(machine);
    for (size_t g = 0; g < groups.size(); ++g) {
      groups_[g].members = groups[g].members;
      groups_[g].joined.resize(groups[g].members.size());
    }
    times_.ranks.resize(ranks.size());
    for (size_t r = 0; r < ranks.size(); ++r) states_[r].joins.resize(groups.size());
  }

  absl::StatusOr<SharedTimes> Run();

 private:
  struct RankState {
    size_t next = 0;             // action
    double since = 0;            // that it waits
    bool waits = false;          // at a take or a meeting
    std::vector<int64_t> joins;  // of each group, made by this rank
  };
  struct Channel {
    int64_t arrived = 0;
    int64_t taken = 0;
    int waiting = -1;  // rank
  };
  struct Group {
    std::vector<int> members;
    std::vector<int64_t> joined;  // that the group has heard of, by member
    std::vector<int> waiting;     // ranks
  };
  struct Arrival {
    double at = 0;
    int64_t order = 0;
    Kind kind = Kind::kPost;
    int index = 0;
    int rank = 0;  // that joined
    bool operator>(const Arrival& other) const {
      return std::pair(at, order) > std::pair(other.at, other.order);
    }
  };

  // Goes through the rank's program up to its next work or wait.
  void Advance(int rank);
  void Wake(int rank);
  void AdvanceReady();
  void Arrive(const Arrival& arrival);
  void Give(const SharedAction& action, int rank);
  bool MayPass(const SharedAction& action, int rank);
  static int64_t Met(const Group& group) {
    return *std::min_element(group.joined.begin(), group.joined.end());
  }
  absl::Status Deadlock() const;

  const std::vector<SharedRank>& ranks_;
  std::vector<RankState> states_;
  std::vector<Channel> channels_;
  std::vector<Group> groups_;
  std::vector<Cores> cores_;
  std::priority_queue<Arrival, std::vector<Arrival>, std::greater<>> arrivals_;
  std::deque<int> ready_;
  int64_t order_ = 0;
  double now_ = 0;
  size_t finished_ = 0;
  SharedTimes times_;
};

void Simulator::Arrive(const Arrival& arrival) {
  if (arrival.kind == Kind::kPost) {
    Channel& channel = channels_[arrival.index];
    ++channel.arrived;
    if (channel.waiting >= 0) Wake(std::exchange(channel.waiting, -1));
    return;
  }
  Group& group = groups_[arrival.index];
  const auto at = std::find(group.members.begin(), group.members.end(), arrival.rank);
  ++group.joined[static_cast<size_t>(at - group.members.begin())];
  const int64_t met = Met(group);
  for (const int rank : std::exchange(group.waiting, {})) {
    if (states_[rank].joins[arrival.index] <= met) {
      Wake(rank);
    } else {
      group.waiting.push_back(rank);
    }
  }
}

void Simulator::Give(const SharedAction& action, int rank) {
  const Arrival arrival = {now_ + action.seconds, order_++, action.kind, action.index, rank};
  if (action.seconds > 0) {
    arrivals_.push(arrival);
  } else {
    Arrive(arrival);
  }
}

// Whether the rank need not wait; notes that it waits where it must.
bool Simulator::MayPass(const SharedAction& action, int rank) {
  if (action.kind == Kind::kTake) {
    Channel& channel = channels_[action.index];
    if (channel.taken < channel.arrived) {
      ++channel.taken;
      return true;
    }
    channel.waiting = rank;
    return false;
  }
  Group& group = groups_[action.index];
  if (states_[rank].joins[action.index] <= Met(group)) return true;
  group.waiting.push_back(rank);
  return false;
}

void Simulator::Wake(int rank) {
  RankState& state = states_[rank];
  times_.ranks[rank].waiting += now_ - state.since;
  state.waits = false;
  ready_.push_back(rank);
}

void Simulator::AdvanceReady() {
  while (!ready_.empty()) {
    const int rank = ready_.front();
    ready_.pop_front();
    Advance(rank);
  }
}

void Simulator::Advance(int rank) {
  RankState& state = states_[rank];
  SharedTimes::Rank& times = times_.ranks[rank];
  const std::vector<SharedAction>& program = ranks_[rank].program;
  while (state.next < program.size()) {
    const SharedAction& action = program[state.next];
    switch (action.kind) {
      case Kind::kWork:
        ++state.next;
        if (action.seconds <= 0) break;
        times.work += action.seconds;
        cores_[ranks_[rank].machine].Start(rank, action.seconds);
        return;
      case Kind::kJoin:
        ++state.joins[action.index];
        [[fallthrough]];
      case Kind::kPost:
        ++state.next;
        Give(action, rank);
        break;
      case Kind::kTake:
      case Kind::kMeet:
        if (!MayPass(action, rank)) {
          state.since = now_;
          state.waits = true;
          return;
        }
        ++state.next;
        break;
      case Kind::kMark:
        ++state.next;
        if (times.marks.size() <= static_cast<size_t>(action.index)) {
          times.marks.resize(action.index + 1);
        }
        times.marks[action.index] = {now_, times.waiting};
        break;
    }
  }
  times.finish = now_;
  ++finished_;
}

absl::StatusOr<SharedTimes> Simulator::Run() {
  for (size_t rank = 0; rank < ranks_.size(); ++rank) ready_.push_back(static_cast<int>(rank));
  while (true) {
    AdvanceReady();
    if (finished_ == ranks_.size()) break;
    double next = arrivals_.empty() ? kNever : arrivals_.top().at;
    Cores* first = nullptr;
    for (Cores& cores : cores_) {
      const double end = cores.NextEnd(now_);
      if (end < next || (end == next && end < kNever && first == nullptr)) {
        next = end;
        first = &cores;
      }
    }
    if (next == kNever) return Deadlock();
    for (Cores& cores : cores_) cores.PassTo(next);
    now_ = next;
    if (first == nullptr) {
      const Arrival arrival = arrivals_.top();
      arrivals_.pop();
      Arrive(arrival);
      continue;
    }
    const int rank = first->Finish();
    ready_.push_back(rank);
  }
  for (const SharedTimes::Rank& rank : times_.ranks) {
    times_.makespan = std::max(times_.makespan, rank.finish);
  }
  for (const Cores& cores : cores_) times_.core_seconds += cores.busy();
  for (SharedTimes::Rank& rank : times_.ranks) rank.waiting += times_.makespan - rank.finish;
  return std::move(times_);
}

absl::Status Simulator::Deadlock() const {
  for (size_t rank = 0; rank < ranks_.size(); ++rank) {
    const RankState& state = states_[rank];
    if (!state.waits) continue;
    const SharedAction& action = ranks_[rank].program[state.next];
    return absl::FailedPreconditionError(
        absl::StrCat("simulating ", ranks_.size(), " ranks on shared cores: rank ", rank,
                     " waits for ever at its action ", state.next, ", ",
                     action.kind == Kind::kTake ? "a message of channel " : "a meeting of group ",
                     action.index));
  }
  return absl::InternalError("simulating ranks on shared cores: nothing runs and nobody waits");
}

absl::Status CheckAction(const SharedAction& action, int channels, size_t groups) {
  if (!std::isfinite(action.seconds) || action.seconds < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("a time of ", action.seconds, " seconds; give a number of at least 0"));
  }
  int limit = std::numeric_limits<int>::max();
  if (action.kind == Kind::kPost || action.kind == Kind::kTake) limit = channels;
  if (action.kind == Kind::kJoin || action.kind == Kind::kMeet) limit = static_cast<int>(groups);
  if (action.index < 0 || action.index >= limit) {
    return absl::InvalidArgumentError(
        absl::StrCat("index ", action.index, " where there are ", limit));
  }
  return absl::OkStatus();
}

absl::Status CheckInput(const std::vector<SharedMachine>& machines,
                        const std::vector<SharedRank>& ranks, int channels,
                        const std::vector<SharedGroup>& groups) {
  for (const SharedMachine& machine : machines) {
    if (!(machine.cores > 0) || !(machine.slowdown > 0) || !(machine.turns_slowdown > 0)) {
      return absl::InvalidArgumentError(
          absl::StrCat("a machine of ", machine.cores, " cores and slowdowns of ", machine.slowdown,
                       " and ", machine.turns_slowdown, "; all must be positive"));
    }
  }
  for (size_t r = 0; r < ranks.size(); ++r) {
    if (ranks[r].machine < 0 || static_cast<size_t>(ranks[r].machine) >= machines.size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("rank ", r, " is on machine ", ranks[r].machine, " of ", machines.size()));
    }
    for (const SharedAction& action : ranks[r].program) {
      FATHOM_RETURN_IF_ERROR(WithContext(CheckAction(action, channels, groups.size()),
                                         absl::StrCat("program of rank ", r)));
      if (action.kind != Kind::kJoin && action.kind != Kind::kMeet) continue;
      const std::vector<int>& members = groups[action.index].members;
      if (std::find(members.begin(), members.end(), static_cast<int>(r)) == members.end()) {
        return absl::InvalidArgumentError(
            absl::StrCat("rank ", r, " is no member of group ", action.index));
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SharedTimes> SimulateShared(const std::vector<SharedMachine>& machines,
                                           const std::vector<SharedRank>& ranks, int channels,
                                           const std::vector<SharedGroup>& groups) {
  FATHOM_RETURN_IF_ERROR(CheckInput(machines, ranks, channels, groups));
  return Simulator(machines, ranks, channels, groups).Run();
}

}  // namespace fathom::planner
