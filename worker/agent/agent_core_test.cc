#include "worker/agent/agent_core.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

namespace fathom {
namespace {

using Kind = AgentAction::Kind;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

constexpr int kDevices = 2;

AgentOptions Options() {
  AgentOptions options;
  options.node.set_name("n0");
  options.node.set_address("127.0.0.1");
  for (int i = 0; i < kDevices; ++i) options.node.add_devices()->set_index(i);
  options.incarnation = 77;
  options.pid = 4;
  options.check_plan = [](const v1::Plan& plan) {
    return plan.spec().precision() == "none" ? absl::InvalidArgumentError("no such precision")
                                             : absl::OkStatus();
  };
  return options;
}

RankId Id(const std::string& job, uint64_t epoch, int rank) { return {JobId(job), epoch, rank}; }

// A job of `ranks` ranks on this node, rank i on device i.
v1::DesiredJob Job(const std::string& name, uint64_t epoch, int ranks = 1) {
  v1::DesiredJob job;
  job.mutable_plan()->set_job(name);
  job.mutable_plan()->set_epoch(epoch);
  for (int i = 0; i < ranks; ++i) {
    v1::RankAssignment* assignment = job.mutable_plan()->add_ranks();
    assignment->set_rank(i);
    assignment->set_node("n0");
    assignment->set_device(i);
    job.add_ranks(i);
  }
  return job;
}

v1::DesiredState Desire(std::vector<v1::DesiredJob> jobs, uint64_t version = 1) {
  v1::DesiredState desired;
  desired.set_version(version);
  for (v1::DesiredJob& job : jobs) *desired.add_jobs() = std::move(job);
  return desired;
}

v1::RankEvent Listening(const std::string& endpoint) {
  v1::RankEvent event;
  event.set_listening(endpoint);
  return event;
}
v1::RankEvent Training() {
  v1::RankEvent event;
  event.mutable_training();
  return event;
}
v1::RankEvent Finished(const std::string& hash) {
  v1::RankEvent event;
  event.mutable_finished()->set_weights_sha256(hash);
  return event;
}
v1::RankEvent Failed(const std::string& why) {
  v1::RankEvent event;
  event.set_failed(why);
  return event;
}

class AgentCoreTest : public ::testing::Test {
 protected:
  // Reconciles; every start that comes out succeeds. Returns "start tiny-1 epoch 1 rank 0" and
  // such.
  std::vector<std::string> Act(absl::Duration now = absl::ZeroDuration()) {
    std::vector<std::string> done;
    for (const AgentAction& action : core_.Reconcile(now)) {
      static constexpr const char* kNames[] = {"start", "peers", "stop", "kill", "forget"};
      done.push_back(absl::StrCat(kNames[static_cast<int>(action.kind)], " ", ToString(action.id)));
      if (action.kind == Kind::kStart) core_.OnStarted(action.id, ++last_pid_);
    }
    EXPECT_THAT(core_.Reconcile(now), IsEmpty()) << "not idempotent";
    return done;
  }

  v1::RankStatus Status(const RankId& id) {
    const v1::NodeReport report = core_.Report();
    for (const v1::RankStatus& status : report.ranks()) {
      if (status.job() == id.job.value() && status.epoch() == id.epoch &&
          status.rank() == id.rank) {
        return status;
      }
    }
    ADD_FAILURE() << ToString(id) << " is not reported";
    return {};
  }

