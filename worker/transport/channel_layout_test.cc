#include "worker/transport/channel_layout.h"

#include <algorithm>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace fathom::transport {
namespace {

using ::testing::HasSubstr;

std::vector<ChannelSpec> RandomSpecs(uint32_t seed, int ranks) {
  std::mt19937 next(seed);
  std::vector<ChannelSpec> specs;
  for (int i = 0; i < 60; ++i) {
    const int from = static_cast<int>(next() % ranks);
    const int to = (from + 1 + static_cast<int>(next() % (ranks - 1))) % ranks;
    specs.push_back({"c" + std::to_string(i), from, to, 1 + static_cast<int>(next() % 4),
                     next() % 3 == 0 ? next() % 3 : next() % 5000});
  }
  return specs;
}

TEST(LayOutChannels, AnyList_GivesEachChannelItsOwnAlignedRingAndSignals) {
  for (uint32_t seed = 0; seed < 50; ++seed) {
    SCOPED_TRACE(seed);
    const int ranks = 2 + static_cast<int>(seed % 7);
    const std::vector<ChannelSpec> specs = RandomSpecs(seed, ranks);
    const ChannelLayout layout = LayOutChannels(ranks, specs).value();
    ASSERT_EQ(layout.channels.size(), specs.size());
    ASSERT_EQ(layout.window_bytes.size(), ranks);
    std::vector<std::vector<std::pair<uint64_t, uint64_t>>> rings(ranks);
    std::vector<std::set<uint32_t>> signals(ranks);
    for (size_t i = 0; i < specs.size(); ++i) {
      const ChannelPlace& place = layout.channels[i];
      EXPECT_EQ(place.spec.name, specs[i].name);
      EXPECT_EQ(place.ring_offset % 64, 0);
      EXPECT_EQ(SlotStride(place.spec) % 64, 0);
      EXPECT_GE(SlotStride(place.spec), kSlotHeaderBytes + specs[i].slot_bytes);
      const uint64_t bytes = SlotStride(place.spec) * static_cast<uint64_t>(specs[i].slots);
      rings[specs[i].to].push_back({place.ring_offset, place.ring_offset + bytes});
      EXPECT_TRUE(signals[specs[i].to].insert(place.arrived_signal).second);
      EXPECT_TRUE(signals[specs[i].from].insert(place.credit_signal).second);
    }
    for (int rank = 0; rank < ranks; ++rank) {
      std::sort(rings[rank].begin(), rings[rank].end());
      uint64_t end = 0;
      for (const auto& [ring_begin, ring_end] : rings[rank]) {
        EXPECT_GE(ring_begin, end);
        end = ring_end;
      }
      EXPECT_LE(end, layout.window_bytes[rank]);
      if (!signals[rank].empty()) {
        EXPECT_LT(*signals[rank].rbegin(), layout.signal_count[rank]);
      }
    }
  }
}

TEST(LayOutChannels, NoChannels_NeedNoMemory) {
  const ChannelLayout layout = LayOutChannels(1, {}).value();
  EXPECT_EQ(layout.window_bytes, std::vector<uint64_t>{0});
  EXPECT_EQ(layout.signal_count, std::vector<uint32_t>{0});
}

TEST(LayOutChannels, OneNameBetweenDifferentPairs_IsFine) {
  EXPECT_TRUE(LayOutChannels(3, {{"a", 0, 1, 2, 8}, {"a", 1, 0, 2, 8}, {"a", 0, 2, 2, 8}}).ok());
}

TEST(LayOutChannels, ContradictoryLists_AreRefusedWithTheReason) {
  const auto refusal = [](int ranks, std::vector<ChannelSpec> specs) {
    const absl::Status status = LayOutChannels(ranks, std::move(specs)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    return std::string(status.message());
  };
  EXPECT_THAT(refusal(0, {}), HasSubstr("0 ranks"));
  EXPECT_THAT(refusal(2, {{"x", 0, 2, 1, 8}}), HasSubstr("channel x from rank 0 to 2"));
  EXPECT_THAT(refusal(2, {{"x", -1, 1, 1, 8}}), HasSubstr("has 2 ranks"));
  EXPECT_THAT(refusal(2, {{"x", 1, 1, 1, 8}}), HasSubstr("to itself"));
  EXPECT_THAT(refusal(2, {{"x", 0, 1, 0, 8}}), HasSubstr("0 slots"));
  EXPECT_THAT(refusal(2, {{"x", 0, 1, 1, 8}, {"x", 0, 1, 2, 9}}), HasSubstr("listed twice"));
  EXPECT_THAT(refusal(2, {{"x", 0, 1, 1, UINT64_MAX}}), HasSubstr("window larger than"));
  EXPECT_THAT(refusal(2, {{"x", 0, 1, 1 << 30, uint64_t{1} << 40}}), HasSubstr("larger than"));
}

}  // namespace
}  // namespace fathom::transport
