// The queue's order, preemption, backfill, time sharing and quotas: by example, then by simulation.
#include "coordinator/core/queue_policy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>

#include "absl/strings/str_cat.h"

namespace fathom {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

constexpr int64_t kHourMs = 3'600'000;
constexpr int64_t kNow = 1000 * kHourMs;

WaitingJob Waiting(const std::string& id, int64_t devices, int32_t priority = 0) {
  static int64_t number = 0;
  WaitingJob job;
  job.id = JobId(id);
  job.user = "ada";
  job.devices = devices;
  job.priority = priority;
  job.number = ++number;
  job.queued_ms = kNow;
  return job;
}

RunningJob Running(const std::string& id, int64_t devices, int32_t priority = 0) {
  RunningJob job;
  job.id = JobId(id);
  job.user = "ada";
  job.devices = devices;
  job.frees = devices;
  job.priority = priority;
  job.running_since_ms = kNow - kHourMs;
  return job;
}

QueueInput Input(int64_t free, int64_t total) {
  QueueInput input;
  input.free_devices = free;
  input.total_devices = total;
  input.now_ms = kNow;
  return input;
}

std::vector<std::string> Order(const QueueDecision& decision) {
  std::vector<std::string> names;
  for (const QueuedJob& job : decision.order) names.push_back(job.id.value());
  return names;
}

std::vector<std::string> Started(const QueueDecision& decision) {
  std::vector<std::string> names;
  for (const QueuedJob& job : decision.order) {
    if (job.start) names.push_back(job.id.value());
  }
  return names;
}

std::vector<std::string> Parked(const QueueDecision& decision) {
  std::vector<std::string> names;
  for (const Parking& parking : decision.parkings) names.push_back(parking.job.value());
  return names;
}

std::string ReasonOf(const QueueDecision& decision, const std::string& id) {
  for (const QueuedJob& job : decision.order) {
    if (job.id.value() == id) return job.waits_for;
  }
  return "not in the queue";
}

TEST(QueueOrderTest, Waiting_RecoveringThenPriorityThenAge) {
  QueueInput input = Input(0, 100);
  input.waiting = {Waiting("late", 1), Waiting("urgent", 1, 5), Waiting("low", 1, -5),
                   Waiting("early", 1), Waiting("recovering", 1, -100)};
  input.waiting[3].queued_ms -= 1;
  input.waiting[4].recovering = true;
  EXPECT_THAT(Order(DecideQueue(input)),
              ElementsAre("recovering", "urgent", "early", "late", "low"));
}

TEST(QueueOrderTest, WithoutEstimates_NobodyOvertakes) {
  QueueInput input = Input(3, 8);
  input.running = {Running("r", 5)};
  input.waiting = {Waiting("two", 2), Waiting("four", 4), Waiting("one", 1)};
  const QueueDecision decision = DecideQueue(input);
  EXPECT_THAT(Started(decision), ElementsAre("two"));
  EXPECT_EQ(ReasonOf(decision, "four"),
            "needs 4 devices, 1 of 8 are free: 3 missing until others are done");
  EXPECT_THAT(ReasonOf(decision, "one"),
              StartsWith("behind four, which waits for devices; place 3 in the queue"));
  EXPECT_THAT(ReasonOf(decision, "one"), HasSubstr("scheduling.expected_hours"));
}

TEST(QueueOrderTest, JobThatFoundNoPlan_IsTheHeadWithItsReason) {
  QueueInput input = Input(8, 8);
  input.waiting = {Waiting("odd", 4), Waiting("small", 1)};
  input.waiting[0].cannot = "cannot be planned on the free devices: too narrow";
  input.waiting[1].expected_hours = 1;
  const QueueDecision decision = DecideQueue(input);
  EXPECT_THAT(Started(decision), IsEmpty());
  EXPECT_THAT(ReasonOf(decision, "odd"), HasSubstr("too narrow"));
  EXPECT_THAT(ReasonOf(decision, "small"), StartsWith("behind odd"));
}

TEST(PreemptionTest, SeveralCouldGiveWay_FewestThenLowestThenNewest) {
  QueueInput input = Input(1, 20);
  input.running = {Running("big", 8, 3), Running("low-old", 4, 1), Running("low-new", 4, 1),
                   Running("mid", 4, 2)};
  input.running[2].running_since_ms += 1000;
  input.waiting = {Waiting("urgent", 5, 10)};
  EXPECT_THAT(Parked(DecideQueue(input)), ElementsAre("low-new")) << "one of 4 and the free one";
  input.waiting[0].devices = 7;
  EXPECT_THAT(Parked(DecideQueue(input)), ElementsAre("big")) << "one is fewer than two";
  input.waiting[0].devices = 10;
  EXPECT_THAT(Parked(DecideQueue(input)), ElementsAre("low-new", "big"));
  EXPECT_THAT(ReasonOf(DecideQueue(input), "urgent"),
              HasSubstr("waits until low-new, big have saved a checkpoint and given back 12"));
  input.waiting[0].devices = 22;
  EXPECT_THAT(Parked(DecideQueue(input)), IsEmpty()) << "not enough even with all";
}

TEST(PreemptionTest, EqualPriorityUnwillingOrJustBegun_IsLeftAlone) {
  QueueInput input = Input(0, 4);
  input.waiting = {Waiting("urgent", 4, 1)};
  input.running = {Running("r", 4, 1)};
  EXPECT_THAT(Parked(DecideQueue(input)), IsEmpty()) << "equal";
  input.running[0].priority = 0;
  EXPECT_THAT(Parked(DecideQueue(input)), ElementsAre("r"));
  input.running[0].preemptible = false;
  EXPECT_THAT(Parked(DecideQueue(input)), IsEmpty()) << "unwilling";
  input.running[0].preemptible = true;
  input.running[0].running_since_ms = kNow - kRunBeforePreemptionMs + 1;
  const QueueDecision young = DecideQueue(input);
  EXPECT_THAT(Parked(young), IsEmpty()) << "just begun";
  EXPECT_THAT(ReasonOf(young, "urgent"), HasSubstr("enough are expected in 0 s"));
  input.running[0].running_since_ms -= 1;
  EXPECT_THAT(Parked(DecideQueue(input)), ElementsAre("r"));
  input.running[0].can_park = false;
  EXPECT_THAT(Parked(DecideQueue(input)), IsEmpty()) << "recovers";
}

TEST(PreemptionTest, ParkingJobsDevices_ArePromisedOnce) {
  QueueInput input = Input(0, 8);
  input.running = {Running("leaving", 4), Running("staying", 4)};
  input.running[0].parking = true;
  input.waiting = {Waiting("first", 4, 2), Waiting("second", 4, 1)};
  const QueueDecision decision = DecideQueue(input);
  EXPECT_THAT(Parked(decision), ElementsAre("staying")) << "the second needs another four";
  input.waiting[1].priority = 0;
  EXPECT_THAT(Parked(DecideQueue(input)), IsEmpty());
  EXPECT_THAT(Started(DecideQueue(input)), IsEmpty());
}

TEST(TimeSliceTest, SliceOver_MakesRoomForAnEqualButNotForLess) {
  QueueInput input = Input(0, 4);
  input.running = {Running("r", 4)};
  input.running[0].time_slice_s = 1800;
  input.running[0].preemptible = false;
  input.waiting = {Waiting("equal", 4)};
  const QueueDecision decision = DecideQueue(input);
  ASSERT_THAT(Parked(decision), ElementsAre("r"));
  EXPECT_TRUE(decision.parkings[0].slice_over);
  input.waiting[0].priority = -1;
  EXPECT_THAT(Parked(DecideQueue(input)), IsEmpty());
  input.waiting[0].priority = 0;
  input.running[0].time_slice_s = 3601;
  EXPECT_THAT(Parked(DecideQueue(input)), IsEmpty()) << "a second is left";
}

TEST(BackfillTest, EndsBeforeTheHeadCouldStart_GoesAhead) {
  QueueInput input = Input(2, 8);
  input.running = {Running("r", 6)};
  input.running[0].expected_end_ms = kNow + 2 * kHourMs;
  input.waiting = {Waiting("head", 8), Waiting("short", 2)};
  input.waiting[1].expected_hours = 2;
  EXPECT_THAT(Started(DecideQueue(input)), ElementsAre("short"));
  EXPECT_THAT(ReasonOf(DecideQueue(input), "head"), HasSubstr("enough are expected in 2.0 h"));
  input.waiting[1].expected_hours = 2.01;
  EXPECT_THAT(Started(DecideQueue(input)), IsEmpty());
  EXPECT_THAT(ReasonOf(DecideQueue(input), "short"), HasSubstr("would still run when"));
}

TEST(BackfillTest, DevicesTheHeadLeavesOver_AreFree) {
  QueueInput input = Input(2, 8);
  input.running = {Running("r", 6)};
  input.running[0].expected_end_ms = kNow + kHourMs;
  input.waiting = {Waiting("head", 7), Waiting("a", 1), Waiting("b", 1)};
  EXPECT_THAT(Started(DecideQueue(input)), ElementsAre("a")) << "one of eight is left over";
}

TEST(BackfillTest, HeadMightHaveAJobParkedSoon_NothingGetsInItsWay) {
  QueueInput input = Input(2, 4);
  input.running = {Running("young", 2)};
  input.running[0].running_since_ms = kNow - 30'000;
  input.running[0].expected_end_ms = kNow + 10 * kHourMs;
  input.waiting = {Waiting("head", 4, 1), Waiting("short", 2)};
  input.waiting[1].expected_hours = 1;
  EXPECT_THAT(Started(DecideQueue(input)), IsEmpty()) << "in 30 s the head can start";
}

TEST(BackfillTest, UnknownEnd_IsNeverUnlessItsFirstStepsWillTell) {
  QueueInput input = Input(2, 8);
  input.running = {Running("r", 6)};
  input.waiting = {Waiting("head", 8), Waiting("short", 2)};
  input.waiting[1].expected_hours = 2;
  EXPECT_THAT(Started(DecideQueue(input)), ElementsAre("short"));
  input.running[0].end_known_soon = true;
  EXPECT_THAT(Started(DecideQueue(input)), IsEmpty());
}

TEST(QuotaTest, OverQuota_IsPassedOverWithItsReason) {
  QueueInput input = Input(4, 8);
  input.running = {Running("r", 4)};
  input.quotas.devices_of = {{"ada", 6}, {"*", 1}};
  input.waiting = {Waiting("more", 4, 9), Waiting("others", 1), Waiting("others-second", 1)};
  input.waiting[1].user = input.waiting[2].user = "bob";
  const QueueDecision decision = DecideQueue(input);
  EXPECT_THAT(Started(decision), ElementsAre("others"));
  EXPECT_EQ(ReasonOf(decision, "more"),
            "needs 4 devices, and the jobs of user ada hold 4 of the 6 of its quota; jobs of "
            "others may go first");
  EXPECT_THAT(ReasonOf(decision, "others-second"), HasSubstr("hold 1 of the 1"));
  EXPECT_EQ(input.quotas.Of("eve"), 1);
  EXPECT_EQ(Quotas{}.Of("eve"), -1);
}

// --- By simulation ---

// A cluster of equal devices; jobs run as long as they say.
class Simulation {
 public:
  explicit Simulation(uint64_t seed, bool with_priorities)
      : random_(seed), with_priorities_(with_priorities) {
    input_ = Input(0, 8 + Pick(24));
    total_ = free_ = input_.total_devices;
    // A job that its quota let pass may come before the head once its user has devices left.
    if (with_priorities) input_.quotas.devices_of = {{"u0", total_ / 2}, {"u1", total_}};
    jobs_left_ = 40;
  }

