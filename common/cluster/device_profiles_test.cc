#include "common/cluster/device_profiles.h"

#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <string>

#include "absl/strings/match.h"

namespace fathom::cluster {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

v1::DeviceProfile Profile(const std::string& kind) {
  const auto profile = FindProfile(kind);
  EXPECT_TRUE(profile.ok()) << profile.status();
  return profile.value_or(v1::DeviceProfile());
}

// Of the first rate of that op, format and groups; 0: none.
double RateOf(const v1::DeviceProfile& profile, const std::string& op, const std::string& format,
              int64_t groups, int64_t n = 0, int64_t k = 0) {
  for (const v1::MeasuredRate& rate : profile.rates()) {
    if (rate.op() == op && rate.format() == format && rate.groups() == groups &&
        (n == 0 || (rate.n() == n && rate.k() == k))) {
      return rate.rate();
    }
  }
  return 0;
}

TEST(DeviceProfilesTest, Kinds_AreThoseOfTheContract) {
  EXPECT_THAT(ProfileKinds(), ElementsAre("h800", "h100", "h20", "h200", "a100", "gb200-nvl72",
                                          "mi300x", "ascend-910c", "cloudmatrix-384", "cpu"));
}

TEST(DeviceProfilesTest, EveryProfile_IsSoundAndSourced) {
  for (const std::string& kind : ProfileKinds()) {
    const v1::DeviceProfile profile = Profile(kind);
    EXPECT_EQ(profile.kind(), kind);
    EXPECT_FALSE(profile.title().empty()) << kind;
    EXPECT_TRUE(CheckProfile(profile).ok()) << CheckProfile(profile);
    // A source speaks of a field there is, once, and of none that is left out.
    std::set<std::string> seen;
    for (const v1::Source& source : profile.sources()) {
      EXPECT_TRUE(seen.insert(source.figure()).second) << kind << " " << source.figure();
      const auto* field = profile.GetDescriptor()->FindFieldByName(source.figure());
      ASSERT_NE(field, nullptr) << kind << " " << source.figure();
      EXPECT_TRUE(profile.GetReflection()->HasField(profile, field)) << kind << source.figure();
    }
    // Each can run a whole model: products, attention, elementwise ops, exchanges.
    for (const char* op : {"gemm", "grouped_gemm", "attention_forward", "attention_backward",
                           "memory", "dispatch", "combine"}) {
      int rates = 0;
      for (const v1::MeasuredRate& rate : profile.rates()) rates += rate.op() == op ? 1 : 0;
      EXPECT_GT(rates, 0) << kind << " " << op;
    }
  }
}

// The figures of the DeepEP and DeepGEMM repositories.
TEST(DeviceProfilesTest, H800_HasThePublishedFigures) {
  const v1::DeviceProfile h800 = Profile("H800");
  EXPECT_EQ(RateOf(h800, "gemm", "e4m3", 0, 2112, 7168), 1058);
  EXPECT_EQ(RateOf(h800, "gemm", "e4m3", 0, 24576, 1536), 990);
  EXPECT_EQ(RateOf(h800, "gemm", "e4m3", 0, 32768, 512), 590);
  EXPECT_EQ(RateOf(h800, "gemm", "e4m3", 0, 7168, 16384), 1358);
  EXPECT_EQ(RateOf(h800, "gemm", "e4m3", 0, 4096, 7168), 1304);
  EXPECT_EQ(RateOf(h800, "gemm", "e4m3", 0, 7168, 2048), 1025);
  EXPECT_EQ(RateOf(h800, "grouped_gemm", "e4m3", 4, 4096, 7168), 1297);
  EXPECT_EQ(RateOf(h800, "grouped_gemm", "e4m3", 4, 7168, 2048), 1099);
  EXPECT_EQ(RateOf(h800, "grouped_gemm", "e4m3", 8, 4096, 7168), 1288);
  EXPECT_EQ(RateOf(h800, "grouped_gemm", "e4m3", 8, 7168, 2048), 1093);
  const double dispatch[] = {153, 43, 58, 51};
  const double combine[] = {158, 43, 57, 50};
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(RateOf(h800, "dispatch", "e4m3", 1 << i), dispatch[i]);
    EXPECT_EQ(RateOf(h800, "combine", "bf16", 1 << i), combine[i]);
  }
  EXPECT_EQ(h800.scale_up_effective_gigabytes_per_second(), 160);
  EXPECT_EQ(h800.communication_units(), 20);
  EXPECT_EQ(h800.dollars_per_device_hour(), 2);
}

