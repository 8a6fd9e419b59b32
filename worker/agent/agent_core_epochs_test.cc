// How processes go from one epoch to the next, wait, park, answer, and stand ready.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "worker/agent/agent_core.h"
#include "worker/agent/agent_core_fixture.h"

namespace fathom::agent_testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

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
}  // namespace fathom::agent_testing
