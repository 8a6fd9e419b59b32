#include "worker/engine/rank_progress.h"

#include "common/base/manual_clock.h"
#include "gtest/gtest.h"

namespace fathom::engine {
namespace {

using schedule::Op;
using schedule::OpKind;

TEST(RankProgress, InstructionsAndLiterals_AreToldAsTheyWereEnteredWithTheTimeSince) {
  ManualClock clock;
  RankProgress progress(&clock);
  EXPECT_EQ(progress.Read().what, "wait for orders");
  progress.SetStepsDone(41);
  clock.Advance(absl::Seconds(5));
  progress.At("gather weights");
  clock.Advance(absl::Seconds(3));
  EXPECT_EQ(progress.Read().what, "gather weights");
  EXPECT_EQ(progress.Read().since, absl::Seconds(3));
  EXPECT_EQ(progress.Read().steps_done, 41);

  for (const schedule::Instruction& instruction : {
           schedule::Instruction{Op{OpKind::kForward, 1, 3, 0}, Op{OpKind::kBackward, 0, 2, 0},
                                 /*overlapped=*/true},
           schedule::Instruction{Op{OpKind::kBackwardInput, 0, 4194303, 63}, Op{}, false},
           schedule::Instruction{Op{OpKind::kWeight, 1, 7, 1}, Op{}, false},
           schedule::Instruction{},
       }) {
    progress.At(instruction);
    EXPECT_EQ(progress.Read().what, schedule::ToString(instruction));
    EXPECT_EQ(progress.Read().since, absl::ZeroDuration());
  }
}

}  // namespace
}  // namespace fathom::engine
