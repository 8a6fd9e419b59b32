#include "worker/health/preflight.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <set>

#include "absl/strings/str_cat.h"
#include "common/base/manual_clock.h"
#include "common/base/real_clock.h"
#include "common/health/preflight_verdict.h"
#include "worker/health/clock_check.h"
#include "worker/health/disk_check.h"
#include "worker/health/memory_check.h"
#include "worker/health/preflight_arguments.h"
#include "worker/health/preflight_flags.h"

namespace fathom::health {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string TempFolder() {
  std::string path = absl::StrCat(::testing::TempDir(), "/health.XXXXXX");
  return ::mkdtemp(path.data());
}

float FlipBit(float value, int bit) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  bits ^= uint32_t{1} << bit;
  std::memcpy(&value, &bits, sizeof(bits));
  return value;
}

class PreflightTest : public ::testing::Test {
 protected:
  PreflightOptions Small() {
    PreflightOptions options;
    options.request.set_id("test");
    options.state_directory = folder_;
    options.compute.rate_edge = 64;
    options.compute.rate_time = absl::Milliseconds(4);
    options.memory_bytes = 1 << 20;
    options.disk_bytes = 1 << 20;
    return options;
  }

  v1::PreflightReport Run(const PreflightOptions& options) {
    return RunPreflight(options, {ops_.get(), reference_.get()}, &clock_);
  }

  RealClock clock_;
  const std::string folder_ = TempFolder();
  const std::unique_ptr<kernels::Ops> ops_ = kernels::CreateCpuOps();
  const std::unique_ptr<kernels::Ops> reference_ = kernels::CreateReferenceOps();
};

TEST_F(PreflightTest, HealthyMachine_PassesEveryCheck) {
  PreflightOptions options = Small();
  options.compute.devices = 2;
  const v1::PreflightReport report = Run(options);
  EXPECT_TRUE(report.passed()) << report.verdict();
  EXPECT_EQ(report.id(), "test");
  EXPECT_GE(report.finished_ms(), report.started_ms());
  std::multiset<std::string> names;
  for (const v1::PreflightCheck& check : report.checks()) names.insert(check.name());
  EXPECT_EQ(names.count("compute_rate_fp32"), 2u);
  EXPECT_EQ(names.count("compute_rate_bf16"), 2u);
  for (const char* name : {"compute_correctness", "memory_pattern", "disk_bandwidth", "disk_free",
                           "clock_step", "clock_sync"}) {
    EXPECT_EQ(names.count(name), 1u) << name;
  }
}

TEST_F(PreflightTest, ThresholdOutOfReach_FailsThatCheckAlone) {
  PreflightOptions options = Small();
  auto threshold = ParseThreshold("compute_rate_fp32>=1e9");
  ASSERT_TRUE(threshold.ok());
  *options.request.add_thresholds() = *threshold;
  const v1::PreflightReport report = Run(options);
  EXPECT_FALSE(report.passed());
  EXPECT_THAT(report.verdict(), HasSubstr("failed 1 of "));
  EXPECT_THAT(report.verdict(), HasSubstr("compute_rate_fp32 of device 0"));
}

TEST_F(PreflightTest, ComputeRate_IsPlausible) {
  ComputeCheckOptions options;
  options.rate_edge = 128;
  options.rate_time = absl::Milliseconds(20);
  for (const v1::PreflightCheck& check : CheckComputeRate(options, ops_.get(), &clock_)) {
    EXPECT_GT(check.value(), 0.01) << check.name();
    EXPECT_LT(check.value(), 1e5) << check.name();
    EXPECT_EQ(check.unit(), "GFLOP/s");
  }
}

TEST_F(PreflightTest, Correctness_TriesCpusAndRestoresAffinity) {
  cpu_set_t before, after;
  ASSERT_EQ(::sched_getaffinity(0, sizeof(before), &before), 0);
  const auto checks = CheckComputeCorrectness({.correctness_time = absl::Seconds(20)}, ops_.get(),
                                              reference_.get(), &clock_);
  ASSERT_EQ(::sched_getaffinity(0, sizeof(after), &after), 0);
  EXPECT_TRUE(CPU_EQUAL(&before, &after));
  ASSERT_EQ(checks.size(), 1u);
  EXPECT_TRUE(checks[0].passed()) << checks[0].message();
  EXPECT_EQ(checks[0].value(), CPU_COUNT(&before));
}

TEST(CompareProductsTest, BitAboveTolerance_IsFoundAndBelowIsNot) {
  // L = 8, so 1.6e-5 is allowed. An element in [4, 8) has bits of weight 2^(bit - 21): bit 5 is
  // 1.5e-5, and bit 6 3.1e-5.
  const std::vector<float> want = {1.5f, -5.25f, 0.0f, 8.0f};
  for (int bit = 0; bit < 32; ++bit) {
    std::vector<float> got = want;
    got[1] = FlipBit(got[1], bit);
    EXPECT_EQ(CompareProducts(want, got, kernels::DType::kF32).has_value(), bit >= 6) << bit;
  }
}

