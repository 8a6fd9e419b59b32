#include "worker/engine/rank_session.h"

#include <sys/socket.h>

#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/base/real_clock.h"
#include "gtest/gtest.h"
#include "proto/fathom/v1/worker.pb.h"
#include "worker/engine/rank_threads.h"

namespace fathom::engine {
namespace {

// Sessions of a job's ranks on threads, and the daemon's ends of their channels.
class Sessions {
 public:
  explicit Sessions(int ranks) : statuses_(ranks) {
    for (int rank = 0; rank < ranks; ++rank) {
      int ends[2];
      EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
      daemon_.push_back(RankChannel::FromFd(ends[0]));
      threads_.emplace_back([this, rank, fd = ends[1]] {
        statuses_[rank] = RunRankSession(RankChannel::FromFd(fd), &clock_);
      });
    }
  }
  ~Sessions() { Join(); }

  void Join() {
    for (std::thread& thread : threads_) {
      if (thread.joinable()) thread.join();
    }
  }

  void Start(int rank, const v1::Plan& plan, const std::string& directory) {
    v1::RankCommand command;
    *command.mutable_start()->mutable_plan() = plan;
    command.mutable_start()->set_rank(rank);
    command.mutable_start()->set_checkpoint_directory(directory);
    command.mutable_start()->set_bind_host("127.0.0.1");
    EXPECT_TRUE(daemon_[rank].Send(command).ok());
  }

  v1::RankEvent Next(int rank) {
    v1::RankEvent event;
    const absl::StatusOr<bool> got = daemon_[rank].Receive(&event);
    EXPECT_TRUE(got.ok()) << got.status();
    return event;
  }

  RankChannel& daemon(int rank) { return daemon_[rank]; }
  const absl::Status& status(int rank) const { return statuses_[rank]; }

 private:
  RealClock clock_;
  std::vector<RankChannel> daemon_;
  std::vector<absl::Status> statuses_;
  std::vector<std::thread> threads_;
};

v1::Plan PlanOfTwoRanks() {
  v1::JobSpec spec = ToySpec(WriteTestTokens(20000));
  spec.mutable_parallelism()->set_pipeline(2);
  spec.mutable_training()->set_micro_batches(4);
  spec.mutable_training()->set_validation_batches(4);
  return PlanFor(spec, {});
}

TEST(RankSession, StartedAndConnected_TellsEveryStepAndFinishesWithTheWeightsHash) {
  const v1::Plan plan = PlanOfTwoRanks();
  Sessions sessions(2);
  v1::RankCommand peers;
  for (int rank : {0, 1}) {
    sessions.Start(rank, plan, testing::TempDir() + "/session");
    v1::RankEndpoint* peer = peers.mutable_peers()->add_peers();
    peer->set_rank(rank);
    peer->set_node(plan.ranks(rank).node());
    peer->set_endpoint(sessions.Next(rank).listening());
  }
  for (int rank : {0, 1}) ASSERT_TRUE(sessions.daemon(rank).Send(peers).ok());

  EXPECT_TRUE(sessions.Next(0).has_training());
  std::vector<int64_t> steps;
  v1::RankEvent event;
  while (!(event = sessions.Next(0)).has_finished()) {
    ASSERT_TRUE(event.has_step() || event.has_validation() || event.has_checkpoint())
        << event.ShortDebugString();
    if (event.has_step()) steps.push_back(event.step().step());
  }
  EXPECT_EQ(steps, (std::vector<int64_t>{1, 2, 3}));
  EXPECT_EQ(event.finished().weights_sha256().size(), 64u);
  sessions.Join();
  EXPECT_TRUE(sessions.status(0).ok()) << sessions.status(0);
  EXPECT_TRUE(sessions.status(1).ok()) << sessions.status(1);
}

TEST(RankSession, ToldToStopWhileItWaitsForPeers_EndsWithoutAFailure) {
  Sessions sessions(1);
  sessions.Start(0, PlanOfTwoRanks(), testing::TempDir());
  EXPECT_FALSE(sessions.Next(0).listening().empty());
  v1::RankCommand stop;
  stop.mutable_stop()->set_reason("cancelled");
  ASSERT_TRUE(sessions.daemon(0).Send(stop).ok());
  sessions.Join();
  EXPECT_TRUE(sessions.status(0).ok()) << sessions.status(0);
}

TEST(RankSession, DaemonGoneWhileItConnects_Ends) {
  const v1::Plan plan = PlanOfTwoRanks();
  Sessions sessions(1);
  sessions.Start(0, plan, testing::TempDir());
  v1::RankCommand peers;
  for (int rank : {0, 1}) {
    v1::RankEndpoint* peer = peers.mutable_peers()->add_peers();
    peer->set_rank(rank);
    peer->set_node(plan.ranks(rank).node());
    // Rank 1 is said to be where nobody answers.
    peer->set_endpoint(rank == 0 ? sessions.Next(0).listening() : "127.0.0.1:1");
  }
  ASSERT_TRUE(sessions.daemon(0).Send(peers).ok());
  sessions.daemon(0).Shutdown();
  sessions.Join();
  EXPECT_TRUE(sessions.status(0).ok()) << sessions.status(0);
}

TEST(RankSession, PlanWithoutItsData_IsReportedFailedWithTheCodeFirst) {
  v1::Plan plan = PlanOfTwoRanks();
  plan.mutable_spec()->mutable_data()->set_token_file("/nowhere/tokens.bin");
  Sessions sessions(1);
  sessions.Start(0, plan, testing::TempDir());
  const v1::RankEvent event = sessions.Next(0);
  EXPECT_EQ(event.failed().rfind("NOT_FOUND: ", 0), 0u) << event.failed();
  EXPECT_NE(event.failed().find("/nowhere/tokens.bin"), std::string::npos) << event.failed();
  sessions.Join();
  EXPECT_FALSE(sessions.status(0).ok());
}

TEST(RankSession, PlanThatContradictsItself_IsReportedFailed) {
  v1::Plan plan = PlanOfTwoRanks();
  plan.mutable_stages(1)->set_first_layer(5);
  Sessions sessions(1);
  sessions.Start(0, plan, testing::TempDir());
  EXPECT_FALSE(sessions.Next(0).failed().empty());
}

}  // namespace
}  // namespace fathom::engine