  void Run() {
    for (int event = 0; event < 4000 && !Done(); ++event) {
      if (jobs_left_ > 0 && Pick(3) == 0) Submit();
      EndAndPark();
      Decide();
      if (::testing::Test::HasFatalFailure()) return;
      input_.now_ms += 1000 * (1 + Pick(600));
    }
    EXPECT_TRUE(Done()) << input_.waiting.size() << " wait, " << input_.running.size() << " run";
  }

  int backfilled() const { return backfilled_; }
  int parked() const { return parked_; }

 private:
  int64_t Pick(int64_t count) {
    return static_cast<int64_t>(random_() % static_cast<uint64_t>(count));
  }
  bool Done() const { return jobs_left_ == 0 && input_.waiting.empty() && input_.running.empty(); }

  void Submit() {
    WaitingJob job = Waiting(absl::StrCat("j", jobs_left_--), 1);
    job.user = absl::StrCat("u", Pick(3));
    const int64_t quota = input_.quotas.Of(job.user);
    job.devices = 1 + Pick(quota < 0 ? total_ : quota);
    job.queued_ms = input_.now_ms;
    job.expected_hours = 0.05 + 0.01 * static_cast<double>(Pick(300));
    if (with_priorities_) job.priority = static_cast<int32_t>(Pick(4));
    input_.waiting.push_back(job);
  }

