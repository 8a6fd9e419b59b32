#include "worker/engine/expert_balance.h"

#include <gtest/gtest.h>

#include <vector>

namespace fathom::engine {
namespace {

TEST(UpdateRouterBias, UnequalLoads_MoveEachBiasBySpeedTowardsTheMean) {
  std::vector<float> bias = {0, 1, 2, -1};
  UpdateRouterBias({10, 2, 6, 6}, 0.5, absl::MakeSpan(bias));
  EXPECT_EQ(bias, (std::vector<float>{-0.5, 1.5, 2, -1}));
}

TEST(UpdateRouterBias, NoLoadAtAll_ChangesNothing) {
  std::vector<float> bias = {0.25, -0.25};
  UpdateRouterBias({0, 0}, 0.5, absl::MakeSpan(bias));
  EXPECT_EQ(bias, (std::vector<float>{0.25, -0.25}));
}

TEST(MaxViolation, OneExpertTakesAll_IsExpertsMinusOne) {
  EXPECT_DOUBLE_EQ(MaxViolation({8, 0, 0, 0}), 3);
  EXPECT_DOUBLE_EQ(MaxViolation({2, 2}), 0);
  EXPECT_DOUBLE_EQ(MaxViolation({}), 0);
  EXPECT_DOUBLE_EQ(MaxViolation({0, 0}), 0);
}

}  // namespace
}  // namespace fathom::engine