TEST(DeviceProfilesTest, H800AgainstH100_DiffersInNvlinkAlone) {
  const v1::DeviceProfile h800 = Profile("h800");
  const v1::DeviceProfile h100 = Profile("h100");
  EXPECT_EQ(2 * h800.scale_up_gigabytes_per_second(), 400);
  EXPECT_EQ(2 * h100.scale_up_gigabytes_per_second(), 900);
  EXPECT_EQ(h800.bf16_tflops(), h100.bf16_tflops());
  EXPECT_EQ(h800.fp8_tflops(), h100.fp8_tflops());
  EXPECT_EQ(h800.memory_bytes(), h100.memory_bytes());
  EXPECT_EQ(h800.memory_gigabytes_per_second(), h100.memory_gigabytes_per_second());
  EXPECT_EQ(RateOf(h800, "gemm", "e4m3", 0), RateOf(h100, "gemm", "e4m3", 0));
  EXPECT_LT(RateOf(h800, "dispatch", "e4m3", 1), RateOf(h100, "dispatch", "e4m3", 1));
  EXPECT_EQ(RateOf(h800, "dispatch", "e4m3", 8), RateOf(h100, "dispatch", "e4m3", 8));
}

TEST(DeviceProfilesTest, RateTakenAfterH800_IsTheShareOfItsOwnPeakAndSaysSo) {
  const v1::DeviceProfile h20 = Profile("h20");
  EXPECT_NEAR(RateOf(h20, "gemm", "e4m3", 0, 7168, 16384), 1358 * 296.0 / 1979, 0.06);
  EXPECT_NEAR(RateOf(h20, "memory", "", 0), 3000 * 4000.0 / 3350, 0.06);
  for (const v1::MeasuredRate& rate : h20.rates()) {
    EXPECT_TRUE(absl::StartsWith(rate.source(), "assumed: ")) << rate.source();
    EXPECT_THAT(rate.source(), HasSubstr("NVIDIA H800 SXM"));
  }
  // No FP8 units, no FP8 rates.
  EXPECT_EQ(RateOf(Profile("a100"), "gemm", "e4m3", 0), 0);
  EXPECT_GT(RateOf(Profile("a100"), "gemm", "bf16", 0), 0);
}

TEST(DeviceProfilesTest, UnknownKind_NamesTheNearestOrAll) {
  EXPECT_THAT(FindProfile("h80").status().message(),
              ::testing::AnyOf(HasSubstr("did you mean h800?"), HasSubstr("did you mean h20?")));
  EXPECT_THAT(FindProfile("gb200-nvl-72").status().message(),
              HasSubstr("did you mean gb200-nvl72?"));
  EXPECT_THAT(FindProfile("trainium-nonesuch").status().message(),
              HasSubstr("there is h800, h100, h20"));
  EXPECT_TRUE(absl::IsInvalidArgument(FindProfile("").status()));
}

