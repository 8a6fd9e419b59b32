#include "worker/agent/agent_core.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "worker/agent/agent_core_fixture.h"

namespace fathom::agent_testing {
namespace {

using Kind = AgentAction::Kind;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

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

}  // namespace
}  // namespace fathom::agent_testing