  AgentCore core_{Options()};
  int64_t last_pid_ = 100;
};

TEST_F(AgentCoreTest, NothingDesired_ReportsTheNodeAlone) {
  EXPECT_THAT(Act(), IsEmpty());
  const v1::NodeReport report = core_.Report();
  EXPECT_EQ(report.node().name(), "n0");
  EXPECT_EQ(report.incarnation(), 77);
  EXPECT_EQ(report.ranks_size(), 0);
  EXPECT_EQ(core_.NextDeadline(), std::nullopt);
}

TEST_F(AgentCoreTest, WantedRanks_AreStartedWithWhatTheyNeed) {
  v1::DesiredJob job = Job("tiny-1", 1);
  job.set_checkpoint_directory("/ckpt");
  core_.OnDesired(Desire({job}, 9));
  const std::vector<AgentAction> actions = core_.Reconcile(absl::ZeroDuration());
  ASSERT_EQ(actions.size(), 1u);
  EXPECT_EQ(actions[0].kind, Kind::kStart);
  EXPECT_EQ(actions[0].id, Id("tiny-1", 1, 0));
  const v1::RankStart& start = actions[0].command.start();
  EXPECT_EQ(start.plan().SerializeAsString(), job.plan().SerializeAsString());
  EXPECT_EQ(start.checkpoint_directory(), "/ckpt");
  EXPECT_EQ(start.bind_host(), "127.0.0.1");
  core_.OnStarted(actions[0].id, 321);
  EXPECT_EQ(Status(actions[0].id).pid(), 321);
  EXPECT_EQ(Status(actions[0].id).state(), v1::RANK_STATE_STARTING);
  EXPECT_EQ(core_.Report().desired_version(), 9u);
}

TEST_F(AgentCoreTest, WholeLife_IsReportedStateByState) {
  const RankId id = Id("tiny-1", 1, 0);
  v1::DesiredJob job = Job("tiny-1", 1);
  core_.OnDesired(Desire({job}));
  EXPECT_THAT(Act(), ElementsAre("start tiny-1 epoch 1 rank 0"));
  core_.OnEvent(id, Listening("127.0.0.1:5"), absl::ZeroDuration());
  EXPECT_EQ(Status(id).state(), v1::RANK_STATE_LISTENING);
  EXPECT_EQ(Status(id).endpoint(), "127.0.0.1:5");
  EXPECT_THAT(Act(), IsEmpty());

  job.add_peers()->set_endpoint("127.0.0.1:5");
  core_.OnDesired(Desire({job}, 2));
  EXPECT_THAT(Act(), ElementsAre("peers tiny-1 epoch 1 rank 0"));
  core_.OnEvent(id, Training(), absl::ZeroDuration());
  EXPECT_EQ(Status(id).state(), v1::RANK_STATE_TRAINING);
  v1::RankEvent step;
  step.mutable_step()->set_step(3);
  const uint64_t before = core_.revision();
  core_.OnEvent(id, step, absl::ZeroDuration());
  EXPECT_EQ(Status(id).last_step().step(), 3);
  EXPECT_EQ(core_.revision(), before) << "steps wait for the next report";

  core_.OnEvent(id, Finished("abc"), absl::ZeroDuration());
  EXPECT_EQ(Status(id).state(), v1::RANK_STATE_TRAINING) << "finished is what has also exited";
  core_.OnExited(id, true, "exited with 0");
  EXPECT_EQ(Status(id).state(), v1::RANK_STATE_FINISHED);
  EXPECT_EQ(Status(id).weights_sha256(), "abc");
  EXPECT_GT(core_.revision(), before);

  EXPECT_THAT(Act(), IsEmpty());
  core_.OnDesired(Desire({}, 3));
  EXPECT_THAT(Act(), ElementsAre("forget tiny-1 epoch 1 rank 0"));
  EXPECT_EQ(core_.Report().ranks_size(), 0);
}

TEST_F(AgentCoreTest, RankNoLongerWanted_IsStoppedAndAfterTheGraceKilled) {
  const RankId id = Id("tiny-1", 1, 0);
  core_.OnDesired(Desire({Job("tiny-1", 1)}));
  Act();
  core_.OnDesired(Desire({}));
  EXPECT_THAT(Act(absl::Seconds(10)), ElementsAre("stop tiny-1 epoch 1 rank 0"));
  EXPECT_EQ(core_.NextDeadline(), absl::Seconds(15));
  EXPECT_THAT(Act(absl::Seconds(14)), IsEmpty());
  EXPECT_THAT(Act(absl::Seconds(15)), ElementsAre("kill tiny-1 epoch 1 rank 0"));
  EXPECT_EQ(core_.NextDeadline(), std::nullopt);
  core_.OnExited(id, false, "was killed by signal 9");
  EXPECT_EQ(Status(id).state(), v1::RANK_STATE_STOPPED);
  EXPECT_THAT(Status(id).message(), HasSubstr("asked to stop and was still there 5s later"));
  EXPECT_THAT(Act(absl::Seconds(15)), ElementsAre("forget tiny-1 epoch 1 rank 0"));
}

TEST_F(AgentCoreTest, NewEpoch_WaitsForTheDeviceUntilTheOldRankIsGone) {
  core_.OnDesired(Desire({Job("tiny-1", 1)}));
  Act();
  core_.OnDesired(Desire({Job("tiny-1", 2)}));
  EXPECT_THAT(Act(), ElementsAre("stop tiny-1 epoch 1 rank 0"));
  EXPECT_EQ(Status(Id("tiny-1", 2, 0)).state(), v1::RANK_STATE_STARTING);
  EXPECT_THAT(Status(Id("tiny-1", 2, 0)).message(), HasSubstr("tiny-1 epoch 1 rank 0"));
  core_.OnExited(Id("tiny-1", 1, 0), true, "exited with 0");
  EXPECT_THAT(Act(),
              UnorderedElementsAre("forget tiny-1 epoch 1 rank 0", "start tiny-1 epoch 2 rank 0"));
  EXPECT_EQ(Status(Id("tiny-1", 2, 0)).message(), "");
}

TEST_F(AgentCoreTest, OlderEpoch_IsRefusedAndTheNewerOneKeepsRunning) {
  core_.OnDesired(Desire({Job("tiny-1", 5)}));
  Act();
  core_.OnDesired(Desire({Job("tiny-1", 4)}));
  EXPECT_THAT(Act(), IsEmpty());
  EXPECT_EQ(Status(Id("tiny-1", 4, 0)).state(), v1::RANK_STATE_FAILED);
  EXPECT_THAT(Status(Id("tiny-1", 4, 0)).message(), HasSubstr("older than epoch 5"));
  EXPECT_EQ(Status(Id("tiny-1", 5, 0)).state(), v1::RANK_STATE_STARTING);
  core_.OnDesired(Desire({}));
  EXPECT_THAT(Act(), ElementsAre("forget tiny-1 epoch 4 rank 0", "stop tiny-1 epoch 5 rank 0"));
}

TEST_F(AgentCoreTest, TwoEpochsListed_OnlyTheNewerRuns) {
  core_.OnDesired(Desire({Job("tiny-1", 3), Job("tiny-1", 2)}));
  EXPECT_THAT(Act(), ElementsAre("start tiny-1 epoch 3 rank 0"));
  EXPECT_EQ(Status(Id("tiny-1", 2, 0)).state(), v1::RANK_STATE_FAILED);
}

TEST_F(AgentCoreTest, SameEpochWantedAgainAfterItWasStopped_IsFailedNotStartedTwice) {
  const RankId id = Id("tiny-1", 1, 0);
  core_.OnDesired(Desire({Job("tiny-1", 1)}));
  Act();
  core_.OnDesired(Desire({}));
  Act();
  core_.OnExited(id, true, "exited with 0");
  Act();
  core_.OnDesired(Desire({Job("tiny-1", 1)}));
  EXPECT_THAT(Act(), IsEmpty());
  EXPECT_EQ(Status(id).state(), v1::RANK_STATE_FAILED);
  EXPECT_THAT(Status(id).message(), HasSubstr("needs a new epoch"));
}

struct Refusal {
  const char* name;
  void (*spoil)(v1::DesiredJob*);
  const char* says;
};

class RefusedPlanTest : public AgentCoreTest, public ::testing::WithParamInterface<Refusal> {};

TEST_P(RefusedPlanTest, RankThatCannotBeStarted_IsReportedFailedWithTheReason) {
  v1::DesiredJob job = Job("tiny-1", 1);
  GetParam().spoil(&job);
  core_.OnDesired(Desire({job}));
  EXPECT_THAT(Act(), IsEmpty());
  ASSERT_EQ(core_.Report().ranks_size(), 1);
  EXPECT_EQ(core_.Report().ranks(0).state(), v1::RANK_STATE_FAILED);
  EXPECT_THAT(core_.Report().ranks(0).message(), HasSubstr(GetParam().says));
  core_.OnDesired(Desire({}));
  EXPECT_EQ(Act().size(), 1u) << "forgotten";
}

INSTANTIATE_TEST_SUITE_P(
    Reasons, RefusedPlanTest,
    ::testing::Values(
        Refusal{"Plan",
                [](v1::DesiredJob* j) { j->mutable_plan()->mutable_spec()->set_precision("none"); },
                "INVALID_ARGUMENT: no such precision"},
        Refusal{"JobId", [](v1::DesiredJob* j) { j->mutable_plan()->set_job("../x"); },
                "no job's id"},
        Refusal{"Epoch", [](v1::DesiredJob* j) { j->mutable_plan()->set_epoch(0); },
                "count from 1"},
        Refusal{"Rank", [](v1::DesiredJob* j) { j->set_ranks(0, 7); }, "no rank 7"},
        Refusal{"NegativeRank", [](v1::DesiredJob* j) { j->set_ranks(0, -1); }, "no rank -1"},
        Refusal{"Node",
                [](v1::DesiredJob* j) { j->mutable_plan()->mutable_ranks(0)->set_node("n1"); },
                "on node n1, but this is n0"},
        Refusal{"Device",
                [](v1::DesiredJob* j) { j->mutable_plan()->mutable_ranks(0)->set_device(2); },
                "device 2; this node has 2"}),
    [](const auto& param) { return std::string(param.param.name); });

TEST_F(AgentCoreTest, AnotherPlanUnderTheSameEpoch_IsRefused) {
  v1::DesiredJob job = Job("tiny-1", 1, 2);
  job.set_ranks(1, 0);  // only rank 0 at first
  core_.OnDesired(Desire({job}));
  Act();
  job.set_ranks(1, 1);
  job.mutable_plan()->mutable_spec()->set_precision("fp32");
  core_.OnDesired(Desire({job}));
  EXPECT_THAT(Act(), IsEmpty());
  EXPECT_EQ(Status(Id("tiny-1", 1, 0)).state(), v1::RANK_STATE_STARTING);
  EXPECT_THAT(Status(Id("tiny-1", 1, 1)).message(), HasSubstr("two different plans"));
}

TEST_F(AgentCoreTest, DeviceOfAWantedRankWantedByAnotherJob_FailsTheSecond) {
  core_.OnDesired(Desire({Job("a-1", 1), Job("b-2", 1)}));
  EXPECT_THAT(Act(), ElementsAre("start a-1 epoch 1 rank 0"));
  EXPECT_EQ(Status(Id("b-2", 1, 0)).state(), v1::RANK_STATE_FAILED);
  EXPECT_THAT(Status(Id("b-2", 1, 0)).message(), HasSubstr("taken by a-1 epoch 1 rank 0"));
}

TEST_F(AgentCoreTest, StartFailed_IsReportedAndNotRetried) {
  core_.OnDesired(Desire({Job("tiny-1", 1)}));
  const std::vector<AgentAction> actions = core_.Reconcile(absl::ZeroDuration());
  ASSERT_EQ(actions.size(), 1u);
  core_.OnStartFailed(actions[0].id, absl::NotFoundError("no fathom-rank"));
  EXPECT_THAT(Act(), IsEmpty());
  EXPECT_THAT(Status(actions[0].id).message(), HasSubstr("no fathom-rank"));
  EXPECT_FALSE(core_.AnyProcessAlive());
}

struct Ending {
  const char* name;
  std::vector<v1::RankEvent> events;
  bool exit_code_zero;
  v1::RankState state;
  const char* says;
};

class EndingTest : public AgentCoreTest, public ::testing::WithParamInterface<Ending> {};

TEST_P(EndingTest, WantedRankThatEnds_IsClassified) {
  const RankId id = Id("tiny-1", 1, 0);
  core_.OnDesired(Desire({Job("tiny-1", 1)}));
  Act();
  for (const v1::RankEvent& event : GetParam().events) {
    core_.OnEvent(id, event, absl::ZeroDuration());
  }
  core_.OnChannelClosed(id, absl::OkStatus(), absl::ZeroDuration());
  core_.OnExited(id, GetParam().exit_code_zero, "did exit");
  EXPECT_EQ(Status(id).state(), GetParam().state);
  EXPECT_THAT(Status(id).message(), HasSubstr(GetParam().says));
  EXPECT_THAT(Act(), IsEmpty()) << "an ended rank that is still listed is left alone";
}

INSTANTIATE_TEST_SUITE_P(
    Ends, EndingTest,
    ::testing::Values(
        Ending{"Finished", {Training(), Finished("a")}, true, v1::RANK_STATE_FINISHED, ""},
        Ending{"FinishedButBadExit",
               {Finished("a")},
               false,
               v1::RANK_STATE_FAILED,
               "after it had finished it did exit"},
        Ending{"Silent", {}, true, v1::RANK_STATE_FAILED, "did exit, without having finished"},
        Ending{"Crash", {Training()}, false, v1::RANK_STATE_FAILED, "did exit"},
        Ending{"OwnWords",
               {Training(), Failed("rank 3 is gone")},
               false,
               v1::RANK_STATE_FAILED,
               "rank 3 is gone"}),
    [](const auto& param) { return std::string(param.param.name); });

TEST_F(AgentCoreTest, FailedRankThatStays_IsKilledAfterTheExitGrace) {
  const RankId id = Id("tiny-1", 1, 0);
  core_.OnDesired(Desire({Job("tiny-1", 1)}));
  Act();
  core_.OnEvent(id, Failed("out of luck"), absl::Seconds(1));
  EXPECT_EQ(Status(id).state(), v1::RANK_STATE_FAILED) << "known before the process is gone";
  EXPECT_THAT(Act(absl::Seconds(31)), ElementsAre("kill tiny-1 epoch 1 rank 0"));
  core_.OnExited(id, false, "was killed");
  EXPECT_EQ(Status(id).message(), "out of luck");
}

TEST_F(AgentCoreTest, BrokenChannel_FailsAndKillsAtOnce) {
  const RankId id = Id("tiny-1", 1, 0);
  core_.OnDesired(Desire({Job("tiny-1", 1)}));
  Act();
  core_.OnChannelClosed(id, absl::DataLossError("gibberish"), absl::Seconds(1));
  EXPECT_THAT(Act(absl::Seconds(1)), ElementsAre("kill tiny-1 epoch 1 rank 0"));
  EXPECT_THAT(Status(id).message(), HasSubstr("gibberish"));
}

TEST_F(AgentCoreTest, FailureTextOfAnyLength_IsCut) {
  const RankId id = Id("tiny-1", 1, 0);
  core_.OnDesired(Desire({Job("tiny-1", 1)}));
  Act();
  core_.OnEvent(id, Failed(std::string(1 << 20, 'x')), absl::ZeroDuration());
  EXPECT_LE(Status(id).message().size(), 4096u);
  EXPECT_GE(Status(id).message().size(), 4000u);
}

TEST_F(AgentCoreTest, Shutdown_StopsAllAndReportsThemStopped) {
  core_.OnDesired(Desire({Job("tiny-1", 1, 2)}));
  Act();
  core_.Shutdown("the daemon ends");
  EXPECT_THAT(Act(), ElementsAre("stop tiny-1 epoch 1 rank 0", "stop tiny-1 epoch 1 rank 1"));
  EXPECT_TRUE(core_.AnyProcessAlive());
  core_.OnDesired(Desire({Job("tiny-1", 2, 2)}));
  for (int rank = 0; rank < 2; ++rank) {
    core_.OnExited(Id("tiny-1", 1, rank), true, "exited with 0");
  }
  EXPECT_THAT(Act(), ElementsAre("forget tiny-1 epoch 1 rank 0", "forget tiny-1 epoch 1 rank 1"));
  EXPECT_FALSE(core_.AnyProcessAlive());
  EXPECT_EQ(Status(Id("tiny-1", 2, 1)).state(), v1::RANK_STATE_STOPPED);
  EXPECT_THAT(Status(Id("tiny-1", 2, 1)).message(), HasSubstr("the daemon ends"));
}

TEST_F(AgentCoreTest, MoreJobsThanRemembered_ForgetsTheOldestOnly) {
  core_.OnDesired(Desire({Job("first-0", 9)}));
  Act();
  core_.OnDesired(Desire({}));
  Act();
  core_.OnExited(Id("first-0", 9, 0), true, "exited with 0");
  Act();
  for (int i = 1; i <= AgentCore::kMaxRememberedJobs; ++i) {
    v1::DesiredJob job = Job(absl::StrCat("job-", i), 9);
    job.clear_ranks();
    core_.OnDesired(Desire({job}));
  }
  core_.OnDesired(Desire({Job("first-0", 8), Job(absl::StrCat("job-", 700), 8)}));
  EXPECT_THAT(Act(), ElementsAre("start first-0 epoch 8 rank 0"));
  EXPECT_THAT(Status(Id("job-700", 8, 0)).message(), HasSubstr("older than epoch 9"));
}

// --- Random histories ---

// Ranks that live, talk and die at random, and an executor that does what the core says.
class RandomHistory {
 public:
  explicit RandomHistory(uint32_t seed) : random_(seed) {}

