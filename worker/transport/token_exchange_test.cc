#include "worker/transport/token_exchange.h"

#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/transport/test_ranks.h"

namespace fathom::transport {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kMaxBytes = 3000;

// What `from` sends to `to` in an exchange of a lane: every rank can tell, of length 0 to the most.
std::string Message(int lane, int exchange, int from, int to) {
  std::mt19937 next(static_cast<uint32_t>(((lane * 101 + exchange) * 101 + from) * 101 + to));
  const uint32_t kind = next() % 4;
  const size_t length = kind == 0 ? 0 : kind == 1 ? kMaxBytes : next() % kMaxBytes;
  std::string message(length, '\0');
  for (char& c : message) c = static_cast<char>(next() >> 16);
  return message;
}

absl::Status PostAll(TokenExchange* lane, int lane_index, int exchange) {
  std::vector<std::string> messages;
  std::vector<absl::Span<const std::byte>> spans;
  for (int to = 0; to < lane->size(); ++to) {
    messages.push_back(Message(lane_index, exchange, lane->index(), to));
  }
  for (const std::string& m : messages) {
    spans.push_back({reinterpret_cast<const std::byte*>(m.data()), m.size()});
  }
  // `messages` goes on return, as Post allows.
  return lane->Post(spans);
}

void ExpectExchange(const std::vector<absl::Span<const std::byte>>& got, int lane_index,
                    int exchange, int self) {
  for (int from = 0; from < got.size(); ++from) {
    const std::string expected = Message(lane_index, exchange, from, self);
    EXPECT_EQ(std::string(reinterpret_cast<const char*>(got[from].data()), got[from].size()),
              expected)
        << "from " << from << " in exchange " << exchange;
  }
}

class TokenExchangeOver : public testing::TestWithParam<Placement> {};

TEST_P(TokenExchangeOver, TwoExchangesInFlightOnFourLanes_ArriveWholeAndInOrder) {
  constexpr int kLanes = 4;
  constexpr int kExchanges = 40;
  std::vector<int> members;
  for (int rank = 0; rank < GetParam().ranks(); ++rank) members.push_back(rank);
  std::vector<ChannelSpec> specs;
  for (int lane = 0; lane < kLanes; ++lane) {
    for (ChannelSpec& spec :
         TokenExchange::Channels("lane" + std::to_string(lane), members, kMaxBytes)) {
      specs.push_back(std::move(spec));
    }
  }
  const ChannelLayout layout = LayOutChannels(GetParam().ranks(), specs).value();
  RunRanks(GetParam(), SizesOf(layout), [&](Window& window) {
    ChannelSet channels(&window, layout);
    std::vector<TokenExchange> lanes;
    for (int lane = 0; lane < kLanes; ++lane) {
      lanes.emplace_back("lane" + std::to_string(lane), members, window.rank(), &channels);
      ASSERT_TRUE(PostAll(&lanes.back(), lane, 0).ok());
    }
    for (int exchange = 0; exchange < kExchanges; ++exchange) {
      for (int lane = 0; lane < kLanes; ++lane) {
        if (exchange + 1 < kExchanges) {
          ASSERT_TRUE(PostAll(&lanes[lane], lane, exchange + 1).ok());
        }
        const auto got = lanes[lane].Receive();
        ASSERT_TRUE(got.ok()) << got.status();
        ExpectExchange(*got, lane, exchange, window.rank());
        ASSERT_TRUE(lanes[lane].Release().ok());
      }
    }
  });
}

TEST_P(TokenExchangeOver, BothReceivedBeforeAnyRelease_StayReadable) {
  std::vector<int> members;
  for (int rank = GetParam().ranks() - 1; rank >= 0; --rank) members.push_back(rank);
  const ChannelLayout layout =
      LayOutChannels(GetParam().ranks(), TokenExchange::Channels("x", members, kMaxBytes)).value();
  RunRanks(GetParam(), SizesOf(layout), [&](Window& window) {
    ChannelSet channels(&window, layout);
    TokenExchange lane("x", members, window.rank(), &channels);
    for (int round = 0; round < 10; round += 2) {
      ASSERT_TRUE(PostAll(&lane, 0, round).ok());
      ASSERT_TRUE(PostAll(&lane, 0, round + 1).ok());
      const auto first = lane.Receive();
      const auto second = lane.Receive();
      ASSERT_TRUE(first.ok() && second.ok());
      ExpectExchange(*first, 0, round, lane.index());
      ExpectExchange(*second, 0, round + 1, lane.index());
      ASSERT_TRUE(lane.Release().ok());
      ExpectExchange(*second, 0, round + 1, lane.index());
      ASSERT_TRUE(lane.Release().ok());
    }
  });
}

INSTANTIATE_TEST_SUITE_P(All, TokenExchangeOver,
                         testing::Values(OneNode(1), OneNode(2), OneNode(4), OwnNodes(3),
                                         TwoNodes(4)),
                         [](const auto& test) { return test.param.name; });

TEST(TokenExchange, MessageBeyondTheMaximum_IsRefusedByName) {
  const ChannelLayout layout =
      LayOutChannels(2, TokenExchange::Channels("x", {0, 1}, kMaxBytes)).value();
  RunRanks(OneNode(2), SizesOf(layout), [&](Window& window) {
    ChannelSet channels(&window, layout);
    TokenExchange lane("x", {0, 1}, window.rank(), &channels);
    const std::vector<std::byte> big(kMaxBytes + 1);
    const absl::Status refused = lane.Post({big, big});
    EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(refused.message(), HasSubstr("exchange.x"));
  });
}

}  // namespace
}  // namespace fathom::transport
