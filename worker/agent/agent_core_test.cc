#include "worker/agent/agent_core.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace fathom {
namespace {

using Kind = AgentAction::Kind;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

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
v1::RankEvent Loading() {
  v1::RankEvent event;
  event.mutable_loading();
  return event;
}
v1::RankEvent Step(int64_t step) {
  v1::RankEvent event;
  event.mutable_step()->set_step(step);
  return event;
}
v1::RankEvent Held(int64_t step, const std::string& why, const std::string& blamed) {
  v1::RankEvent event;
  event.mutable_held()->set_step(step);
  event.mutable_held()->set_message(why);
  event.mutable_held()->set_blamed_node(blamed);
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

// What an action is about: "start tiny-1 epoch 1 rank 0" and such.
std::string Words(const AgentAction& action, const std::string& whose) {
  const v1::RankCommand& command = action.command;
  const std::string rank = action.rank ? ToString(*action.rank) : whose;
  switch (action.kind) {
    case Kind::kSpawn:
      if (!action.rank) return absl::StrCat("idle ", action.device);
      return absl::StrCat(command.start().at_boundary() ? "prepare " : "start ", rank);
    case Kind::kKill:
      return absl::StrCat("kill ", rank);
    case Kind::kInspect:
      return absl::StrCat("inspect ", rank);
    case Kind::kSend:
      break;
  }
  switch (command.command_case()) {
    case v1::RankCommand::kStart:
      if (command.start().rank() < 0) {
        return absl::StrCat("leave for ", command.start().plan().epoch(), ": ", whose);
      }
      return absl::StrCat(command.start().at_boundary() ? "at boundary " : "at once ", rank);
    case v1::RankCommand::kPeers:
      return absl::StrCat("peers of ", command.peers().epoch(), " to ", rank);
    case v1::RankCommand::kStop:
      return absl::StrCat("stop ", rank);
    case v1::RankCommand::kHold:
      return absl::StrCat("hold ", rank);
    case v1::RankCommand::kPark:
      return absl::StrCat("park ", rank);
    case v1::RankCommand::kDiagnose:
      return absl::StrCat("ask ", rank);
    default:
      return "what?";
  }
}

AgentMoment At(absl::Duration steady) {
  return {steady, 1'000'000 + absl::ToInt64Milliseconds(steady)};
}

class AgentCoreTest : public ::testing::Test {
 protected:
  explicit AgentCoreTest(AgentOptions options = Options()) : core_(std::move(options)) {}

  // Reconciles; every start that comes out succeeds.
  std::vector<std::string> Act(absl::Duration now = absl::ZeroDuration()) {
    std::vector<std::string> done;
    for (const AgentAction& action : core_.Reconcile(At(now))) {
      done.push_back(Words(action, whose_[action.process]));
      if (action.rank) {
        process_of_[*action.rank] = action.process;
        whose_[action.process] = ToString(*action.rank);
      }
      if (action.kind == Kind::kSpawn) core_.OnSpawned(action.process, ++last_pid_);
    }
    EXPECT_THAT(core_.Reconcile(At(now)), IsEmpty()) << "not idempotent";
    return done;
  }

  // The rank's process says something of the rank's epoch.
  void Say(const RankId& id, v1::RankEvent event, absl::Duration now = absl::ZeroDuration()) {
    event.set_epoch(id.epoch);
    core_.OnEvent(process_of_.at(id), event, At(now));
  }
  v1::RankState Exit(const RankId& id, bool zero, const std::string& how = "did exit") {
    return core_.OnExited(process_of_.at(id), zero, how);
  }

  // A job of `ranks` ranks in epoch 1, all of them in training.
  void Train(int ranks = 1) {
    core_.OnDesired(Desire({Job("tiny-1", 1, ranks)}));
    Act();
    for (int rank = 0; rank < ranks; ++rank) {
      Say(Id("tiny-1", 1, rank), Listening("h:1"));
      Say(Id("tiny-1", 1, rank), Training());
    }
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

  AgentCore core_;
  std::map<RankId, ProcessId> process_of_;
  std::map<ProcessId, std::string> whose_;
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
  const std::vector<AgentAction> actions = core_.Reconcile(At(absl::ZeroDuration()));
  ASSERT_EQ(actions.size(), 1u);
  EXPECT_EQ(actions[0].kind, Kind::kSpawn);
  EXPECT_EQ(*actions[0].rank, Id("tiny-1", 1, 0));
  const v1::RankStart& start = actions[0].command.start();
  EXPECT_EQ(start.plan().SerializeAsString(), job.plan().SerializeAsString());
  EXPECT_EQ(start.checkpoint_directory(), "/ckpt");
  EXPECT_EQ(start.bind_host(), "127.0.0.1");
  core_.OnSpawned(actions[0].process, 321);
  EXPECT_EQ(Status(*actions[0].rank).pid(), 321);
  EXPECT_EQ(Status(*actions[0].rank).state(), v1::RANK_STATE_STARTING);
  EXPECT_EQ(core_.Report().desired_version(), 9u);
}

TEST_F(AgentCoreTest, WholeLife_IsReportedStateByState) {
  const RankId id = Id("tiny-1", 1, 0);
  v1::DesiredJob job = Job("tiny-1", 1);
  core_.OnDesired(Desire({job}));
  EXPECT_THAT(Act(), ElementsAre("start tiny-1 epoch 1 rank 0"));
  Say(id, Listening("127.0.0.1:5"));
  EXPECT_EQ(Status(id).state(), v1::RANK_STATE_LISTENING);
  EXPECT_EQ(Status(id).endpoint(), "127.0.0.1:5");
  EXPECT_THAT(Act(), IsEmpty());

  job.add_peers()->set_endpoint("127.0.0.1:5");
  core_.OnDesired(Desire({job}, 2));
  EXPECT_THAT(Act(), ElementsAre("peers of 1 to tiny-1 epoch 1 rank 0"));
  Say(id, Training());
  EXPECT_EQ(Status(id).state(), v1::RANK_STATE_TRAINING);
  v1::RankEvent step;
  step.mutable_step()->set_step(3);
  const uint64_t before = core_.revision();
  Say(id, step);
  EXPECT_EQ(Status(id).last_step().step(), 3);
  EXPECT_EQ(core_.revision(), before) << "steps wait for the next report";

  Say(id, Finished("abc"));
  EXPECT_EQ(Status(id).state(), v1::RANK_STATE_TRAINING) << "finished is what has also exited";
  Exit(id, true, "exited with 0");
  EXPECT_EQ(Status(id).state(), v1::RANK_STATE_FINISHED);
  EXPECT_EQ(Status(id).weights_sha256(), "abc");
  EXPECT_GT(core_.revision(), before);

  EXPECT_THAT(Act(), IsEmpty());
  core_.OnDesired(Desire({}, 3));
  EXPECT_THAT(Act(), IsEmpty());
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
  Exit(id, false, "was killed by signal 9");
  EXPECT_EQ(Status(id).state(), v1::RANK_STATE_STOPPED);
  EXPECT_THAT(Status(id).message(), HasSubstr("asked to stop and was still there 5s later"));
  EXPECT_THAT(Act(absl::Seconds(15)), IsEmpty());
  EXPECT_EQ(core_.Report().ranks_size(), 0) << "forgotten";
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
  EXPECT_THAT(Act(), ElementsAre("stop tiny-1 epoch 5 rank 0"));
}

TEST_F(AgentCoreTest, TwoEpochsListedAndNoProcess_OnlyTheNewerIsStarted) {
  core_.OnDesired(Desire({Job("tiny-1", 3), Job("tiny-1", 2)}));
  EXPECT_THAT(Act(), ElementsAre("prepare tiny-1 epoch 3 rank 0"));
  EXPECT_EQ(Status(Id("tiny-1", 2, 0)).state(), v1::RANK_STATE_FAILED);
}

TEST_F(AgentCoreTest, SameEpochWantedAgainAfterItWasStopped_IsFailedNotStartedTwice) {
  const RankId id = Id("tiny-1", 1, 0);
  core_.OnDesired(Desire({Job("tiny-1", 1)}));
  Act();
  core_.OnDesired(Desire({}));
  Act();
  Exit(id, true, "exited with 0");
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
  Act();
  EXPECT_EQ(core_.Report().ranks_size(), 0) << "forgotten";
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
  const std::vector<AgentAction> actions = core_.Reconcile(At(absl::ZeroDuration()));
  ASSERT_EQ(actions.size(), 1u);
  core_.OnSpawnFailed(actions[0].process, absl::NotFoundError("no fathom-rank"));
  EXPECT_THAT(Act(), IsEmpty());
  EXPECT_THAT(Status(*actions[0].rank).message(), HasSubstr("no fathom-rank"));
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
    Say(id, event);
  }
  core_.OnChannelClosed(process_of_.at(id), absl::OkStatus(), At(absl::ZeroDuration()));
  Exit(id, GetParam().exit_code_zero, "did exit");
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
  Say(id, Failed("out of luck"), absl::Seconds(1));
  EXPECT_EQ(Status(id).state(), v1::RANK_STATE_FAILED) << "known before the process is gone";
  EXPECT_THAT(Act(absl::Seconds(31)), ElementsAre("kill tiny-1 epoch 1 rank 0"));
  Exit(id, false, "was killed");
  EXPECT_EQ(Status(id).message(), "out of luck");
}

TEST_F(AgentCoreTest, BrokenChannel_FailsAndKillsAtOnce) {
  const RankId id = Id("tiny-1", 1, 0);
  core_.OnDesired(Desire({Job("tiny-1", 1)}));
  Act();
  core_.OnChannelClosed(process_of_.at(id), absl::DataLossError("gibberish"), At(absl::Seconds(1)));
  EXPECT_THAT(Act(absl::Seconds(1)), ElementsAre("kill tiny-1 epoch 1 rank 0"));
  EXPECT_THAT(Status(id).message(), HasSubstr("gibberish"));
}

TEST_F(AgentCoreTest, FailureTextOfAnyLength_IsCut) {
  const RankId id = Id("tiny-1", 1, 0);
  core_.OnDesired(Desire({Job("tiny-1", 1)}));
  Act();
  Say(id, Failed(std::string(1 << 20, 'x')));
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
    Exit(Id("tiny-1", 1, rank), true, "exited with 0");
  }
  EXPECT_THAT(Act(), IsEmpty());
  EXPECT_FALSE(core_.AnyProcessAlive());
  EXPECT_EQ(Status(Id("tiny-1", 2, 1)).state(), v1::RANK_STATE_STOPPED);
  EXPECT_THAT(Status(Id("tiny-1", 2, 1)).message(), HasSubstr("the daemon ends"));
}

TEST_F(AgentCoreTest, MoreJobsThanRemembered_ForgetsTheOldestOnly) {
  core_.OnDesired(Desire({Job("first-0", 9)}));
  Act();
  core_.OnDesired(Desire({}));
  Act();
  Exit(Id("first-0", 9, 0), true, "exited with 0");
  Act();
  for (int i = 1; i <= DesiredJobs::kMaxRememberedJobs; ++i) {
    v1::DesiredJob job = Job(absl::StrCat("job-", i), 9);
    job.clear_ranks();
    core_.OnDesired(Desire({job}));
  }
  core_.OnDesired(Desire({Job("first-0", 8), Job(absl::StrCat("job-", 700), 8)}));
  EXPECT_THAT(Act(), ElementsAre("start first-0 epoch 8 rank 0"));
  EXPECT_THAT(Status(Id("job-700", 8, 0)).message(), HasSubstr("older than epoch 9"));
}

// --- Epochs at a boundary ---

TEST_F(AgentCoreTest, TwoEpochsListed_TheProcessOfTheEarlierOneIsToldAndMovesOnceItLoads) {
  Train();
  const RankId old_rank = Id("tiny-1", 1, 0), new_rank = Id("tiny-1", 2, 0);
  v1::DesiredJob later = Job("tiny-1", 2);
  core_.OnDesired(Desire({Job("tiny-1", 1), later}));
  EXPECT_THAT(Act(absl::Seconds(1)), ElementsAre("at boundary tiny-1 epoch 2 rank 0"));
  EXPECT_EQ(core_.NextDeadline(), std::nullopt) << "it goes on as long as it likes";
  Say(new_rank, Listening("h:2"), absl::Seconds(2));
  EXPECT_EQ(Status(new_rank).state(), v1::RANK_STATE_LISTENING);
  EXPECT_EQ(Status(old_rank).state(), v1::RANK_STATE_TRAINING);
  later.add_peers()->set_endpoint("h:2");
  core_.OnDesired(Desire({Job("tiny-1", 1), later}));
  EXPECT_THAT(Act(), ElementsAre("peers of 2 to tiny-1 epoch 2 rank 0"));
  Say(old_rank, Step(7));
  EXPECT_EQ(Status(old_rank).last_step().step(), 7);

  Say(new_rank, Loading(), absl::Seconds(3));
  EXPECT_EQ(Status(old_rank).state(), v1::RANK_STATE_MOVED);
  EXPECT_EQ(Status(new_rank).state(), v1::RANK_STATE_LOADING);
  EXPECT_EQ(Status(new_rank).pid(), Status(old_rank).pid());
  Say(old_rank, Step(9));
  EXPECT_EQ(Status(old_rank).last_step().step(), 7) << "a word of an epoch that is over";
  Say(new_rank, Training(), absl::Seconds(4));
  EXPECT_THAT(Act(), IsEmpty());
  EXPECT_EQ(Status(old_rank).state(), v1::RANK_STATE_MOVED) << "kept while it is listed";
  core_.OnDesired(Desire({later}));
  EXPECT_THAT(Act(), IsEmpty());
  EXPECT_EQ(core_.Report().ranks_size(), 1);
  EXPECT_EQ(core_.moves_at_boundary(), 1);
}

TEST_F(AgentCoreTest, Timeline_IsStampedWithWallTimeAsThingsHappen) {
  Train();
  core_.OnDesired(Desire({Job("tiny-1", 2)}));
  const RankId id = Id("tiny-1", 2, 0);
  Act(absl::Seconds(1));
  Say(Id("tiny-1", 1, 0), Held(5, "", ""), absl::Seconds(2));
  Say(id, Listening("h:2"), absl::Seconds(3));
  Say(id, Loading(), absl::Seconds(4));
  v1::RankEvent training = Training();
  training.mutable_training()->mutable_restored()->set_source("memory");
  Say(id, training, absl::Seconds(5));
  Say(id, Step(6), absl::Seconds(6));
  Say(id, Step(7), absl::Seconds(7));
  const v1::RankTimeline timeline = Status(id).timeline();
  EXPECT_EQ(timeline.started_ms(), 1'001'000);
  EXPECT_EQ(timeline.fenced_ms(), 1'002'000);
  EXPECT_EQ(timeline.listening_ms(), 1'003'000);
  EXPECT_EQ(timeline.connected_ms(), 1'004'000);
  EXPECT_EQ(timeline.loaded_ms(), 1'005'000);
  EXPECT_EQ(timeline.first_step_ms(), 1'006'000);
  EXPECT_EQ(Status(id).restored().source(), "memory");
}

TEST_F(AgentCoreTest, RankWithoutAPlaceInTheLaterEpoch_LeavesWithTheOthers) {
  Train(2);
  v1::DesiredJob later = Job("tiny-1", 2, 1);
  core_.OnDesired(Desire({Job("tiny-1", 1, 2), later}));
  EXPECT_THAT(Act(), ElementsAre("at boundary tiny-1 epoch 2 rank 0",
                                 "leave for 2: tiny-1 epoch 1 rank 1"));
  later.add_peers()->set_endpoint("h:2");
  core_.OnDesired(Desire({Job("tiny-1", 1, 2), later}));
  EXPECT_THAT(Act(), ElementsAre("peers of 2 to tiny-1 epoch 1 rank 1"));
  Say(Id("tiny-1", 1, 1), Held(8, "left at the boundary", ""));
  EXPECT_EQ(Status(Id("tiny-1", 1, 1)).state(), v1::RANK_STATE_MOVED) << "no complaint";
  EXPECT_EQ(Exit(Id("tiny-1", 1, 1), true), v1::RANK_STATE_MOVED);
  EXPECT_THAT(Status(Id("tiny-1", 1, 1)).message(), HasSubstr("left for epoch 2"));
  EXPECT_THAT(Act(), IsEmpty());
}

TEST_F(AgentCoreTest, RankThatIsToLeaveAndLosesAPeer_IsHeld) {
  Train(2);
  core_.OnDesired(Desire({Job("tiny-1", 1, 2), Job("tiny-1", 2, 1)}));
  Act();
  Say(Id("tiny-1", 1, 1), Held(8, "rank 0 closed its connection", "n3"));
  EXPECT_EQ(Status(Id("tiny-1", 1, 1)).state(), v1::RANK_STATE_HELD);
  EXPECT_EQ(Status(Id("tiny-1", 1, 1)).blamed_node(), "n3");
}

TEST_F(AgentCoreTest, DevicesOfTheLaterEpochOnly_GetProcessesOfTheirOwn) {
  Train();
  core_.OnDesired(Desire({Job("tiny-1", 1), Job("tiny-1", 2, 2)}));
  EXPECT_THAT(Act(),
              ElementsAre("at boundary tiny-1 epoch 2 rank 0", "prepare tiny-1 epoch 2 rank 1"));
}

TEST_F(AgentCoreTest, EarlierEpochFailsWhileTheLaterIsPrepared_TheLaterIsTakenAtOnce) {
  Train();
  core_.OnDesired(Desire({Job("tiny-1", 1), Job("tiny-1", 2)}));
  Act();
  Say(Id("tiny-1", 2, 0), Listening("h:2"));
  core_.OnDesired(Desire({Job("tiny-1", 2)}));
  EXPECT_THAT(Act(), ElementsAre("at once tiny-1 epoch 2 rank 0"));
  EXPECT_EQ(core_.NextDeadline(), std::nullopt)
      << "it listens; how long peers take isn't its doing";
  EXPECT_EQ(core_.Report().ranks_size(), 1);
  Say(Id("tiny-1", 1, 0), Held(4, "", ""), absl::Seconds(9));
  EXPECT_EQ(Status(Id("tiny-1", 2, 0)).timeline().fenced_ms(), 1'009'000);
  EXPECT_EQ(Status(Id("tiny-1", 2, 0)).state(), v1::RANK_STATE_LISTENING);
}

TEST_F(AgentCoreTest, ProcessThatDiesInTheEarlierEpoch_LosesWhatListenedAndRestartsWhatDidNot) {
  Train(2);
  core_.OnDesired(Desire({Job("tiny-1", 1, 2), Job("tiny-1", 2, 2)}));
  Act();
  Say(Id("tiny-1", 2, 0), Listening("h:2"));
  Exit(Id("tiny-1", 1, 0), false);
  Exit(Id("tiny-1", 1, 1), false);
  EXPECT_EQ(Status(Id("tiny-1", 1, 0)).state(), v1::RANK_STATE_FAILED);
  EXPECT_EQ(Status(Id("tiny-1", 2, 0)).state(), v1::RANK_STATE_FAILED);
  EXPECT_THAT(Status(Id("tiny-1", 2, 0)).message(), HasSubstr("ended in epoch 1: did exit"));
  EXPECT_THAT(Act(), ElementsAre("prepare tiny-1 epoch 2 rank 1"));
}

TEST_F(AgentCoreTest, LaterEpochGivenUp_TheEarlierGoesOnAndOnlyANewerOneFollows) {
  Train();
  core_.OnDesired(Desire({Job("tiny-1", 1), Job("tiny-1", 2, 2)}));
  Act();
  core_.OnDesired(Desire({Job("tiny-1", 1)}));
  EXPECT_THAT(Act(), ElementsAre("stop tiny-1 epoch 2 rank 1"));
  EXPECT_EQ(Status(Id("tiny-1", 1, 0)).state(), v1::RANK_STATE_TRAINING);
  core_.OnDesired(Desire({Job("tiny-1", 1), Job("tiny-1", 3)}));
  EXPECT_THAT(Act(), ElementsAre("at boundary tiny-1 epoch 3 rank 0"));
}

// --- Epochs at once ---

TEST_F(AgentCoreTest, LaterEpochAlone_IsTakenByTheSameProcessOnceItListens) {
  Train();
  core_.OnDesired(Desire({Job("tiny-1", 2)}));
  EXPECT_THAT(Act(absl::Seconds(1)), ElementsAre("at once tiny-1 epoch 2 rank 0"));
  EXPECT_EQ(core_.NextDeadline(), absl::Seconds(6));
  Say(Id("tiny-1", 2, 0), Listening("h:2"), absl::Seconds(2));
  EXPECT_THAT(Act(absl::Seconds(20)), IsEmpty()) << "neither stopped nor killed";
  EXPECT_EQ(core_.Report().ranks_size(), 1);
  EXPECT_EQ(Status(Id("tiny-1", 2, 0)).pid(), 101);
  EXPECT_EQ(core_.moves_at_once(), 1);
}

TEST_F(AgentCoreTest, ProcessThatDoesNotObey_IsKilledAndReplacedByAFreshOne) {
  Train();
  core_.OnDesired(Desire({Job("tiny-1", 2)}));
  Act();
  EXPECT_THAT(Act(absl::Seconds(5)), ElementsAre("kill tiny-1 epoch 1 rank 0"));
  core_.OnExited(1, false, "was killed by signal 9");
  EXPECT_THAT(Act(absl::Seconds(5)), ElementsAre("start tiny-1 epoch 2 rank 0"));
  EXPECT_EQ(Status(Id("tiny-1", 2, 0)).pid(), 102);
  Exit(Id("tiny-1", 2, 0), false);
  EXPECT_EQ(Status(Id("tiny-1", 2, 0)).state(), v1::RANK_STATE_FAILED) << "one fresh one, not more";
}

TEST_F(AgentCoreTest, StillNewerEpochBeforeTheFirstWasTaken_TakesItsPlace) {
  Train();
  core_.OnDesired(Desire({Job("tiny-1", 2)}));
  Act();
  core_.OnDesired(Desire({Job("tiny-1", 3)}));
  EXPECT_THAT(Act(absl::Seconds(4)), ElementsAre("at once tiny-1 epoch 3 rank 0"));
  Say(Id("tiny-1", 2, 0), Listening("h:2"));
  EXPECT_EQ(Status(Id("tiny-1", 3, 0)).state(), v1::RANK_STATE_STARTING);
  Say(Id("tiny-1", 3, 0), Listening("h:3"));
  EXPECT_EQ(Status(Id("tiny-1", 3, 0)).state(), v1::RANK_STATE_LISTENING);
  Act();
  EXPECT_EQ(core_.Report().ranks_size(), 1);
}

TEST_F(AgentCoreTest, RankThatFailedByItself_IsReplacedOnceItsProcessIsGone) {
  Train();
  Say(Id("tiny-1", 1, 0), Failed("memory is corrupt"));
  core_.OnDesired(Desire({Job("tiny-1", 2)}));
  EXPECT_THAT(Act(), ElementsAre("stop tiny-1 epoch 1 rank 0"));
  EXPECT_THAT(Status(Id("tiny-1", 2, 0)).message(),
              HasSubstr("waits for device 0 until tiny-1 epoch 1 rank 0 has ended"));
  Exit(Id("tiny-1", 1, 0), false);
  EXPECT_THAT(Act(), ElementsAre("start tiny-1 epoch 2 rank 0"));
  EXPECT_EQ(Status(Id("tiny-1", 2, 0)).message(), "");
}

// --- Hold, park, diagnose ---

TEST_F(AgentCoreTest, Hold_IsSentOnceAndTheHeldProcessWaitsForTheNextEpoch) {
  Train();
  v1::DesiredJob held = Job("tiny-1", 1);
  held.set_hold(true);
  core_.OnDesired(Desire({held}));
  EXPECT_THAT(Act(), ElementsAre("hold tiny-1 epoch 1 rank 0"));
  const uint64_t before = core_.revision();
  Say(Id("tiny-1", 1, 0), Held(41, "n7 is gone", "n7"), absl::Seconds(1));
  EXPECT_GT(core_.revision(), before);
  const v1::RankStatus status = Status(Id("tiny-1", 1, 0));
  EXPECT_EQ(status.state(), v1::RANK_STATE_HELD);
  EXPECT_EQ(status.held_step(), 41);
  EXPECT_EQ(status.blamed_node(), "n7");
  EXPECT_EQ(status.message(), "n7 is gone");
  EXPECT_THAT(Act(absl::Hours(1)), IsEmpty()) << "however long that takes";
  core_.OnDesired(Desire({Job("tiny-1", 2)}));
  EXPECT_THAT(Act(absl::Hours(1)), ElementsAre("at once tiny-1 epoch 2 rank 0"));
  Say(Id("tiny-1", 2, 0), Listening("h:2"), absl::Hours(1));
  EXPECT_EQ(Status(Id("tiny-1", 2, 0)).timeline().fenced_ms(), 1'001'000);
}

TEST_F(AgentCoreTest, RankHeldByItself_WaitsWhileItsEpochIsListedAndStopsWithIt) {
  Train();
  Say(Id("tiny-1", 1, 0), Held(3, "rank 5 closed its connection", "n2"));
  EXPECT_THAT(Act(absl::Hours(1)), IsEmpty());
  core_.OnDesired(Desire({}));
  EXPECT_THAT(Act(absl::Hours(1)), ElementsAre("stop tiny-1 epoch 1 rank 0"));
}

TEST_F(AgentCoreTest, HeldEpochWithoutAProcess_StartsNone) {
  v1::DesiredJob held = Job("tiny-1", 1);
  held.set_hold(true);
  core_.OnDesired(Desire({held}));
  EXPECT_THAT(Act(), IsEmpty());
  EXPECT_EQ(Status(Id("tiny-1", 1, 0)).state(), v1::RANK_STATE_FAILED);
  EXPECT_THAT(Status(Id("tiny-1", 1, 0)).message(), HasSubstr("on hold"));
}

TEST_F(AgentCoreTest, Park_IsSentOnceAndEndsAsParked) {
  Train();
  v1::DesiredJob job = Job("tiny-1", 1);
  job.set_park(true);
  core_.OnDesired(Desire({job}));
  EXPECT_THAT(Act(), ElementsAre("park tiny-1 epoch 1 rank 0"));
  v1::RankEvent parked;
  parked.mutable_parked()->set_step(12);
  Say(Id("tiny-1", 1, 0), parked);
  EXPECT_EQ(Status(Id("tiny-1", 1, 0)).state(), v1::RANK_STATE_TRAINING) << "not before it is gone";
  EXPECT_EQ(Exit(Id("tiny-1", 1, 0), true), v1::RANK_STATE_PARKED);
  EXPECT_EQ(Status(Id("tiny-1", 1, 0)).held_step(), 12);
  EXPECT_THAT(Act(), IsEmpty()) << "an ended state";
}

TEST_F(AgentCoreTest, Diagnose_AsksOncePerTokenAndTheKernelWhenNothingIsSaid) {
  Train();
  const RankId id = Id("tiny-1", 1, 0);
  v1::DesiredJob job = Job("tiny-1", 1);
  job.set_diagnose(5);
  core_.OnDesired(Desire({job}));
  EXPECT_THAT(Act(absl::Seconds(10)), ElementsAre("ask tiny-1 epoch 1 rank 0"));
  v1::RankEvent answer;
  answer.mutable_diagnosis()->set_token(5);
  answer.mutable_diagnosis()->set_step(8);
  answer.mutable_diagnosis()->set_instruction("F1.3|B0.2");
  Say(id, answer, absl::Seconds(11));
  EXPECT_EQ(Status(id).diagnosis().instruction(), "F1.3|B0.2");
  EXPECT_THAT(Act(absl::Seconds(12)), IsEmpty());

  Say(id, Step(7), absl::Seconds(13));
  job.set_diagnose(6);
  core_.OnDesired(Desire({job}));
  EXPECT_THAT(Act(absl::Seconds(20)), ElementsAre("ask tiny-1 epoch 1 rank 0"));
  EXPECT_EQ(core_.NextDeadline(), absl::Seconds(22));
  EXPECT_THAT(Act(absl::Seconds(22)), ElementsAre("inspect tiny-1 epoch 1 rank 0"));
  core_.OnInspected(process_of_.at(id), "stopped by a signal", At(absl::Seconds(22)));
  const v1::RankDiagnosis diagnosis = Status(id).diagnosis();
  EXPECT_EQ(diagnosis.token(), 6u);
  EXPECT_EQ(diagnosis.process(), "stopped by a signal");
  EXPECT_EQ(diagnosis.step(), 8);
  EXPECT_EQ(diagnosis.instruction(), "F1.3|B0.2") << "where it was seen last, in this very step";
  EXPECT_DOUBLE_EQ(diagnosis.seconds(), 9);
  EXPECT_EQ(core_.NextDeadline(), std::nullopt);
}

// --- Spares ---

class SpareTest : public AgentCoreTest {
 protected:
  SpareTest() : AgentCoreTest(SpareOptions()) {}

