// Random histories of desired states, of ranks that live, talk and die, and of an executor that
// does what the core says: what must hold at every moment, and where it must all end.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <iterator>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "worker/agent/agent_core.h"

namespace fathom {
namespace {

using Kind = AgentAction::Kind;

constexpr int kDevices = 2;
constexpr absl::Duration kGrace = absl::Seconds(5);

AgentOptions Options(bool keep_idle) {
  AgentOptions options;
  options.node.set_name("n0");
  for (int i = 0; i < kDevices; ++i) options.node.add_devices()->set_index(i);
  options.stop_grace = kGrace;
  options.keep_idle = keep_idle;
  options.check_plan = [](const v1::Plan&) { return absl::OkStatus(); };
  return options;
}

// What is in it is a function of name and epoch, as it must be of a plan: one rank or two, on
// device 0 first or on device 1.
v1::DesiredJob Job(const std::string& name, uint64_t epoch) {
  v1::DesiredJob job;
  job.mutable_plan()->set_job(name);
  job.mutable_plan()->set_epoch(epoch);
  const int ranks = epoch % 3 == 0 ? 1 : kDevices;
  for (int i = 0; i < ranks; ++i) {
    v1::RankAssignment* assignment = job.mutable_plan()->add_ranks();
    assignment->set_rank(i);
    assignment->set_node("n0");
    assignment->set_device(epoch % 2 == 0 ? i : kDevices - 1 - i);
    job.add_ranks(i);
  }
  return job;
}

class RandomHistory {
 public:
  explicit RandomHistory(uint32_t seed) : random_(seed), core_(Options(seed % 2 == 0)) {}

  void Run(int moves) {
    for (int i = 0; i < moves && !::testing::Test::HasFatalFailure(); ++i) {
      Move();
      Reconcile();
    }
    Settle();
  }

  int moves() const { return static_cast<int>(core_.moves_at_boundary() + core_.moves_at_once()); }

 private:
  struct Process {
    int device = -1;
    std::vector<RankId> told;  // in order; the last is what it is to run
    std::set<uint64_t> peers;  // epochs
    uint64_t newest_told = 0;  // leaving included
    bool newest_at_boundary = false;
    bool killed = false;  // dies at the next move
    std::optional<absl::Duration> stop_time;
    std::optional<absl::Duration> obey_by;
  };

  int Pick(int n) { return std::uniform_int_distribution<int>(0, n - 1)(random_); }
  AgentMoment Now() const { return {now_, absl::ToInt64Milliseconds(now_)}; }

  void Bury() {
    for (auto it = processes_.begin(); it != processes_.end();) {
      const auto [id, process] = *it++;
      if (process.killed) Exit(id, false);
    }
  }

  void Move() {
    now_ += absl::Milliseconds(Pick(2000));
    if (Pick(2) == 0) Bury();
    switch (Pick(4)) {
      case 0:
        return NewDesire(true);
      case 1:
        return core_.OnDesired(desired_);  // repeated
      default:
        if (processes_.empty()) return;
        auto it = processes_.begin();
        std::advance(it, Pick(static_cast<int>(processes_.size())));
        return Live(it->first, &it->second);
    }
  }

  void NewDesire(bool may_lag) {
    desired_.clear_jobs();
    desired_.set_version(desired_.version() + 1);
    for (const char* name : {"a-1", "b-2"}) {
      if (Pick(4) == 0) continue;
      uint64_t& newest = newest_epoch_[name];
      const uint64_t before = newest;
      if (newest == 0 || Pick(3) == 0) newest += 1 + Pick(2);
      const int mood = Pick(8);
      uint64_t epoch = newest;
      if (mood == 0 && may_lag && newest > 1) epoch = newest - 1;  // fallen behind, or given up
      std::set<uint64_t> listed = {epoch};
      if (mood <= 4 && before != 0 && before < epoch) listed.insert(before);
      // Those of the list before as well, or, less often, some of them alone.
      if (Pick(5) == 0) listed.insert(listed_[name].begin(), listed_[name].end());
      if (Pick(5) == 0 && may_lag && listed.size() > 1) listed.erase(std::prev(listed.end()));
      for (const uint64_t one : listed) AddJob(name, one);
      listed_[name] = std::move(listed);
    }
    core_.OnDesired(desired_);
  }

