// The detectors over simulated fleets: what they must find and how soon, and how often they are
// wrong under noise.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "absl/strings/str_cat.h"
#include "coordinator/core/corruption_detector.h"
#include "coordinator/core/flap_detector.h"
#include "coordinator/core/hang_detector.h"
#include "coordinator/core/health_detector.h"
#include "coordinator/core/straggler_detector.h"

namespace fathom {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Verdict = HangDetector::Verdict;

// --- Hang ---

HangSample SampleAt(int64_t now_ms, int64_t step, double step_seconds) {
  HangSample sample;
  sample.epoch = 1;
  sample.step = step;
  sample.step_seconds = step_seconds;
  sample.first_step_s = 120;
  sample.now_ms = now_ms;
  return sample;
}

TEST(HangDetectorTest, StepsOfFourSeconds_AsksAfterFortyConcludesTwoLater) {
  HangDetector detector;
  for (int64_t step = 1; step <= 5; ++step) {
    ASSERT_EQ(detector.Watch(SampleAt(step * 4000, step, 4)), Verdict::kMoving);
  }
  EXPECT_EQ(detector.Watch(SampleAt(59'900, 5, 4)), Verdict::kMoving);
  EXPECT_EQ(detector.Watch(SampleAt(60'000, 5, 4)), Verdict::kAsk);
  EXPECT_EQ(detector.Watch(SampleAt(61'000, 5, 4)), Verdict::kAwaitAnswers);
  EXPECT_EQ(detector.Watch(SampleAt(62'000, 5, 4)), Verdict::kConclude);
  EXPECT_EQ(detector.Watch(SampleAt(62'100, 5, 4)), Verdict::kMoving) << "watched anew";
}

TEST(HangDetectorTest, FastSteps_TenSecondsAtLeast) {
  HangDetector detector;
  for (int64_t step = 1; step <= 50; ++step) detector.Watch(SampleAt(step * 10, step, 0.01));
  EXPECT_EQ(detector.Watch(SampleAt(500 + 9'999, 50, 0.01)), Verdict::kMoving);
  EXPECT_EQ(detector.Watch(SampleAt(500 + 10'000, 50, 0.01)), Verdict::kAsk);
}

TEST(HangDetectorTest, NobodyWatchedForAnHour_TheHourDoesNotCount) {
  HangDetector detector;
  detector.Watch(SampleAt(0, 1, 0.1));
  detector.Pardon(3'600'000);
  EXPECT_EQ(detector.Watch(SampleAt(3'609'999, 1, 0.1)), Verdict::kMoving);
  EXPECT_EQ(detector.Watch(SampleAt(3'610'000, 1, 0.1)), Verdict::kAsk);
}

TEST(HangDetectorTest, MovesAgainAfterTheQuestion_NothingIsConcluded) {
  HangDetector detector;
  detector.Watch(SampleAt(0, 1, 0.1));
  ASSERT_EQ(detector.Watch(SampleAt(10'000, 1, 0.1)), Verdict::kAsk);
  EXPECT_EQ(detector.Watch(SampleAt(11'000, 2, 0.1)), Verdict::kMoving);
  EXPECT_EQ(detector.Watch(SampleAt(13'000, 2, 0.1)), Verdict::kMoving);
}

TEST(HangDetectorTest, FirstStepLastStepAndValidation_TakeTheirTime) {
  HangDetector detector;
  detector.Watch(SampleAt(0, 0, 0));
  EXPECT_EQ(detector.Watch(SampleAt(119'000, 0, 0)), Verdict::kMoving) << "no step time is known";
  EXPECT_EQ(detector.Watch(SampleAt(120'000, 0, 0)), Verdict::kAsk);
  HangSample last = SampleAt(130'000, 9, 1);
  last.last_step = true;
  detector.Watch(last);
  last.now_ms += 119'000;
  EXPECT_EQ(detector.Watch(last), Verdict::kMoving) << "the final checkpoint is written";
  HangDetector validating;
  HangSample sample = SampleAt(0, 5, 2);
  sample.extra_steps = 3;
  validating.Watch(sample);
  sample.now_ms = 79'000;
  EXPECT_EQ(validating.Watch(sample), Verdict::kMoving);
  sample.now_ms = 80'000;
  EXPECT_EQ(validating.Watch(sample), Verdict::kAsk);
}

// 200 jobs of 2,000 steps whose times scatter by a quarter, with one step in 200 four times as
// long: 400,000 steps and not one false alarm.
TEST(HangDetectorTest, NoisySteps_NoFalseAlarm) {
  std::mt19937_64 random(7);
  std::lognormal_distribution<double> scatter(0, 0.25);
  int alarms = 0;
  for (int job = 0; job < 200; ++job) {
    HangDetector detector;
    const double base = 0.05 * (1 + job);
    double now_s = 0;
    for (int64_t step = 1; step <= 2000; ++step) {
      const double seconds = base * scatter(random) * (random() % 200 == 0 ? 4 : 1);
      now_s += seconds;
      alarms += detector.Watch(SampleAt(static_cast<int64_t>(1000 * now_s) - 1, step - 1, base)) !=
                Verdict::kMoving;
      detector.Watch(SampleAt(static_cast<int64_t>(1000 * now_s), step, seconds));
    }
  }
  EXPECT_EQ(alarms, 0);
}

v1::RankStatus Answer(uint64_t token, const std::string& process, double seconds,
                      const std::string& stack) {
  v1::RankStatus rank;
  rank.mutable_diagnosis()->set_token(token);
  rank.mutable_diagnosis()->set_instruction("F1.3");
  rank.mutable_diagnosis()->set_process(process);
  rank.mutable_diagnosis()->set_seconds(seconds);
  rank.mutable_diagnosis()->set_stack(stack);
  return rank;
}

TEST(HangBlameTest, WhoDoesNotWaitForAPeer_IsToBlame) {
  const std::string wait = "futex\nfathom::transport::TcpWindow::Wait(...)\nfathom::engine::Train";
  const v1::RankStatus innocent = Answer(4, "sleeping", 12, wait);
  const auto blame = [&](const v1::RankStatus& rank) {
    return BlameForHang({innocent, rank, innocent}, 4, 10);
  };
  EXPECT_THAT(blame(innocent), IsEmpty());
  EXPECT_THAT(blame(Answer(4, "running", 0.3, "")), IsEmpty()) << "it has just begun";
  EXPECT_THAT(blame(Answer(4, "sleeping", 12, "0x7f12")), IsEmpty()) << "no names, no judgement";
  const auto check = [&](const v1::RankStatus& rank, const char* why) {
    const std::vector<HangBlame> found = blame(rank);
    ASSERT_EQ(found.size(), 1u) << why;
    EXPECT_EQ(found[0].rank, 1);
    EXPECT_THAT(found[0].why, HasSubstr(why));
  };
  check(Answer(3, "sleeping", 12, wait), "did not answer");
  check(Answer(4, "stopped by a signal", 12, wait), "stopped by a signal");
  check(Answer(4, "running", 12, ""), "it computes, in F1.3 for 12 s");
  check(Answer(4, "in disk wait", 12, ""), "waits for a disk");
  check(Answer(4, "sleeping", 12, "nanosleep\nfathom::engine::Train"), "not in a wait for a peer");
}

TEST(HangBlameTest, NobodyAnswers_NothingTellsThemApart) {
  EXPECT_THAT(BlameForHang({v1::RankStatus(), v1::RankStatus()}, 4, 10), IsEmpty());
  EXPECT_EQ(BlameForHang({v1::RankStatus()}, 4, 10).size(), 1u) << "a rank alone";
}

// --- Stragglers ---

class Fleet {
 public:
  // `cost` and `group` as StragglerDetector takes them.
  Fleet(std::vector<double> cost, std::vector<int32_t> group, double noise)
      : cost_(std::move(cost)), detector_(cost_, std::move(group)), noise_(noise) {}

  std::optional<Straggler> Step(int32_t slow_rank, double factor) {
    ++step_;
    std::vector<v1::StepReport> reports(cost_.size());
    std::vector<const v1::StepReport*> steps;
    for (size_t i = 0; i < cost_.size(); ++i) {
      double busy = cost_[i] * std::exp(noise_ * normal_(random_));
      if (static_cast<int32_t>(i) == slow_rank) busy *= factor;
      reports[i].set_step(step_);
      reports[i].set_wait_seconds(1);
      reports[i].set_reduce_seconds(0.5);
      reports[i].set_seconds(busy + 1.5);
      steps.push_back(&reports[i]);
    }
    return detector_.Watch(steps);
  }

  // Steps until it is named; 0: it wasn't within 50.
  int StepsToName(int32_t rank, double factor) {
    for (int i = 1; i <= 50; ++i) {
      const std::optional<Straggler> found = Step(rank, factor);
      if (found.has_value()) return found->rank == rank ? i : -1;
    }
    return 0;
  }

 private:
  std::vector<double> cost_;
  StragglerDetector detector_;
  double noise_;
  int64_t step_ = 0;
  std::mt19937_64 random_{11};
  std::normal_distribution<double> normal_;
};

TEST(StragglerDetectorTest, TwiceAsSlow_NamedInTheThirdStep) {
  // Lanes x pipeline ranks of unequal cost; one lane; two ranks alone.
  std::vector<double> cost;
  std::vector<int32_t> group;
  for (int lane = 0; lane < 8; ++lane) {
    for (int stage = 0; stage < 4; ++stage) {
      cost.push_back(1.0 + stage);
      group.push_back(stage);
    }
  }
  EXPECT_EQ(Fleet(cost, group, 0.05).StepsToName(13, 2.0), 3);
  EXPECT_EQ(Fleet({3, 1, 1, 3}, {0, 1, 1, 0}, 0.05).StepsToName(2, 2.0), 3);
  EXPECT_EQ(Fleet({1, 1}, {0, 0}, 0.05).StepsToName(1, 2.0), 3);
}

TEST(StragglerDetectorTest, OneSlowStepOrALittleSlower_IsNotNamed) {
  Fleet fleet({1, 1, 1, 1}, {0, 0, 0, 0}, 0.02);
  for (int i = 0; i < 30; ++i) {
    EXPECT_FALSE(fleet.Step(2, i % 3 == 0 ? 1.0 : 5.0).has_value()) << "never three in a row";
  }
  EXPECT_EQ(Fleet({1, 1, 1, 1}, {0, 0, 0, 0}, 0.02).StepsToName(2, 1.3), 0);
}

// 256 ranks over 1,500 steps whose busy times scatter by 10%, each step with a random rank that
// takes four times as long: 384,000 rank steps, no false alarm. At 25% scatter and no more
// fellows than three others still none in 1,500 steps.
TEST(StragglerDetectorTest, Noise_NoFalseAlarm) {
  Fleet wide(std::vector<double>(256, 1.0), std::vector<int32_t>(256, 0), 0.10);
  Fleet narrow({1, 1, 1, 1}, {0, 0, 0, 0}, 0.25);
  std::mt19937_64 random(3);
  int alarms_wide = 0;
  int alarms_narrow = 0;
  for (int step = 0; step < 1500; ++step) {
    alarms_wide += wide.Step(static_cast<int32_t>(random() % 256), 4.0).has_value();
    alarms_narrow += narrow.Step(-1, 1).has_value();
  }
  EXPECT_EQ(alarms_wide, 0);
  EXPECT_EQ(alarms_narrow, 0);
}

TEST(StragglerDetectorTest, StepNotReportedByAll_Waits) {
  StragglerDetector detector({1, 1, 1}, {0, 0, 0});
  v1::StepReport fast;
  fast.set_step(1);
  fast.set_seconds(1);
  v1::StepReport slow = fast;
  slow.set_seconds(9);
  for (int i = 0; i < 10; ++i) {
    EXPECT_FALSE(detector.Watch({&fast, &slow, &fast}).has_value()) << "one step seen ten times";
  }
}

// --- Corruption ---

v1::StepReport Hashed(int64_t step, uint64_t hash) {
  v1::StepReport report;
  report.set_step(step);
  report.set_weights_hash(hash);
  return report;
}

TEST(CorruptionDetectorTest, MinorityOfThree_IsBlamedOfTwoBothAreSuspects) {
  CorruptionDetector detector({0, 0, 0, 1, 1});
  const v1::StepReport good = Hashed(1, 7);
  const v1::StepReport bad = Hashed(1, 8);
  const v1::StepReport other = Hashed(1, 9);
  const auto found = detector.Watch({&good, &bad, &good, &other, &other});
  ASSERT_TRUE(found.has_value());
  EXPECT_TRUE(found->blamed);
  EXPECT_THAT(found->ranks, ElementsAre(1));
  EXPECT_FALSE(detector.Watch({&good, &bad, &good, &other, &other}).has_value()) << "said once";
  const v1::StepReport two_good = Hashed(2, 7);
  const v1::StepReport two_bad = Hashed(2, 6);
  const auto pair = detector.Watch({&two_good, &two_good, &two_good, &two_good, &two_bad});
  ASSERT_TRUE(pair.has_value());
  EXPECT_FALSE(pair->blamed);
  EXPECT_THAT(pair->ranks, ElementsAre(3, 4));
}

TEST(CorruptionDetectorTest, RanksReportAtDifferentTimes_StepsAreStillCompared) {
  CorruptionDetector detector({0, 0});
  const v1::StepReport a1 = Hashed(1, 7);
  const v1::StepReport a2 = Hashed(2, 5);
  const v1::StepReport none = Hashed(1, 0);
  const v1::StepReport b2 = Hashed(2, 6);
  EXPECT_FALSE(detector.Watch({&a1, &none}).has_value()) << "not computed";
  EXPECT_FALSE(detector.Watch({&a2, &a1}).has_value());
  const auto found = detector.Watch({&a2, &b2});
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->step, 2);
  EXPECT_TRUE(SpeaksOfCorruption("INTERNAL: CORRUPTION: hash of stage 3"));
  EXPECT_FALSE(SpeaksOfCorruption("DATA_LOSS: the file is cut off"));
}

// --- Flapping, health ---

TEST(FlapDetectorTest, ThirdReturnWithinTheWindow_IsTooMany) {
  const NodeName a("a");
  FlapDetector detector;
  EXPECT_FALSE(detector.NodeReturned(a, 0));
  EXPECT_FALSE(detector.NodeReturned(NodeName("b"), 1));
  EXPECT_FALSE(detector.NodeReturned(a, 300'000));
  EXPECT_EQ(detector.CountOf(a, 300'000), 2);
  EXPECT_TRUE(detector.NodeReturned(a, 600'000));
  EXPECT_FALSE(detector.NodeReturned(a, 600'001)) << "its count begins anew";
  FlapDetector slow;
  for (int i = 0; i < 50; ++i) EXPECT_FALSE(slow.NodeReturned(a, i * 301'000)) << i;
}

TEST(HealthDetectorTest, FatalTwiceInARow_SaidOnce) {
  const NodeName a("a");
  HealthDetector detector;
  v1::NodeHealth health;
  v1::HealthSignal& signal = *health.add_signals();
  signal.set_source("xid");
  signal.set_subject("gpu0");
  signal.set_name("79");
  signal.set_message("the GPU fell off the bus");
  signal.set_severity(v1::SEVERITY_FATAL);
  const auto probe = [&](int64_t ms) {
    health.set_probed_ms(ms);
    return detector.Watch(a, health);
  };
  EXPECT_EQ(probe(1), "");
  EXPECT_EQ(probe(1), "") << "the same probe again";
  health.set_probe_error("timed out");
  EXPECT_EQ(probe(2), "");
  health.clear_probe_error();
  EXPECT_EQ(probe(3), "xid gpu0 79: the GPU fell off the bus");
  EXPECT_EQ(probe(4), "");
  signal.set_severity(v1::SEVERITY_WARNING);
  EXPECT_EQ(probe(5), "");
  signal.set_severity(v1::SEVERITY_FATAL);
  EXPECT_EQ(probe(6), "") << "once only since it was better";
}

}  // namespace
}  // namespace fathom