  // Jobs that are done end; those asked to park go back into the queue.
  void EndAndPark() {
    for (size_t i = 0; i < input_.running.size();) {
      RunningJob& running = input_.running[i];
      const bool over = running.expected_end_ms <= input_.now_ms;
      if (!over && !running.parking) {
        ++i;
        continue;
      }
      if (!over) {
        WaitingJob again = origin_.at(running.id);
        again.queued_ms = input_.now_ms;
        again.expected_hours = static_cast<double>(running.expected_end_ms - input_.now_ms) /
                               static_cast<double>(kHourMs);
        input_.waiting.push_back(again);
      }
      free_ += running.devices;
      input_.running.erase(input_.running.begin() + static_cast<int64_t>(i));
    }
    input_.free_devices = free_;
  }

  // The head starts no later than the first reservation it got, where nobody may come before it.
  void CheckReservation(const QueueDecision& decision) {
    if (with_priorities_) return;
    for (const QueuedJob& place : decision.order) {
      const auto promised = promised_.find(place.id);
      if (promised == promised_.end()) continue;
      if (!place.start && !place.over_quota) {
        ASSERT_LE(last_now_ms_, promised->second) << place.id << ": " << place.waits_for;
      }
    }
  }

  void Decide() {
    const QueueDecision decision = DecideQueue(input_);
    const QueueDecision again = DecideQueue(input_);
    ASSERT_EQ(Order(decision), Order(again));
    ASSERT_EQ(Started(decision), Started(again));
    ASSERT_EQ(Parked(decision), Parked(again));
    CheckReservation(decision);
    CheckParkings(decision);
    bool blocked = false;
    for (const QueuedJob& place : decision.order) {
      const auto job = std::find_if(input_.waiting.begin(), input_.waiting.end(),
                                    [&](const WaitingJob& w) { return w.id == place.id; });
      if (!place.start) {
        ASSERT_FALSE(place.waits_for.empty()) << place.id;
        if (!blocked && !place.over_quota) PromiseTo(*job);
        blocked = blocked || !place.over_quota;
        continue;
      }
      backfilled_ += blocked;
      Start(*job);
      input_.waiting.erase(job);
    }
    ASSERT_GE(free_, 0) << "more started than there are devices";
    CheckQuotas();
    last_now_ms_ = input_.now_ms;
  }

