#include "worker/engine/step_timeline.h"

#include <gtest/gtest.h>

#include "common/base/manual_clock.h"
#include "worker/engine/step_meter.h"

namespace fathom::engine {
namespace {

schedule::Instruction Pair() {
  return {{schedule::OpKind::kForward, 0, 3}, {schedule::OpKind::kBackward, 1, 1}, true};
}

TEST(StepTimelineTest, RecordedStep_EntriesFollowEachOtherToTheEnd) {
  ManualClock clock(absl::FromUnixSeconds(1));
  StepMeter meter(&clock);
  meter.BeginTimeline();
  meter.At("read samples");
  clock.Advance(absl::Milliseconds(5));
  meter.At(Pair());
  {
    const StepMeter::Scope pair(&meter, Part::kOverlapped);
    const StepMeter::Scope wait(&meter, Part::kWait);
    clock.Advance(absl::Milliseconds(30));
  }
  clock.Advance(absl::Milliseconds(10));
  const v1::RankTimes times = meter.EndTimeline(clock.Wall());

  ASSERT_EQ(times.instructions_size(), 2);
  EXPECT_EQ(times.begin_us(), 1000000);
  EXPECT_EQ(times.instructions(0).what(), "read samples");
  EXPECT_DOUBLE_EQ(times.instructions(0).start_s(), 0);
  EXPECT_DOUBLE_EQ(times.instructions(0).end_s(), 0.005);
  EXPECT_EQ(times.instructions(1).what(), "F0.3|B1.1");
  EXPECT_DOUBLE_EQ(times.instructions(1).start_s(), 0.005);
  EXPECT_DOUBLE_EQ(times.instructions(1).end_s(), 0.045);
  EXPECT_DOUBLE_EQ(times.instructions(1).wait_s(), 0.03);
}

TEST(StepTimelineTest, OtherSteps_RecordNothing) {
  ManualClock clock(absl::FromUnixSeconds(1));
  StepMeter meter(&clock);
  meter.At("read samples");
  meter.BeginTimeline();
  meter.At(Pair());
  EXPECT_EQ(meter.EndTimeline(clock.Wall()).instructions_size(), 1);
  meter.At("reduce gradients");
  EXPECT_FALSE(meter.recording());
  meter.BeginTimeline();
  EXPECT_EQ(meter.EndTimeline(clock.Wall()).instructions_size(), 0);
}

}  // namespace
}  // namespace fathom::engine
