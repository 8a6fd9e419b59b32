// Random histories: jobs come, are cancelled and end; ranks fail or lose their peers, nodes vanish,
// return, are drained and undrained, the log refuses, the coordinator dies. After every step of
// each history:
//
//   - no device is held by two jobs, or twice by one plan, and none of a node that does not offer
//   it
//   - a job's epoch never falls, no number is used twice, and its plan is of its epoch or an older
//     one
//   - a job that has ended stays as it ended
//   - no node is told to run a rank of an ended job, or of an epoch that is neither present nor
//   next
//   - no plan gives a draining or cordoned node a rank that its job did not have there
//   - a drain that does not end says why
//   - the log, replayed, gives the state that acted
//
// and once the faults stop, every job ends and every drain is done.
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
    cluster_.AddNode("wide", 16);  // so that every job fits
    for (int i = 0; i < 2000 && AnyUnfinished(); ++i) {
      ++step_;
      ObeyAndReport(/*lossy=*/false);
      FinishAll();
      Pass(200);
      Check();
    }
    EXPECT_FALSE(AnyUnfinished()) << Where() << cluster_.core->state().Fingerprint();
    for (int i = 0; i < 5; ++i) {
      ObeyAndReport(/*lossy=*/false);
      Pass(200);
    }
    for (const auto& [name, node] : cluster_.core->state().nodes()) {
      EXPECT_EQ(node->admin.draining(), node->drained) << Where() << name;
      drained_ += node->drained;
    }
    EXPECT_EQ(cluster_.Replayed(), cluster_.core->state().Fingerprint()) << Where();
    EXPECT_GT(ended_.size(), 0u) << Where();
  }

  int restarts() const { return restarts_; }
  int drained() const { return drained_; }
  int boundaries() const { return boundaries_; }
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
    cluster_.Connect();
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
    switch (Pick(14)) {
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
      case 12:
        DrainOrUndrain(node);
        break;
      case 7:
        Pass(Chance(3) ? 2400 : 300);
        break;
      default:
        ObeyAndReport(/*lossy=*/true);
    }
  }

  void DrainOrUndrain(const TestNode& node) {
    const bool draining = cluster_.core->state().FindNode(NodeName(node.name))->admin.draining();
    if (draining || Chance(3)) {
      v1::UndrainNodeRequest request;
      request.set_node(node.name);
      EXPECT_EQ(cluster_.core->Undrain(request, cluster_.now).ok(), draining) << Where();
    } else {
      v1::DrainNodeRequest request;
      request.set_node(node.name);
      request.set_deadline_s(Chance(3) ? 2 : 0);
      const auto response = cluster_.core->Drain(request, cluster_.now);
      // After a restart a node without ranks isn't known before it reports.
      EXPECT_TRUE(response.ok() || absl::IsNotFound(response.status())) << Where();
    }
    cluster_.Commit();
  }

  void Submit() {
    const int replicas = 1 + Pick(3);
    const int ranks = replicas * (1 + Pick(3));
    const auto response =
        cluster_.core->Submit(TestCluster::JobOf(ranks, "", 100, replicas), {}, cluster_.now);
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
      switch (Pick(8)) {
        case 6:
          if (rank.state() != v1::RANK_STATE_TRAINING) break;
          rank.set_state(v1::RANK_STATE_HELD);
          rank.set_blamed_node(AnyNode().name);
          break;
        case 0:
          rank.set_state(v1::RANK_STATE_FAILED);
          rank.set_message(Chance(3) ? "DATA_LOSS: bad input" : "UNAVAILABLE: a peer is gone");
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
    CheckDrains();
    if (step_ % 10 == 0) {
      ASSERT_EQ(cluster_.Replayed(), cluster_.core->state().Fingerprint()) << Where();
    }
  }

  void CheckDevices() {
    std::map<std::pair<std::string, int32_t>, JobId> held;
    for (const auto& [number, job] : cluster_.core->state().jobs()) {
      if (!IsActive(job->state) || !job->HasCurrentPlan()) continue;
      for (const v1::Plan* plan : {job->plan.get(), job->next_plan.get()}) {
        if (plan == nullptr) continue;
        std::set<std::pair<std::string, int32_t>> once;
        for (const v1::RankAssignment& rank : plan->ranks()) {
          const std::pair device(rank.node(), rank.device());
          ASSERT_TRUE(once.insert(device).second) << Where() << job->id << " twice on a device";
          ASSERT_EQ(held.try_emplace(device, job->id).first->second, job->id)
              << Where() << "device " << rank.device() << " of " << rank.node() << " held twice";
          ASSERT_LT(rank.device(), cluster_.nodes.at(rank.node()).devices) << Where();
        }
      }
    }
  }

  // Plans are looked at when they are new.
  void CheckNewPlan(const DurableJob& job) {
    const v1::Plan* newest = job.next_plan != nullptr ? job.next_plan.get() : job.plan.get();
    if (newest == nullptr || !planned_[job.id].insert(newest->epoch()).second) return;
    if (job.next_plan != nullptr) ++boundaries_;
    std::set<std::string> before;
    const auto& former = job.next_plan != nullptr   ? job.plan
                         : job.former_plans.empty() ? nullptr
                                                    : job.former_plans.back();
    if (former != nullptr) {
      for (const v1::RankAssignment& rank : former->ranks()) before.insert(rank.node());
    }
    for (const v1::RankAssignment& rank : newest->ranks()) {
      const auto node = cluster_.core->state().FindNode(NodeName(rank.node()));
      const bool closed = node->admin.draining() || node->admin.cordoned();
      ASSERT_FALSE(closed && !before.contains(rank.node()))
          << Where() << job.id << " epoch " << newest->epoch() << " on " << rank.node();
    }
  }

  void CheckDrains() {
    for (const auto& [name, node] : cluster_.core->state().nodes()) {
      if (!node->admin.draining() || node->drained) continue;
      for (const auto& [number, job] : cluster_.core->state().unfinished()) {
        const Gang* gang = cluster_.core->FindGang(job->id);
        if (gang == nullptr || !gang->ranks_on().contains(name.value())) continue;
        if (job->state != v1::JOB_STATE_RUNNING) {
          ASSERT_NE(cluster_.core->DrainObstacle(name), "") << Where() << name;
        }
      }
    }
  }

  void CheckJobs() {
    for (const auto& [number, job] : cluster_.core->state().jobs()) {
      uint64_t& epoch = epochs_[job->id];
      ASSERT_GE(job->epoch, epoch) << Where() << job->id;
      epoch = job->epoch;
      ASSERT_LE(job->epoch, job->last_epoch) << Where() << job->id;
      CheckNewPlan(*job);
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
    }
  }

  void CheckDesires() {
    for (const auto& [name, node] : cluster_.nodes) {
      const v1::DesiredState desired = cluster_.core->DesiredFor(NodeName(name));
      for (const v1::DesiredJob& wanted : desired.jobs()) {
        const auto job = cluster_.core->state().Find(JobId(wanted.plan().job()));
        ASSERT_NE(job, nullptr) << Where();
        ASSERT_TRUE(IsActive(job->state)) << Where() << job->id;
        const uint64_t told = wanted.plan().epoch();
        ASSERT_EQ(wanted.hold(), told < job->epoch) << Where() << job->id;
        ASSERT_TRUE(!wanted.hold() || !job->HasCurrentPlan()) << Where() << job->id;
        ASSERT_TRUE(told <= job->epoch ||
                    (job->next_plan != nullptr && told == job->next_plan->epoch()))
            << Where() << job->id;
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
  std::map<JobId, std::set<uint64_t>> planned_;
  int drained_ = 0;
  int boundaries_ = 0;
};

TEST(CorePropertyTest, RandomHistories_KeepEveryInvariant) {
  std::map<v1::JobState, int> ends;
  int restarts = 0;
  int drained = 0;
  int boundaries = 0;
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    History history(seed);
    history.Run(250);
    if (HasFatalFailure()) return;
    for (const auto& [job, state] : history.ended()) ++ends[state];
    restarts += history.restarts();
    drained += history.drained();
    boundaries += history.boundaries();
  }
  // The histories are worth something only if they reach all of these.
  EXPECT_GT(ends[v1::JOB_STATE_COMPLETED], 50);
  EXPECT_GT(ends[v1::JOB_STATE_FAILED], 20);
  EXPECT_GT(ends[v1::JOB_STATE_CANCELLED], 20);
  EXPECT_GT(restarts, 20);
  EXPECT_GT(drained, 20);
  EXPECT_GT(boundaries, 50);
}

}  // namespace
}  // namespace fathom