  void Run(int moves) {
    for (int i = 0; i < moves && !::testing::Test::HasFatalFailure(); ++i) {
      Move();
      Reconcile();
    }
    Settle();
  }

 private:
  struct Process {
    bool stop_asked = false;
    absl::Duration stop_time;
    bool peers = false;
    int device = 0;
  };

  int Pick(int n) { return std::uniform_int_distribution<int>(0, n - 1)(random_); }

  void Move() {
    now_ += absl::Milliseconds(Pick(2000));
    switch (Pick(4)) {
      case 0:
        return NewDesire();
      case 1:
        return core_.OnDesired(desired_);  // repeated
      default:
        if (!processes_.empty()) {
          auto it = processes_.begin();
          std::advance(it, Pick(static_cast<int>(processes_.size())));
          Live(it->first, it->second);
        }
    }
  }

  void NewDesire() {
    desired_.clear_jobs();
    desired_.set_version(desired_.version() + 1);
    for (const char* name : {"a-1", "b-2", "c-3"}) {
      if (Pick(3) == 0) continue;
      uint64_t& newest = newest_epoch_[name];
      const int lag = Pick(6) == 0 ? 1 : 0;  // a coordinator that fell behind
      if (newest == 0 || Pick(3) == 0) ++newest;
      const uint64_t epoch = newest > 1 ? newest - lag : newest;
      v1::DesiredJob job = Job(name, epoch, kDevices);
      // Where its ranks run is a function of the epoch, as a plan's content must be.
      if (epoch % 2 == 1) {
        for (auto& rank : *job.mutable_plan()->mutable_ranks()) {
          rank.set_device(kDevices - 1 - rank.device());
        }
      }
      if (Pick(2) == 0) job.add_peers()->set_endpoint("x");
      if (Pick(4) == 0) job.mutable_ranks()->RemoveLast();
      *desired_.add_jobs() = std::move(job);
    }
    core_.OnDesired(desired_);
    for (const v1::DesiredJob& job : desired_.jobs()) {
      uint64_t& seen = seen_epoch_[job.plan().job()];
      seen = std::max(seen, job.plan().epoch());
    }
  }

