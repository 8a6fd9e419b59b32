#include "cli/timeline_fetch.h"

#include <gtest/gtest.h>

#include "cli/common_start.h"

namespace fathom::cli {
namespace {

v1::Timeline TimelineOf(int rank, int64_t step, int64_t begin_us, double seconds) {
  v1::Timeline timeline;
  timeline.set_job("a-1");
  timeline.set_epoch(1);
  timeline.set_step(step);
  v1::RankTimes& times = *timeline.add_ranks();
  times.set_rank(rank);
  times.set_begin_us(begin_us);
  v1::TimedInstruction& timed = *times.add_instructions();
  timed.set_what("F0.0");
  timed.set_start_s(0.25 * seconds);
  timed.set_end_s(seconds);
  return timeline;
}

TEST(JoinTimelinesTest, RanksOfOneClock_CountFromTheFirstOnesBeginning) {
  const auto joined =
      JoinTimelines({TimelineOf(0, 7, 2'000'100, 1.0), TimelineOf(1, 7, 2'000'000, 1.0)});
  ASSERT_TRUE(joined.ok()) << joined.status();
  ASSERT_EQ(joined->ranks_size(), 2);
  EXPECT_EQ(joined->step(), 7);
  EXPECT_NEAR(joined->ranks(0).instructions(0).start_s(), 0.2501, 1e-12);
  EXPECT_NEAR(joined->ranks(0).instructions(0).end_s(), 1.0001, 1e-12);
  EXPECT_NEAR(joined->ranks(1).instructions(0).start_s(), 0.25, 1e-12);
}

TEST(JoinTimelinesTest, JoinedTimes_AreNotMovedAgainByPictures) {
  const auto joined =
      JoinTimelines({TimelineOf(0, 7, 2'100'000, 1.0), TimelineOf(1, 7, 2'000'000, 1.0)});
  ASSERT_TRUE(joined.ok()) << joined.status();
  const v1::Timeline drawn = WithCommonStart(*joined);
  EXPECT_NEAR(drawn.ranks(0).instructions(0).start_s(), 0.35, 1e-12);
  EXPECT_NEAR(drawn.ranks(1).instructions(0).start_s(), 0.25, 1e-12);
}

TEST(JoinTimelinesTest, ClocksFarApart_EachCountsFromItsOwnBeginning) {
  const auto joined =
      JoinTimelines({TimelineOf(0, 7, 9'000'000, 1.0), TimelineOf(1, 7, 2'000'000, 1.0)});
  ASSERT_TRUE(joined.ok()) << joined.status();
  EXPECT_DOUBLE_EQ(joined->ranks(0).instructions(0).start_s(), 0.25);
  EXPECT_DOUBLE_EQ(joined->ranks(1).instructions(0).start_s(), 0.25);
}

TEST(JoinTimelinesTest, DifferentSteps_AreToBeFetchedAgain) {
  const auto joined = JoinTimelines({TimelineOf(0, 7, 0, 1.0), TimelineOf(1, 9, 0, 1.0)});
  EXPECT_EQ(joined.status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST(JoinTimelinesTest, NoRanks_AreRefused) {
  EXPECT_EQ(JoinTimelines({}).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace fathom::cli
