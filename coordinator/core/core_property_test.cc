// Random histories: jobs come, are cancelled and end; ranks fail, nodes vanish and return, the log
// refuses, the coordinator dies. After every step of each history:
//
//   - no device is held by two jobs, or twice by one, and none of a node that does not offer it
//   - a job's epoch never falls, and its plan is of its epoch or an older one
//   - a job that has ended stays as it ended
//   - the queue is first come, first served: who starts was submitted before all who still wait
//   - no node is told to run a rank of an ended job, or of an old epoch
//   - the log, replayed, gives the state that acted
//
// and once the faults stop, every job ends.
#include <gtest/gtest.h>

#include <random>
#include <set>

#include "absl/strings/str_cat.h"
#include "coordinator/core/core_test_cluster.h"
#include "coordinator/core/job_state.h"

namespace fathom {
namespace {

class History {
 public:
  explicit History(uint64_t seed) : seed_(seed), random_(seed) {
    const int nodes = 2 + Pick(4);
    for (int i = 0; i < nodes; ++i) {
      cluster_.AddNode(absl::StrCat("n", i), 1 + Pick(4), /*spare=*/i > 1 && Chance(4));
    }
  }

  void Run(int steps) {
    for (int i = 0; i < steps && !::testing::Test::HasFatalFailure(); ++i) {
      Step();
      Check();
    }
    cluster_.log_refuses = false;
    for (auto& [name, node] : cluster_.nodes) node.up = true;
    cluster_.AddNode("wide", 8);  // so that every job fits
    for (int i = 0; i < 2000 && AnyUnfinished(); ++i) {
      ++step_;
      ObeyAndReport(/*lossy=*/false);
      FinishAll();
      Pass(200);
      Check();
    }
    EXPECT_FALSE(AnyUnfinished()) << Where() << cluster_.core->state().Fingerprint();
    EXPECT_EQ(cluster_.Replayed(), cluster_.core->state().Fingerprint()) << Where();
    EXPECT_GT(ended_.size(), 0u) << Where();
  }

  int restarts() const { return restarts_; }
  const std::map<JobId, v1::JobState>& ended() const { return ended_; }

 private:
  int Pick(int count) { return static_cast<int>(random_() % static_cast<uint64_t>(count)); }
  bool Chance(int one_in) { return Pick(one_in) == 0; }
  std::string Where() const { return absl::StrCat("seed ", seed_, " step ", step_, "\n"); }

  void Pass(int64_t ms) { cluster_.Advance(ms); }

  void ObeyAndReport(bool lossy) {
    for (auto& [name, node] : cluster_.nodes) {
      if (!node.up || (lossy && Chance(4))) continue;
      node.desired = cluster_.core->DesiredFor(NodeName(name));
      if (!lossy || !Chance(4)) node.Obey();
      cluster_.Report(node);
    }
  }

  void FinishAll() {
    for (auto& [name, node] : cluster_.nodes) {
      for (auto& [key, rank] : node.ranks) {
        if (rank.state() == v1::RANK_STATE_TRAINING) rank.set_state(v1::RANK_STATE_FINISHED);
      }
    }
  }

  TestNode& AnyNode() {
    auto it = cluster_.nodes.begin();
    std::advance(it, Pick(static_cast<int>(cluster_.nodes.size())));
    return it->second;
  }

  void Step() {
    ++step_;
    TestNode& node = AnyNode();
    switch (Pick(12)) {
      case 0:
        if (cluster_.core->state().UnfinishedCount() < 6) Submit();
        break;
      case 1:
        if (Chance(3)) Cancel();
        break;
      case 2:
        Disturb(node);
        break;
      case 3:
        node.up = !Chance(3);
        break;
      case 4:
        if (Chance(3)) {
          ++node.incarnation;
          node.ranks.clear();
        }
        break;
      case 5:
        cluster_.log_refuses = Chance(3);
        break;
      case 6:
        if (Chance(4) && !cluster_.log_refuses) {
          cluster_.RestartCoordinator();
          ++restarts_;
        }
        break;
      case 7:
        Pass(Chance(3) ? 2400 : 300);
        break;
      default:
        ObeyAndReport(/*lossy=*/true);
    }
  }

  void Submit() {
    const auto response = cluster_.core->Submit(TestCluster::JobOf(1 + Pick(5)), {}, cluster_.now);
    ASSERT_TRUE(response.ok()) << Where() << response.status();
    const size_t before = cluster_.core->state().jobs().size();
    if (!cluster_.Commit()) {
      EXPECT_EQ(cluster_.core->state().jobs().size(), before - 1) << Where();
    }
  }

  void Cancel() {
    const auto& jobs = cluster_.core->state().jobs();
    if (jobs.empty()) return;
    auto it = jobs.begin();
    std::advance(it, Pick(static_cast<int>(jobs.size())));
    v1::CancelJobRequest request;
    request.set_name(it->second->id.value());
    const bool final = IsFinal(it->second->state);
    EXPECT_EQ(cluster_.core->Cancel(request, cluster_.now).ok(), !final) << Where();
    cluster_.Commit();
  }