  // As the head of the queue would start if nobody came before it, from running jobs' ends alone.
  void PromiseTo(const WaitingJob& job) {
    std::vector<std::pair<int64_t, int64_t>> ends;
    for (const RunningJob& running : input_.running) {
      ends.emplace_back(running.expected_end_ms, running.devices);
    }
    std::sort(ends.begin(), ends.end());
    int64_t free = free_;
    for (const auto& [end, devices] : ends) {
      free += devices;
      if (free < job.devices) continue;
      promised_.try_emplace(job.id, end);
      return;
    }
  }

  void CheckParkings(const QueueDecision& decision) {
    std::set<JobId> seen;
    for (const Parking& parking : decision.parkings) {
      ++parked_;
      ASSERT_TRUE(seen.insert(parking.job).second);
      const auto victim = std::find_if(input_.running.begin(), input_.running.end(),
                                       [&](const RunningJob& r) { return r.id == parking.job; });
      ASSERT_NE(victim, input_.running.end());
      ASSERT_LT(victim->priority, origin_or_waiting(parking.for_job).priority);
      ASSERT_GE(input_.now_ms - victim->running_since_ms, kRunBeforePreemptionMs);
      victim->parking = true;
    }
    int64_t coming = free_;
    for (const RunningJob& running : input_.running) coming += running.parking ? running.frees : 0;
    for (const Parking& parking : decision.parkings) {
      ASSERT_LE(origin_or_waiting(parking.for_job).devices, coming) << "parked and not enough";
    }
  }

