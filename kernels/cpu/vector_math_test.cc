#include "kernels/cpu/vector_math.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace fathom::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(ExpTest, WholeRange_IsWithinTwoRoundings) {
  double worst = 0;
  for (float x = -87.29f; x < 88.29f; x += 0.00037f) {
    const double want = std::exp(static_cast<double>(x));
    worst = std::max(worst, std::fabs(Exp(x) - want) / want);
  }
  EXPECT_LT(worst, 2e-7);
  EXPECT_GT(worst, 0);
}

TEST(ExpTest, EdgesOfTheRange_AreZeroInfinityAndNan) {
  EXPECT_EQ(Exp(0.0f), 1.0f);
  EXPECT_EQ(Exp(-0.0f), 1.0f);
  EXPECT_EQ(Exp(-88.0f), 0.0f);
  EXPECT_EQ(Exp(-kInfinity), 0.0f);
  EXPECT_EQ(Exp(89.0f), kInfinity);
  EXPECT_EQ(Exp(kInfinity), kInfinity);
  EXPECT_TRUE(std::isnan(Exp(std::numeric_limits<float>::quiet_NaN())));
  EXPECT_EQ(Exp(1e-20f), 1.0f);
}

TEST(SigmoidTest, WholeRange_IsWithinThreeRoundings) {
  double worst = 0;
  for (float x = -86.0f; x < 100.0f; x += 0.0011f) {
    const double want = 1 / (1 + std::exp(-static_cast<double>(x)));
    worst = std::max(worst, std::fabs(Sigmoid(x) - want) / want);
  }
  EXPECT_LT(worst, 3e-7);
  EXPECT_EQ(Sigmoid(-200.0f), 0.0f);
  EXPECT_EQ(Sigmoid(200.0f), 1.0f);
  EXPECT_EQ(Sigmoid(0.0f), 0.5f);
}

TEST(SumTest, AnyLength_TakesEveryTermOnce) {
  for (int64_t n = 0; n < 200; ++n) {
    const auto term = [](int64_t i) { return static_cast<float>(i + 1); };
    EXPECT_EQ(SumOf<float>(n, term), n * (n + 1) / 2) << n;
    EXPECT_EQ(SumOf<double>(n, term), n * (n + 1) / 2) << n;
    EXPECT_EQ(MaxOf(n, 0.5f, term), n == 0 ? 0.5f : static_cast<float>(n)) << n;
    EXPECT_EQ(MaxOf(n, -1000.0f, [](int64_t i) { return -static_cast<float>(i); }),
              n == 0 ? -1000.0f : 0.0f);
  }
}

TEST(MaxTest, Nan_IsPassedOver) {
  for (const int64_t at : {0, 5, 31, 32, 63, 69}) {
    EXPECT_EQ(MaxOf(70, 0.0f,
                    [at](int64_t i) { return i == at ? std::nanf("") : static_cast<float>(i); }),
              at == 69 ? 68.0f : 69.0f);
  }
}

}  // namespace
}  // namespace fathom::kernels