  // Something happens to the ranks of a node.
  void Disturb(TestNode& node) {
    for (auto& [key, rank] : node.ranks) {
      switch (Pick(6)) {
        case 0:
          rank.set_state(v1::RANK_STATE_FAILED);
          rank.set_message(Chance(8) ? "DATA_LOSS: bad input" : "UNAVAILABLE: a peer is gone");
          break;
        case 1:
        case 2:
          if (rank.state() != v1::RANK_STATE_TRAINING) break;
          rank.mutable_last_step()->set_step(rank.last_step().step() + 1 + Pick(5));
          if (rank.rank() == 0 && Chance(2)) {
            rank.mutable_checkpoint()->set_step(rank.last_step().step());
            rank.mutable_checkpoint()->set_manifest("/m");
          }
          break;
        case 3:
          if (rank.state() == v1::RANK_STATE_TRAINING) rank.set_state(v1::RANK_STATE_FINISHED);
          break;
        default:
          break;
      }
    }
    if (node.up) cluster_.Report(node);
  }

  bool AnyUnfinished() const { return cluster_.core->state().UnfinishedCount() > 0; }

  void Check() {
    CheckDevices();
    CheckJobs();
    CheckDesires();
    if (step_ % 10 == 0) {
      ASSERT_EQ(cluster_.Replayed(), cluster_.core->state().Fingerprint()) << Where();
    }
  }

  void CheckDevices() {
    std::set<std::pair<std::string, int32_t>> held;
    for (const auto& [number, job] : cluster_.core->state().jobs()) {
      if (!IsActive(job->state) || !job->HasCurrentPlan()) continue;
      for (const v1::RankAssignment& rank : job->plan->ranks()) {
        ASSERT_TRUE(held.emplace(rank.node(), rank.device()).second)
            << Where() << "device " << rank.device() << " of " << rank.node() << " held twice";
        ASSERT_LT(rank.device(), cluster_.nodes.at(rank.node()).devices) << Where();
      }
    }
  }

  void CheckJobs() {
    int64_t first_pending = INT64_MAX;
    for (const auto& [number, job] : cluster_.core->state().jobs()) {
      uint64_t& epoch = epochs_[job->id];
      ASSERT_GE(job->epoch, epoch) << Where() << job->id;
      epoch = job->epoch;
      ASSERT_TRUE(job->plan == nullptr || job->plan->epoch() <= job->epoch) << Where();
      ASSERT_EQ(job->state == v1::JOB_STATE_PENDING, job->epoch == 0 && !IsFinal(job->state))
          << Where() << job->id;
      ASSERT_FALSE(job->reason.empty()) << Where() << job->id;
      const auto [ended, is_new] = ended_.try_emplace(job->id, job->state);
      if (!IsFinal(job->state)) {
        ASSERT_TRUE(is_new) << Where() << job->id << " had ended";
        ended_.erase(ended);
      } else {
        ASSERT_EQ(ended->second, job->state) << Where() << job->id;
      }
      if (job->state == v1::JOB_STATE_PENDING) first_pending = std::min(first_pending, number);
      const bool started_now = job->epoch > 0 && started_.insert(job->id).second;
      ASSERT_FALSE(started_now && number > first_pending) << Where() << job->id << " jumped";
    }
  }

  void CheckDesires() {
    for (const auto& [name, node] : cluster_.nodes) {
      const v1::DesiredState desired = cluster_.core->DesiredFor(NodeName(name));
      for (const v1::DesiredJob& wanted : desired.jobs()) {
        const auto job = cluster_.core->state().Find(JobId(wanted.plan().job()));
        ASSERT_NE(job, nullptr) << Where();
        ASSERT_TRUE(IsActive(job->state)) << Where() << job->id;
        ASSERT_EQ(wanted.plan().epoch(), job->epoch) << Where() << job->id;
        for (const int32_t rank : wanted.ranks()) {
          ASSERT_EQ(wanted.plan().ranks(rank).node(), name) << Where();
        }
        ASSERT_TRUE(wanted.peers().empty() || wanted.peers_size() == wanted.plan().ranks_size());
      }
    }
  }

  const uint64_t seed_;
  std::mt19937_64 random_;
  TestCluster cluster_;
  int step_ = 0;
  int restarts_ = 0;
  std::map<JobId, uint64_t> epochs_;
  std::map<JobId, v1::JobState> ended_;
  std::set<JobId> started_;
};

TEST(CorePropertyTest, RandomHistories_KeepEveryInvariant) {
  std::map<v1::JobState, int> ends;
  int restarts = 0;
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    History history(seed);
    history.Run(250);
    if (HasFatalFailure()) return;
    for (const auto& [job, state] : history.ended()) ++ends[state];
    restarts += history.restarts();
  }
  // The histories are worth something only if they reach all of these.
  EXPECT_GT(ends[v1::JOB_STATE_COMPLETED], 50);
  EXPECT_GT(ends[v1::JOB_STATE_FAILED], 20);
  EXPECT_GT(ends[v1::JOB_STATE_CANCELLED], 20);
  EXPECT_GT(restarts, 20);
}

}  // namespace
}  // namespace fathom