TEST(CompareProductsTest, NotANumberOrInfinity_IsFound) {
  const std::vector<float> want = {1, 2};
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    const auto wrong = CompareProducts(want, {bad, 2}, kernels::DType::kBF16);
    ASSERT_TRUE(wrong.has_value());
    EXPECT_THAT(*wrong, HasSubstr("element 0 of a BF16 product"));
  }
}

TEST(CompareProductsTest, SeveralWrong_NamesTheWorst) {
  const std::vector<float> want = {1, 2, 3, 4};
  const auto wrong = CompareProducts(want, {1.1f, 2, 3.5f, 4.2f}, kernels::DType::kF32);
  ASSERT_TRUE(wrong.has_value());
  EXPECT_THAT(*wrong, HasSubstr("element 2 of a FP32 product is 3.5 instead of 3"));
}

class MemoryPatternTest : public ::testing::TestWithParam<MemoryPattern> {};

TEST_P(MemoryPatternTest, FlippedBit_IsNamedWithItsPlace) {
  std::vector<uint64_t> words(1024);
  WritePattern(GetParam(), 7, absl::MakeSpan(words));
  EXPECT_FALSE(VerifyPattern(GetParam(), 7, words).has_value());
  words[100] ^= uint64_t{1} << 17 | 1;
  words[900] ^= 2;
  const auto fault = VerifyPattern(GetParam(), 7, words);
  ASSERT_TRUE(fault.has_value());
  EXPECT_EQ(fault->index, 100u);
  EXPECT_EQ(fault->bad_words, 2);
  EXPECT_EQ(fault->address, reinterpret_cast<uintptr_t>(&words[100]));
  const std::string text = Describe(GetParam(), *fault, words.size());
  EXPECT_THAT(text, HasSubstr("2 of 1024 words wrong, the first at offset 0x320"));
  EXPECT_THAT(text, HasSubstr("bits 0, 17)"));
}

INSTANTIATE_TEST_SUITE_P(All, MemoryPatternTest, ::testing::ValuesIn(kMemoryPatterns));

TEST(MemoryCheckTest, CellReachedByTwoAddresses_IsFoundByTheAddressPattern) {
  std::vector<uint64_t> words(64);
  WritePattern(MemoryPattern::kAddress, 0, absl::MakeSpan(words));
  words[40] = words[8];  // address line 8 is stuck
  EXPECT_EQ(VerifyPattern(MemoryPattern::kAddress, 0, words)->index, 40u);
}

TEST(MemoryCheckTest, GoodMemory_PassesWithARate) {
  RealClock clock;
  const v1::PreflightCheck check = CheckMemory(1 << 20, 3, &clock);
  EXPECT_TRUE(check.passed()) << check.message();
  EXPECT_GT(check.value(), 0);
}

TEST(MemoryCheckTest, MoreThanThereIs_FailsAndSaysSo) {
  RealClock clock;
  const v1::PreflightCheck check = CheckMemory(int64_t{1} << 60, 3, &clock);
  EXPECT_FALSE(check.passed());
  EXPECT_THAT(check.message(), HasSubstr("cannot have"));
}

TEST(DiskCheckTest, GoodDisk_LeavesNothingBehind) {
  RealClock clock;
  const std::string folder = TempFolder();
  const auto checks = CheckDisk(folder, 2 << 20, 1, &clock);
  ASSERT_EQ(checks.size(), 2u);
  EXPECT_TRUE(checks[0].passed()) << checks[0].message();
  EXPECT_GT(checks[0].value(), 0);
  EXPECT_GT(checks[1].value(), 0);
  EXPECT_TRUE(std::filesystem::is_empty(folder));
}

TEST(DiskCheckTest, FolderThatIsNotThere_FailsAndNamesIt) {
  RealClock clock;
  for (const v1::PreflightCheck& check : CheckDisk("/nowhere/state", 1 << 20, 1, &clock)) {
    EXPECT_FALSE(check.passed());
    EXPECT_THAT(check.message(), HasSubstr("/nowhere/state"));
  }
}