  static AgentOptions SpareOptions() {
    AgentOptions options = Options();
    options.spare = true;
    return options;
  }
};

TEST_F(SpareTest, IdleProcesses_AreTakenByTheNextRanks) {
  EXPECT_THAT(Act(), ElementsAre("idle 0", "idle 1"));
  EXPECT_EQ(core_.Report().ranks_size(), 0);
  EXPECT_EQ(core_.IdleProcesses(), 2);
  core_.OnDesired(Desire({Job("tiny-1", 4)}));
  EXPECT_THAT(Act(), ElementsAre("at once tiny-1 epoch 4 rank 0"));
  EXPECT_EQ(Status(Id("tiny-1", 4, 0)).pid(), 101);
  EXPECT_EQ(core_.IdleProcesses(), 1) << "none beside a rank";
  Say(Id("tiny-1", 4, 0), Listening("h:1"));
  core_.OnDesired(Desire({}));
  EXPECT_THAT(Act(), ElementsAre("stop tiny-1 epoch 4 rank 0"));
  Exit(Id("tiny-1", 4, 0), true);
  EXPECT_THAT(Act(), ElementsAre("idle 0")) << "the device is free again";
}

TEST_F(SpareTest, IdleProcessThatDiesAsItIsTaken_IsReplacedOnce) {
  Act();
  core_.OnDesired(Desire({Job("tiny-1", 4)}));
  Act();
  Exit(Id("tiny-1", 4, 0), false);
  EXPECT_THAT(Act(), ElementsAre("start tiny-1 epoch 4 rank 0"));
}

TEST_F(SpareTest, IdleProcessThatEndsByItself_IsNotTriedAgainAndAgain) {
  Act();
  core_.OnExited(1, false, "did exit");
  EXPECT_THAT(Act(), IsEmpty());
  core_.OnDesired(Desire({Job("tiny-1", 4)}));
  EXPECT_THAT(Act(), ElementsAre("start tiny-1 epoch 4 rank 0"));
}

TEST_F(SpareTest, Shutdown_StopsIdleProcessesToo) {
  Act();
  core_.Shutdown("the daemon ends");
  EXPECT_EQ(Act().size(), 2u);
  EXPECT_TRUE(core_.AnyProcessAlive());
  core_.OnExited(1, true, "exited");
  core_.OnExited(2, true, "exited");
  EXPECT_THAT(Act(), IsEmpty());
  EXPECT_FALSE(core_.AnyProcessAlive());
}

}  // namespace
}  // namespace fathom