TEST(CheckProfileTest, WhatIsWrong_IsNamedWithWhatWouldDo) {
  const auto message = [](auto change) {
    v1::DeviceProfile profile = Profile("h800");
    change(profile);
    return std::string(CheckProfile(profile).message());
  };
  using P = v1::DeviceProfile;
  EXPECT_THAT(message([](P& p) { p.clear_kind(); }), HasSubstr("kind: missing"));
  EXPECT_THAT(message([](P& p) { p.set_bf16_tflops(0); }),
              HasSubstr("bf16_tflops: 0; give a positive number"));
  EXPECT_THAT(message([](P& p) { p.set_watts(-1); }), HasSubstr("watts: -1"));
  EXPECT_THAT(message([](P& p) { p.set_watts(1e300); }),
              HasSubstr("watts: 1e+300; give a number from 1e-06 to 1e+09"));
  EXPECT_THAT(message([](P& p) { p.mutable_rates(0)->set_rate(1e-300); }),
              HasSubstr("rate: 1e-300; give a number from 1e-06"));
  EXPECT_THAT(message([](P& p) { p.set_memory_bytes(-5); }), HasSubstr("memory_bytes: -5"));
  EXPECT_THAT(message([](P& p) { p.set_launch_us(std::nan("")); }), HasSubstr("launch_us: nan"));
  EXPECT_THAT(message([](P& p) { p.clear_sources(); }), HasSubstr("bf16_tflops: 989.5 has no"));
  EXPECT_THAT(message([](P& p) { p.set_scale_up_effective_gigabytes_per_second(201); }),
              HasSubstr("give at most 200"));
  EXPECT_THAT(message([](P& p) { p.set_communication_units(132); }),
              HasSubstr("leaves none of 132"));
  EXPECT_THAT(message([](P& p) { p.mutable_rates(0)->set_op("gem"); }), HasSubstr("op: \"gem\""));
  EXPECT_THAT(message([](P& p) { p.mutable_rates(0)->set_format("fp4"); }),
              HasSubstr("format: \"fp4\""));
  EXPECT_THAT(message([](P& p) { p.mutable_rates(0)->set_rate(0); }), HasSubstr("rate: 0"));
  EXPECT_THAT(message([](P& p) { p.mutable_rates(0)->set_rate(2500); }),
              HasSubstr("above the device's peak; give at most 1979"));
  EXPECT_THAT(message([](P& p) { p.mutable_rates(0)->set_k(0); }), HasSubstr("give all three"));
  EXPECT_THAT(message([](P& p) { p.mutable_rates(0)->set_m(-4); }), HasSubstr("below 0"));
  EXPECT_THAT(message([](P& p) { p.mutable_rates(0)->set_op("dispatch"); }),
              HasSubstr("groups: missing; say over how many scale-up domains"));
  EXPECT_THAT(message([](P& p) { p.set_fp8_tflops(0); }),
              HasSubstr("format: the device has no fp8_tflops"));
  EXPECT_THAT(message([](P& p) { p.mutable_rates(0)->clear_source(); }),
              HasSubstr("rates[0] (gemm e4m3): source: missing"));
}

TEST(CheckProfileTest, MeasuredTimes_AreNumbersOfAMachine) {
  const auto message = [](auto change) {
    v1::DeviceProfile profile = Profile("cpu");
    v1::OpTime& op = *profile.mutable_op_times()->add_ops();
    op.set_op("Gemm");
    op.set_format("fp32");
    for (const double bytes : {1e3, 1e6}) {
      v1::CacheFactor& cache = *op.add_cache();
      cache.set_bytes(bytes);
      cache.set_factor(1);
    }
    change(*profile.mutable_op_times());
    return std::string(CheckProfile(profile).message());
  };
  using T = v1::OpTimes;
  EXPECT_EQ(message([](T&) {}), "");
  EXPECT_THAT(message([](T& t) { t.mutable_ops(0)->set_fixed_seconds(-1e-9); }),
              HasSubstr("op_times.ops[0] (Gemm fp32).fixed_seconds: -1e-09; give a number from 0"));
  EXPECT_THAT(message([](T& t) { t.mutable_ops(0)->set_seconds_per_flop(1e300); }),
              HasSubstr("seconds_per_flop: 1e+300"));
  EXPECT_THAT(message([](T& t) { t.mutable_ops(0)->mutable_cache(1)->set_factor(-2); }),
              HasSubstr("(Gemm fp32).cache[1].factor: -2"));
  EXPECT_THAT(message([](T& t) { t.mutable_ops(0)->mutable_cache(1)->set_bytes(10); }),
              HasSubstr("cache[1].bytes: 10; give sizes in ascending order"));
  EXPECT_THAT(message([](T& t) { t.set_busy_slowdown(std::nan("")); }),
              HasSubstr("op_times.busy_slowdown: nan"));
  EXPECT_THAT(message([](T& t) { t.set_cores(-2); }), HasSubstr("op_times.cores: -2"));
}

}  // namespace
}  // namespace fathom::cluster