  void AddJob(const std::string& name, uint64_t epoch) {
    v1::DesiredJob job = Job(name, epoch);
    if (Pick(2) == 0) job.add_peers()->set_endpoint("x");
    if (Pick(5) == 0) job.set_hold(true);
    if (Pick(8) == 0) job.set_park(true);
    if (Pick(4) == 0) job.set_diagnose(desired_.version());
    *desired_.add_jobs() = std::move(job);
  }

  void Live(ProcessId id, Process* process) {
    if (Pick(6) == 0 || process->told.empty()) return Exit(id, Pick(2) == 0);
    if (Pick(12) == 0) return core_.OnChannelClosed(id, absl::OkStatus(), Now());
    v1::RankEvent event;
    const size_t back = process->told.size() > 1 ? static_cast<size_t>(Pick(2)) : 0;
    event.set_epoch(process->told[process->told.size() - 1 - back].epoch);
    switch (Pick(11)) {
      case 0:
      case 1:
      case 2:
        event.set_listening(absl::StrCat("h:", event.epoch()));
        break;
      case 3:
        event.mutable_loading();
        break;
      case 4:
        event.mutable_training();
        break;
      case 5:
        event.mutable_step()->set_step(1);
        break;
      case 6:
        event.mutable_held()->set_step(1);
        break;
      case 7:
        event.mutable_diagnosis()->set_token(1);
        break;
      case 8:
        event.mutable_parked();
        break;
      case 9:
        event.mutable_finished();
        break;
      default:
        event.set_failed("f");
    }
    const bool of_newest = event.epoch() == process->newest_told;
    if (of_newest && !event.has_failed() && !event.has_diagnosis()) process->obey_by.reset();
    if (process->obey_by && event.has_held()) process->obey_by = now_ + kGrace;
    core_.OnEvent(id, event, Now());
  }

  void Exit(ProcessId id, bool zero) {
    processes_.erase(id);
    core_.OnExited(id, zero, "ended");
  }

  void Reconcile() {
    int rounds = 0;
    for (;;) {
      const std::vector<AgentAction> actions = core_.Reconcile(Now());
      if (actions.empty()) break;
      // A failed start and a death are news; apart from them there is nothing left to do.
      ASSERT_LT(++rounds, 10) << "does not come to rest";
      for (const AgentAction& action : actions) Do(action);
    }
    for (const auto& [id, process] : processes_) {
      if (process.killed) continue;
      const bool overdue = (process.stop_time && now_ >= *process.stop_time + kGrace) ||
                           (process.obey_by && now_ >= *process.obey_by);
      ASSERT_FALSE(overdue) << "process " << id << " should have been killed";
    }
    const std::optional<absl::Duration> deadline = core_.NextDeadline();
    ASSERT_TRUE(!deadline || *deadline > now_) << "a deadline that nothing is done about";
  }

  void Do(const AgentAction& action) {
    const ProcessId id = action.process;
    if (action.kind == Kind::kSpawn) return DoSpawn(action);
    ASSERT_TRUE(processes_.contains(id)) << "process " << id;
    switch (action.kind) {
      case Kind::kSpawn:
        return;
      case Kind::kKill:
        ASSERT_FALSE(std::exchange(processes_.at(id).killed, true)) << "killed twice";
        if (Pick(2) == 0) Exit(id, false);
        return;
      case Kind::kInspect:
        return core_.OnInspected(id, "sleeping", Now());
      case Kind::kSend:
        return DoSend(action, &processes_.at(id));
    }
  }

  void DoSpawn(const AgentAction& action) {
    for (const auto& [other, process] : processes_) {
      ASSERT_NE(process.device, action.device) << "beside process " << other;
    }
    if (action.rank) {
      ASSERT_TRUE(spawned_.insert(*action.rank).second)
          << ToString(*action.rank) << " was started in a new process twice";
    }
    if (Pick(12) == 0) return core_.OnSpawnFailed(action.process, absl::InternalError("no"));
    processes_[action.process].device = action.device;
    core_.OnSpawned(action.process, 1);
    if (action.rank) DoStart(action, &processes_.at(action.process));
  }