  const WaitingJob& origin_or_waiting(const JobId& id) const {
    for (const WaitingJob& job : input_.waiting) {
      if (job.id == id) return job;
    }
    return origin_.at(id);
  }

  void Start(const WaitingJob& job) {
    origin_[job.id] = job;
    RunningJob running = Running(job.id.value(), job.devices, job.priority);
    running.user = job.user;
    running.running_since_ms = input_.now_ms;
    running.expected_end_ms =
        input_.now_ms + static_cast<int64_t>(job.expected_hours * static_cast<double>(kHourMs));
    free_ -= job.devices;
    input_.running.push_back(running);
  }

  void CheckQuotas() {
    std::map<std::string, int64_t> held;
    for (const RunningJob& running : input_.running) held[running.user] += running.devices;
    for (const auto& [user, devices] : held) {
      const int64_t quota = input_.quotas.Of(user);
      ASSERT_TRUE(quota < 0 || devices <= quota) << user << " holds " << devices;
    }
  }

  std::mt19937_64 random_;
  const bool with_priorities_;
  QueueInput input_;
  int64_t total_ = 0;
  int64_t free_ = 0;
  int64_t jobs_left_ = 0;
  int64_t last_now_ms_ = 0;
  std::map<JobId, WaitingJob> origin_;
  std::map<JobId, int64_t> promised_;
  int backfilled_ = 0;
  int parked_ = 0;
};

TEST(QueuePropertyTest, HonestEstimates_HeadIsNeverDelayed) {
  int backfilled = 0;
  for (uint64_t seed = 1; seed <= 150; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    Simulation simulation(seed, /*with_priorities=*/false);
    simulation.Run();
    if (HasFatalFailure()) return;
    backfilled += simulation.backfilled();
  }
  EXPECT_GT(backfilled, 300);
}

TEST(QueuePropertyTest, PrioritiesAndQuotas_ParkOnlyWhatIsEnoughAndNobodyForEver) {
  int parked = 0;
  for (uint64_t seed = 1; seed <= 150; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    Simulation simulation(seed, /*with_priorities=*/true);
    simulation.Run();
    if (HasFatalFailure()) return;
    parked += simulation.parked();
  }
  EXPECT_GT(parked, 300);
}

}  // namespace
}  // namespace fathom
