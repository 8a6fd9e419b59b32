#include "common/health/preflight_verdict.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <string>

namespace fathom::health {
namespace {

using ::testing::HasSubstr;

v1::PreflightThreshold Threshold(absl::string_view check, double value, bool at_most) {
  v1::PreflightThreshold threshold;
  threshold.set_check(std::string(check));
  threshold.set_value(value);
  threshold.set_at_most(at_most);
  return threshold;
}

class PreflightVerdictTest : public ::testing::Test {
 protected:
  v1::PreflightCheck* Add(absl::string_view name, double value, bool passed = true,
                          const std::string& subject = "") {
    v1::PreflightCheck* check = report_.add_checks();
    check->set_name(std::string(name));
    check->set_value(value);
    check->set_passed(passed);
    check->set_subject(subject);
    return check;
  }

  v1::PreflightReport report_;
};

TEST_F(PreflightVerdictTest, NoChecks_DoesNotPass) {
  Judge(&report_);
  EXPECT_FALSE(report_.passed());
  EXPECT_EQ(report_.verdict(), "nothing was checked");
}

TEST_F(PreflightVerdictTest, AllGood_PassesAndCounts) {
  Add(kComputeRateFp32, 10);
  Add(kMemoryPattern, 3);
  Judge(&report_);
  EXPECT_TRUE(report_.passed());
  EXPECT_EQ(report_.verdict(), "passed all 2 checks");
}

TEST_F(PreflightVerdictTest, RateBelowThreshold_FailsAndNamesBoth) {
  Add(kComputeRateFp32, 10, true, "device 1");
  ApplyThresholds({Threshold(kComputeRateFp32, 14, false)}, &report_);
  Judge(&report_);
  EXPECT_FALSE(report_.passed());
  EXPECT_TRUE(report_.checks(0).calibrated());
  EXPECT_EQ(report_.checks(0).threshold(), 14);
  EXPECT_THAT(report_.verdict(), HasSubstr("compute_rate_fp32 of device 1: 10"));
  EXPECT_THAT(report_.verdict(), HasSubstr("at least 14"));
}

TEST_F(PreflightVerdictTest, ValueOnThreshold_Passes) {
  Add(kComputeRateFp32, 14);
  Add(kLinkLatency, 30, true, "n1");
  ApplyThresholds({Threshold(kComputeRateFp32, 14, false), Threshold(kLinkLatency, 30, true)},
                  &report_);
  Judge(&report_);
  EXPECT_TRUE(report_.passed()) << report_.verdict();
}

TEST_F(PreflightVerdictTest, ValueThatIsNoNumber_FailsItsThreshold) {
  Add(kComputeRateFp32, std::numeric_limits<double>::quiet_NaN());
  ApplyThresholds({Threshold(kComputeRateFp32, 14, false)}, &report_);
  EXPECT_FALSE(report_.checks(0).passed());
}

TEST_F(PreflightVerdictTest, ThresholdThatIsNoNumber_IsNone) {
  Add(kComputeRateFp32, 10);
  ApplyThresholds({Threshold(kComputeRateFp32, std::numeric_limits<double>::infinity(), false)},
                  &report_);
  EXPECT_TRUE(report_.checks(0).passed());
  EXPECT_FALSE(report_.checks(0).calibrated());
}

TEST_F(PreflightVerdictTest, FailedCheckWithinThreshold_StaysFailed) {
  Add(kMemoryPattern, 100, false)->set_message("bad byte");
  ApplyThresholds({Threshold(kMemoryPattern, 1, false)}, &report_);
  EXPECT_FALSE(report_.checks(0).passed());
  EXPECT_EQ(report_.checks(0).message(), "bad byte");
}

TEST_F(PreflightVerdictTest, OnePeerOfThreeOutOfReach_PassesAndSaysSo) {
  Add(kLinkLatency, 5, true, "n1");
  Add(kLinkLatency, 0, false, "n2")->set_message("refused");
  Add(kLinkLatency, 5, true, "n3");
  Judge(&report_);
  EXPECT_TRUE(report_.passed());
  EXPECT_THAT(report_.verdict(), HasSubstr("link_latency of n2: refused"));
}

TEST_F(PreflightVerdictTest, MostPeersOutOfReach_Fails) {
  Add(kLinkLatency, 0, false, "n1");
  Add(kLinkLatency, 0, false, "n2");
  Add(kLinkLatency, 5, true, "n3");
  Judge(&report_);
  EXPECT_FALSE(report_.passed());
  EXPECT_THAT(report_.verdict(), HasSubstr("failed 2 of 3 checks"));
}

TEST_F(PreflightVerdictTest, ManyFailures_NamesTheFirstFew) {
  for (int i = 0; i < 10; ++i) Add(kComputeCorrectness, 1, false, "cpu " + std::to_string(i));
  Judge(&report_);
  EXPECT_THAT(report_.verdict(), HasSubstr("failed 10 of 10 checks: compute_correctness of cpu 0"));
  EXPECT_THAT(report_.verdict(), HasSubstr("; ..."));
}

}  // namespace
}  // namespace fathom::health