  void DoSend(const AgentAction& action, Process* process) {
    const v1::RankCommand& command = action.command;
    ASSERT_FALSE(process->stop_time)
        << "nothing is said after the stop: " << command.ShortDebugString();
    if (command.has_start()) return DoStart(action, process);
    if (command.has_stop()) process->stop_time = now_;
    if (command.has_peers()) {
      ASSERT_TRUE(process->peers.insert(command.peers().epoch()).second) << "peers are sent once";
      ASSERT_LE(command.peers().epoch(), process->newest_told) << "peers of what it isn't told of";
    }
  }

  void DoStart(const AgentAction& action, Process* process) {
    const v1::RankStart& start = action.command.start();
    const uint64_t epoch = start.plan().epoch();
    ASSERT_GE(epoch, process->newest_told) << "an older epoch";
    if (epoch == process->newest_told) {
      ASSERT_TRUE(process->newest_at_boundary && !start.at_boundary()) << "told twice";
    }
    if (start.rank() >= 0) {
      ASSERT_EQ(start.plan().ranks(start.rank()).device(), process->device);
      if (!process->told.empty()) {
        ASSERT_EQ(process->told.back().job, action.rank->job) << "a process is of one job";
      }
    }
    const bool first = process->told.empty();
    const bool again = epoch == process->newest_told;
    process->newest_told = epoch;
    process->newest_at_boundary = start.at_boundary();
    process->obey_by.reset();
    // One that had been told of it before may have said already that it listens.
    if (!first && !again && !start.at_boundary()) process->obey_by = now_ + kGrace;
    if (start.rank() >= 0 && !again) process->told.push_back(*action.rank);
  }

  // With time going on and nothing new desired: only processes of wanted ranks live, and each
  // wanted rank has a process that was told of it or is reported as ended.
  void Settle() {
    NewDesire(false);
    for (int i = 0; i < 40 && !::testing::Test::HasFatalFailure(); ++i) {
      Reconcile();
      Bury();
      now_ += kGrace;
    }
    std::set<RankId> wanted, told;
    for (const v1::DesiredJob& job : desired_.jobs()) {
      for (const int rank : job.ranks()) {
        wanted.insert({JobId(job.plan().job()), job.plan().epoch(), rank});
      }
    }
    std::set<int> devices;
    for (const auto& [id, process] : processes_) {
      EXPECT_TRUE(devices.insert(process.device).second);
      bool any = process.told.empty();  // idle
      for (const RankId& rank : process.told) any |= wanted.contains(rank);
      EXPECT_TRUE(any) << "process " << id << " runs nothing that is wanted";
      told.insert(process.told.begin(), process.told.end());
    }
    std::map<RankId, v1::RankState> reported;
    const v1::NodeReport report = core_.Report();
    for (const v1::RankStatus& status : report.ranks()) {
      const RankId id{JobId(status.job()), status.epoch(), status.rank()};
      reported[id] = status.state();
      EXPECT_TRUE(wanted.contains(id) || told.contains(id))
          << ToString(id) << " is neither wanted nor forgotten";
    }
    for (const RankId& id : wanted) {
      ASSERT_TRUE(reported.contains(id)) << ToString(id);
      const v1::RankState state = reported[id];
      const bool ended = state == v1::RANK_STATE_FAILED || state == v1::RANK_STATE_FINISHED ||
                         state == v1::RANK_STATE_STOPPED || state == v1::RANK_STATE_PARKED ||
                         state == v1::RANK_STATE_MOVED;
      EXPECT_TRUE(ended || told.contains(id)) << ToString(id) << v1::RankState_Name(state);
    }
  }

  std::mt19937 random_;
  AgentCore core_;
  v1::DesiredState desired_;
  absl::Duration now_;
  std::map<std::string, uint64_t> newest_epoch_;
  std::map<std::string, std::set<uint64_t>> listed_;  // last
  std::map<ProcessId, Process> processes_;
  std::set<RankId> spawned_;
};

TEST(AgentCoreHistoryTest, RandomDesiresAndDeaths_KeepThePromisesAndConverge) {
  int moves = 0;
  for (uint32_t seed = 1; seed <= 600; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    RandomHistory history(seed);
    history.Run(150);
    moves += history.moves();
    if (::testing::Test::HasFailure()) return;
  }
  EXPECT_GT(moves, 600) << "histories that hardly move test little";
}

}  // namespace
}  // namespace fathom