  void Live(RankId id, const Process& process) {
    switch (Pick(6)) {
      case 0:
        return core_.OnEvent(id, Listening("h:1"), now_);
      case 1:
        return core_.OnEvent(id, Training(), now_);
      case 2:
        return core_.OnEvent(id, Finished("w"), now_);
      case 3:
        return core_.OnEvent(id, Failed("f"), now_);
      case 4:
        return core_.OnChannelClosed(id, absl::OkStatus(), now_);
      default:
        static_cast<void>(process);
        return Exit(id, Pick(2) == 0);
    }
  }

  void Exit(RankId id, bool zero) {
    processes_.erase(id);
    core_.OnExited(id, zero, "ended");
  }

  void Reconcile() {
    for (const AgentAction& action : core_.Reconcile(now_)) Do(action);
    // A failed start and a death are new information; apart from them nothing may be left to do.
    if (!news_) {
      ASSERT_THAT(core_.Reconcile(now_), IsEmpty());
    }
    news_ = false;
    for (const auto& [id, process] : processes_) {
      const bool overdue = process.stop_asked && now_ >= process.stop_time + absl::Seconds(5);
      ASSERT_FALSE(overdue) << ToString(id) << " should have been killed";
    }
  }

  void Do(const AgentAction& action) {
    const RankId& id = action.id;
    switch (action.kind) {
      case Kind::kStart: {
        ASSERT_TRUE(started_.insert(id).second) << ToString(id) << " was started twice";
        ASSERT_EQ(id.epoch, seen_epoch_[id.job.value()]) << "an old epoch was started";
        const int device = action.command.start().plan().ranks(id.rank).device();
        for (const auto& [other, process] : processes_) {
          ASSERT_NE(process.device, device) << ToString(id) << " beside " << ToString(other);
        }
        if (Pick(8) == 0) {
          news_ = true;
          return core_.OnStartFailed(id, absl::InternalError("no"));
        }
        processes_[id].device = device;
        return core_.OnStarted(id, 1);
      }
      case Kind::kSendPeers:
        ASSERT_TRUE(processes_.contains(id));
        ASSERT_FALSE(std::exchange(processes_[id].peers, true)) << "peers are sent once";
        return;
      case Kind::kStop:
        ASSERT_TRUE(processes_.contains(id));
        ASSERT_FALSE(std::exchange(processes_[id].stop_asked, true)) << "stop is sent once";
        processes_[id].stop_time = now_;
        return;
      case Kind::kKill:
        ASSERT_TRUE(processes_.contains(id));
        news_ = true;
        return Exit(id, false);
      case Kind::kForget:
        ASSERT_FALSE(processes_.contains(id)) << "forgotten while it runs";
        return;
    }
  }

