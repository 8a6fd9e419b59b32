#include "common/data/batch_sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

namespace fathom::data {
namespace {

TEST(WindowCountTest, WindowsAndTheirLabels_FitTheTokens) {
  const WindowShape plain{8, 0};
  EXPECT_EQ(WindowCount(0, plain), 0);
  EXPECT_EQ(WindowCount(8, plain), 0);
  EXPECT_EQ(WindowCount(9, plain), 1);
  EXPECT_EQ(WindowCount(16, plain), 1);
  EXPECT_EQ(WindowCount(17, plain), 2);
  const WindowShape with_mtp{8, 1};
  EXPECT_EQ(WindowCount(9, with_mtp), 0);
  EXPECT_EQ(WindowCount(10, with_mtp), 1);
  EXPECT_EQ(WindowCount(17, with_mtp), 1);
  EXPECT_EQ(WindowCount(18, with_mtp), 2);
  for (int64_t tokens = 0; tokens < 200; ++tokens) {
    const int64_t windows = WindowCount(tokens, with_mtp);
    EXPECT_LE((windows - 1) * 8 + 10, windows > 0 ? tokens : 2) << tokens;
    EXPECT_GT(windows * 8 + 10, tokens) << tokens;
  }
}

TEST(PermuteTest, EveryCountAndKey_IsABijection) {
  for (const uint64_t key : {0ull, 1ull, 0xFFFFFFFFFFFFFFFFull, 0x123456789ull}) {
    for (int64_t count = 1; count <= 300; ++count) {
      std::vector<bool> seen(static_cast<size_t>(count));
      for (int64_t i = 0; i < count; ++i) {
        const int64_t to = Permute(i, count, key);
        ASSERT_TRUE(to >= 0 && to < count) << i << " of " << count;
        ASSERT_FALSE(seen[static_cast<size_t>(to)]) << i << " of " << count;
        seen[static_cast<size_t>(to)] = true;
      }
    }
  }
}

TEST(PermuteTest, HugeCount_StaysWithin) {
  const int64_t count = (int64_t{1} << 61) + 7;
  std::set<int64_t> seen;
  for (int64_t i = 0; i < 1000; ++i) {
    const int64_t to = Permute(count - 1 - i, count, 42);
    ASSERT_TRUE(to >= 0 && to < count);
    seen.insert(to);
  }
  EXPECT_EQ(seen.size(), 1000u);
}

// Mean distance of neighbours: a third of the count for a random order, 1 for an ordered one.
TEST(PermuteTest, Neighbours_AreFarApart) {
  constexpr int64_t kCount = 5000;
  double sum = 0;
  for (int64_t i = 0; i + 1 < kCount; ++i) {
    sum += std::abs(static_cast<double>(Permute(i + 1, kCount, 9) - Permute(i, kCount, 9)));
  }
  EXPECT_NEAR(sum / (kCount - 1), kCount / 3.0, kCount / 20.0);
}

TEST(TrainingWindowTest, OnePass_SeesEveryWindowOnce) {
  constexpr int64_t kWindows = 97;
  for (int64_t pass = 0; pass < 4; ++pass) {
    std::set<int64_t> seen;
    for (int64_t i = 0; i < kWindows; ++i) {
      seen.insert(TrainingWindow(5, pass * kWindows + i, kWindows));
    }
    EXPECT_EQ(seen.size(), static_cast<size_t>(kWindows));
  }
}

TEST(TrainingWindowTest, SeedAndPass_ChangeTheOrder) {
  constexpr int64_t kWindows = 1000;
  const auto order = [](uint64_t seed, int64_t pass) {
    std::vector<int64_t> windows;
    for (int64_t i = 0; i < kWindows; ++i) {
      windows.push_back(TrainingWindow(seed, pass * kWindows + i, kWindows));
    }
    return windows;
  };
  EXPECT_EQ(order(1, 0), order(1, 0));
  EXPECT_NE(order(1, 0), order(2, 0));
  EXPECT_NE(order(1, 0), order(1, 1));
}

TEST(TrainingWindowTest, Step_CountsSamplesThroughTheJob) {
  for (int64_t step = 0; step < 50; ++step) {
    for (int64_t index = 0; index < 6; ++index) {
      EXPECT_EQ(TrainingWindow(3, step, 6, index, 41), TrainingWindow(3, step * 6 + index, 41));
    }
  }
}

// Recorded once: a change of the order makes every earlier run unrepeatable.
TEST(TrainingWindowTest, Order_IsTheRecordedOne) {
  std::vector<int64_t> order;
  for (int64_t i = 0; i < 8; ++i) order.push_back(TrainingWindow(1, i, 1000));
  EXPECT_THAT(order, testing::ElementsAre(182, 396, 579, 851, 900, 774, 79, 91));
}

TEST(FillSequenceTest, Window_IsItsInputsAndTheLabelsAfter) {
  const std::string path = testing::TempDir() + "/fill.tokens";
  auto writer = TokenFileWriter::Create(path, TokenizerKind::kBytes, 257, 256);
  ASSERT_TRUE(writer.ok()) << writer.status();
  std::vector<int32_t> ramp;
  for (int32_t i = 0; i < 30; ++i) ramp.push_back(i);
  ASSERT_TRUE(writer->AddDocument(Split::kTraining, ramp).ok());
  ASSERT_TRUE(writer->AddDocument(Split::kValidation, {9, 8, 7, 6, 5, 4}).ok());
  ASSERT_TRUE(writer->Finish(0, 0, "").ok());
  const auto file = TokenFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();

  const WindowShape shape{4, 1};
  std::vector<int32_t> out(static_cast<size_t>(shape.tokens()));
  ASSERT_TRUE(FillSequence(*file, Split::kTraining, 3, shape, absl::MakeSpan(out)).ok());
  EXPECT_THAT(out, testing::ElementsAre(12, 13, 14, 15, 16, 17));
  ASSERT_TRUE(FillSequence(*file, Split::kValidation, 0, shape, absl::MakeSpan(out)).ok());
  EXPECT_THAT(out, testing::ElementsAre(9, 8, 7, 6, 5, 4));
  const int64_t windows = WindowCount(file->tokens(Split::kTraining), shape);
  EXPECT_TRUE(FillSequence(*file, Split::kTraining, windows - 1, shape, absl::MakeSpan(out)).ok());
  EXPECT_TRUE(absl::IsOutOfRange(
      FillSequence(*file, Split::kTraining, windows, shape, absl::MakeSpan(out))));
}

}  // namespace
}  // namespace fathom::data