TEST(DiskCheckTest, DiskThatTakesNoMore_FailsAndLeavesNothingBehind) {
  RealClock clock;
  const std::string folder = TempFolder();
  ::signal(SIGXFSZ, SIG_IGN);
  rlimit before;
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit small = {1 << 20, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const auto checks = CheckDisk(folder, 4 << 20, 1, &clock);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_FALSE(checks[0].passed());
  EXPECT_THAT(checks[0].message(), HasSubstr("cannot write a test file in " + folder));
  EXPECT_TRUE(std::filesystem::is_empty(folder));
}

ClockReading At(double wall_s, double steady_s) {
  return {absl::UnixEpoch() + absl::Seconds(wall_s), absl::Seconds(steady_s)};
}

TEST(ClockCheckTest, BothClocksTogether_Pass) {
  const auto checks = CheckClock(At(100, 5), At(102, 7.001), ClockSync{true, absl::Seconds(1)});
  EXPECT_TRUE(checks[0].passed());
  EXPECT_NEAR(checks[0].value(), 1, 1e-6);
  EXPECT_TRUE(checks[1].passed());
  EXPECT_EQ(checks[1].value(), 1000);
  EXPECT_EQ(checks[1].message(), "");
}

TEST(ClockCheckTest, WallClockSetEitherWay_Fails) {
  for (const double wall : {112.0, 92.0}) {
    const auto checks = CheckClock(At(100, 5), At(wall, 7), ClockSync{true, absl::Seconds(1)});
    EXPECT_FALSE(checks[0].passed());
    EXPECT_NEAR(checks[0].value(), 10'000, 1e-6);
    EXPECT_THAT(checks[0].message(), HasSubstr("was set by 10000.0 ms"));
  }
}

TEST(ClockCheckTest, NotSynchronised_WarnsAndPasses) {
  const auto unsynced = CheckClock(At(1, 1), At(2, 2), ClockSync{false, absl::Seconds(16)});
  EXPECT_TRUE(unsynced[1].passed());
  EXPECT_THAT(unsynced[1].message(), HasSubstr("warning: the clock is not synchronised"));
  const auto unknown = CheckClock(At(1, 1), At(2, 2), std::nullopt);
  EXPECT_TRUE(unknown[1].passed());
  EXPECT_THAT(unknown[1].message(), HasSubstr("does not say"));
}

TEST(ClockCheckTest, ReadClock_GivesBothReadings) {
  ManualClock clock;
  const ClockReading reading = ReadClock(clock);
  EXPECT_EQ(reading.wall, clock.Wall());
  EXPECT_EQ(reading.steady, clock.Steady());
}

TEST(PreflightArgumentsTest, Request_SurvivesTheCommandLine) {
  v1::PreflightRequest request;
  request.set_id("r 7; rm");
  v1::PreflightPeer* peer = request.add_peers();
  peer->set_node("n=1");
  peer->set_endpoint("[::1]:4711");
  v1::PreflightThreshold* threshold = request.add_thresholds();
  threshold->set_check("link_latency");
  threshold->set_value(0.1);
  threshold->set_at_most(true);
  peer->set_node("n1");
  std::vector<std::string> arguments = ArgumentsOf(request);
  arguments.insert(arguments.begin(), "fathom-preflight");
  std::vector<const char*> argv;
  for (const std::string& argument : arguments) argv.push_back(argument.c_str());
  const auto flags = ParsePreflightFlags(static_cast<int>(argv.size()), argv.data());
  ASSERT_TRUE(flags.ok()) << flags.status();
  EXPECT_EQ((*flags)->preflight.request.SerializeAsString(), request.SerializeAsString());
  EXPECT_FALSE((*flags)->signals);
}

TEST(PreflightArgumentsTest, TooManyPeers_AreLeftOut) {
  v1::PreflightRequest request;
  for (int i = 0; i < 100; ++i) {
    request.add_peers();
    request.add_thresholds();
  }
  EXPECT_EQ(ArgumentsOf(request).size(), 1u + kMaxPreflightPeers + kMaxPreflightThresholds);
}

TEST(PreflightArgumentsTest, WrongPeerOrThreshold_IsRefusedByName) {
  for (const char* text : {"", "n1", "=host:1", "n1=host", "n1=host:99999"}) {
    EXPECT_FALSE(ParsePeer(text).ok()) << text;
  }
  for (const char* text : {"", "x", "x=1", "<=1", "x<=", "x>=nan", "x>=inf", "x<=1e"}) {
    EXPECT_FALSE(ParseThreshold(text).ok()) << text;
  }
}

TEST(PreflightFlagsTest, Signals_TakeTheirOwnOptions) {
  const char* const argv[] = {"fathom-preflight",      "--signals",
                              "--kernel-log-after=12", "--system-root=/x",
                              "--state-directory=/s",  "--nvml-library=/n.so"};
  const auto flags = ParsePreflightFlags(6, argv);
  ASSERT_TRUE(flags.ok()) << flags.status();
  EXPECT_TRUE((*flags)->signals);
  EXPECT_EQ((*flags)->probe.log_after, 12);
  EXPECT_EQ((*flags)->probe.root, "/x/");
  EXPECT_EQ((*flags)->probe.state_directory, "/s");
}

TEST(PreflightFlagsTest, WrongOption_IsRefused) {
  const char* const unknown[] = {"fathom-preflight", "--no-such"};
  EXPECT_EQ(ParsePreflightFlags(2, unknown).status().code(), absl::StatusCode::kInvalidArgument);
  const char* const range[] = {"fathom-preflight", "--memory-mb=0"};
  EXPECT_EQ(ParsePreflightFlags(2, range).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace fathom::health