  // With time going on and nothing new desired, only wanted ranks live, and each wanted rank is
  // either alive or reported as ended.
  void Settle() {
    NewDesire();
    for (int i = 0; i < 40; ++i) {
      Reconcile();
      now_ += absl::Seconds(5);
    }
    std::set<RankId> wanted;
    for (const v1::DesiredJob& job : desired_.jobs()) {
      const uint64_t newest = seen_epoch_[job.plan().job()];
      for (const int rank : job.ranks()) {
        wanted.insert(Id(job.plan().job(), job.plan().epoch(), rank));
        if (job.plan().epoch() != newest) wanted.insert(Id(job.plan().job(), newest, rank));
      }
      if (job.plan().epoch() != newest) {
        for (int rank = 0; rank < kDevices; ++rank)
          wanted.insert(Id(job.plan().job(), newest, rank));
      }
    }
    std::set<RankId> reported;
    const v1::NodeReport report = core_.Report();
    for (const v1::RankStatus& status : report.ranks()) {
      const RankId id = Id(status.job(), status.epoch(), status.rank());
      reported.insert(id);
      EXPECT_TRUE(wanted.contains(id)) << ToString(id) << " is neither wanted nor forgotten";
      const bool ended = status.state() == v1::RANK_STATE_FAILED ||
                         status.state() == v1::RANK_STATE_FINISHED ||
                         status.state() == v1::RANK_STATE_STOPPED;
      EXPECT_NE(ended, processes_.contains(id)) << status.ShortDebugString();
    }
    for (const v1::DesiredJob& job : desired_.jobs()) {
      for (const int rank : job.ranks()) {
        EXPECT_TRUE(reported.contains(Id(job.plan().job(), job.plan().epoch(), rank)));
      }
    }
    for (const auto& [id, process] : processes_) EXPECT_TRUE(reported.contains(id));
  }

  std::mt19937 random_;
  AgentCore core_{Options()};
  v1::DesiredState desired_;
  absl::Duration now_;
  bool news_ = false;
  std::map<std::string, uint64_t> newest_epoch_;  // the job's truth
  std::map<std::string, uint64_t> seen_epoch_;    // what the daemon was ever told
  std::map<RankId, Process> processes_;
  std::set<RankId> started_;
};

TEST(AgentCoreHistoryTest, RandomDesiresAndDeaths_ConvergeAndStartNothingTwice) {
  for (uint32_t seed = 1; seed <= 400; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    RandomHistory(seed).Run(120);
    if (::testing::Test::HasFailure()) return;
  }
}

}  // namespace
}  // namespace fathom
