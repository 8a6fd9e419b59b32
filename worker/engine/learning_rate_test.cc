#include "worker/engine/learning_rate.h"

#include <gtest/gtest.h>

namespace fathom::engine {
namespace {

v1::Training Settings() {
  v1::Training training;
  training.set_steps(100);
  training.set_learning_rate(1.0);
  training.set_final_learning_rate(0.1);
  training.set_warmup_steps(10);
  training.set_constant_steps(30);
  return training;
}

TEST(LearningRate, DuringWarmup_RisesLinearlyToThePeak) {
  const v1::Training training = Settings();
  for (int step = 1; step <= 10; ++step)
    EXPECT_DOUBLE_EQ(LearningRate(training, step), step / 10.0);
}

TEST(LearningRate, BetweenWarmupAndDecay_IsThePeak) {
  EXPECT_DOUBLE_EQ(LearningRate(Settings(), 11), 1.0);
  EXPECT_DOUBLE_EQ(LearningRate(Settings(), 40), 1.0);
}

TEST(LearningRate, DuringDecay_FallsToTheFinalRateWithHalfwayInTheMiddle) {
  const v1::Training training = Settings();
  EXPECT_NEAR(LearningRate(training, 70), 0.55, 1e-12);
  EXPECT_NEAR(LearningRate(training, 100), 0.1, 1e-12);
  for (int step = 41; step <= 100; ++step) {
    EXPECT_LT(LearningRate(training, step), LearningRate(training, step - 1) + 1e-15);
  }
}

TEST(LearningRate, WithoutWarmup_BeginsAtThePeak) {
  v1::Training training = Settings();
  training.set_warmup_steps(0);
  EXPECT_DOUBLE_EQ(LearningRate(training, 1), 1.0);
}

}  // namespace
}  // namespace fathom::engine
