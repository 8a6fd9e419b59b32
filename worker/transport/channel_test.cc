#include "worker/transport/channel.h"

#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "common/base/manual_clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/transport/faulty_window.h"
#include "worker/transport/metered_window.h"
#include "worker/transport/test_ranks.h"

namespace fathom::transport {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

absl::Span<const std::byte> AsBytes(const std::string& s) {
  return {reinterpret_cast<const std::byte*>(s.data()), s.size()};
}

std::string AsText(absl::Span<const std::byte> bytes) {
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

constexpr uint64_t kSlotBytes = 1000;

ChannelLayout Pair(int slots = 2) {
  return LayOutChannels(2, {{"there", 0, 1, slots, kSlotBytes}, {"back", 1, 0, slots, kSlotBytes}})
      .value();
}

class ChannelOver : public testing::TestWithParam<Placement> {};

TEST_P(ChannelOver, MessagesOfAnyLength_KeepLengthOrderAndContent) {
  const ChannelLayout layout = Pair();
  RunRanks(GetParam(), SizesOf(layout), [&](Window& window) {
    ChannelSet channels(&window, layout);
    std::mt19937 next(3);
    for (int i = 0; i < 500; ++i) {
      const size_t length = i == 7 ? 0 : i == 8 ? kSlotBytes : next() % (kSlotBytes + 1);
      const std::string message(length, static_cast<char>('a' + i % 26));
      if (window.rank() == 0) {
        const size_t cut = length / 3;
        const absl::Status sent =
            i % 2 == 0 ? channels.sender("there", 1)->Send(AsBytes(message))
                       : channels.sender("there", 1)
                             ->SendPieces(
                                 {AsBytes(message).first(cut), {}, AsBytes(message).subspan(cut)});
        ASSERT_TRUE(sent.ok()) << sent;
      } else {
        const auto got = channels.receiver("there", 0)->Receive();
        ASSERT_TRUE(got.ok()) << got.status();
        ASSERT_EQ(AsText(*got), message);
        EXPECT_EQ(reinterpret_cast<uintptr_t>(got->data()) % 64, 0);
        ASSERT_TRUE(channels.receiver("there", 0)->Release().ok());
      }
    }
  });
}

TEST_P(ChannelOver, HeldMessages_StayUntilReleased) {
  const ChannelLayout layout = Pair(3);
  RunRanks(GetParam(), SizesOf(layout), [&](Window& window) {
    ChannelSet channels(&window, layout);
    if (window.rank() == 0) {
      for (const char* text : {"one", "two", "three", "four", "five"}) {
        ASSERT_TRUE(channels.sender("there", 1)->Send(AsBytes(text)).ok());
      }
      return;
    }
    ChannelReceiver* receiver = channels.receiver("there", 0);
    const auto one = receiver->Receive();
    const auto two = receiver->Receive();
    const auto three = receiver->Receive();
    ASSERT_TRUE(one.ok() && two.ok() && three.ok());
    ASSERT_TRUE(receiver->Release().ok());
    const auto four = receiver->Receive();
    ASSERT_TRUE(four.ok());
    EXPECT_EQ(AsText(*two) + AsText(*three) + AsText(*four), "twothreefour");
    ASSERT_TRUE(receiver->Release().ok());
    EXPECT_EQ(AsText(receiver->Receive().value()), "five");
  });
}

INSTANTIATE_TEST_SUITE_P(All, ChannelOver, testing::Values(OneNode(2), OwnNodes(2)),
                         [](const auto& test) { return test.param.name; });

TEST(Channel, MessageLongerThanASlot_IsRefusedAndTheChannelGoesOn) {
  const ChannelLayout layout = Pair();
  RunRanks(OneNode(2), SizesOf(layout), [&](Window& window) {
    ChannelSet channels(&window, layout);
    if (window.rank() == 0) {
      const std::string big(kSlotBytes + 1, 'x');
      const absl::Status refused = channels.sender("there", 1)->Send(AsBytes(big));
      EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
      EXPECT_THAT(refused.message(), HasSubstr("channel there from rank 0 to 1"));
      EXPECT_TRUE(channels.sender("there", 1)->Send(AsBytes("fits")).ok());
    } else {
      EXPECT_EQ(AsText(channels.receiver("there", 0)->Receive().value()), "fits");
    }
  });
}

TEST(Channel, SenderThatLiesAboutALength_IsDataLossNotAWildRead) {
  const ChannelLayout layout = Pair();
  RunRanks(OneNode(2), SizesOf(layout), [&](Window& window) {
    const ChannelPlace& place = layout.channels[0];
    if (window.rank() == 0) {
      const uint64_t lie = uint64_t{1} << 60;
      ASSERT_TRUE(
          window.Put(1, place.ring_offset, {reinterpret_cast<const std::byte*>(&lie), 8}).ok());
      ASSERT_TRUE(window.Signal(1, place.arrived_signal).ok());
    } else {
      ChannelReceiver receiver(&window, place);
      EXPECT_EQ(receiver.Receive().status().code(), absl::StatusCode::kDataLoss);
    }
  });
}

TEST(Channel, ReceiverThatNeverReleases_EndsTheSendAtItsDeadline) {
  const ChannelLayout layout = Pair();
  WindowSizes sizes = SizesOf(layout);
  sizes.wait_timeout = absl::Milliseconds(30);
  RunRanks(OneNode(2), sizes, [&](Window& window) {
    if (window.rank() != 0) return;
    ChannelSet channels(&window, layout);
    EXPECT_TRUE(channels.sender("there", 1)->Send(AsBytes("1")).ok());
    EXPECT_TRUE(channels.sender("there", 1)->Send(AsBytes("2")).ok());
    const absl::Status late = channels.sender("there", 1)->Send(AsBytes("3"));
    EXPECT_EQ(late.code(), absl::StatusCode::kDeadlineExceeded);
    EXPECT_THAT(late.message(),
                AllOf(HasSubstr("channel there from rank 0 to 1"), HasSubstr("rank 1 on node a")));
  });
}

TEST_P(ChannelOver, Ready_SaysWhetherSendAndReceiveWouldWait) {
  const ChannelLayout layout =
      *LayOutChannels(2, {{"both", 0, 1, 2, 8}, {"go", 0, 1, 1, 8}, {"back", 1, 0, 1, 8}});
  RunRanks(GetParam(), SizesOf(layout), [&](Window& window) {
    ChannelSet channels(&window, layout);
    if (window.rank() == 0) {
      ChannelSender* out = channels.sender("both", 1);
      for (int i = 0; i < 2; ++i) {
        EXPECT_TRUE(*out->Ready());
        ASSERT_TRUE(out->Send({}).ok());
      }
      EXPECT_FALSE(*out->Ready());
      ASSERT_TRUE(channels.sender("go", 1)->Send({}).ok());
      ASSERT_TRUE(channels.receiver("back", 1)->Receive().ok());
      EXPECT_TRUE(*out->Ready());
    } else {
      ChannelReceiver* in = channels.receiver("both", 0);
      ASSERT_TRUE(channels.receiver("go", 0)->Receive().ok());
      ASSERT_TRUE(in->Receive().ok());
      ASSERT_TRUE(in->Receive().ok());
      EXPECT_FALSE(*in->Ready());
      EXPECT_TRUE(in->Release().ok());
      ASSERT_TRUE(channels.sender("back", 0)->Send({}).ok());
    }
  });
}

TEST(ChannelSetDeathTest, ChannelOutsideTheLayout_IsABrokenInvariant) {
  const ChannelLayout layout = LayOutChannels(1, {}).value();
  RunRanks(OneNode(1), SizesOf(layout), [&](Window& window) {
    ChannelSet channels(&window, layout);
    EXPECT_DEATH(channels.sender("nowhere", 0), "no channel nowhere to rank 0");
    EXPECT_DEATH(channels.receiver("nowhere", 0), "no channel nowhere from rank 0");
  });
}

TEST(MeteredWindow, Traffic_IsCountedByPeerAndTimedByTheGivenClock) {
  ManualClock clock;
  const auto wrap = [&](std::unique_ptr<Window> window) -> std::unique_ptr<Window> {
    return std::make_unique<MeteredWindow>(std::move(window), &clock);
  };
  // One rank, so that only this thread moves the clock.
  RunRanks(
      OneNode(1), EqualSizes(1, 100, 2),
      [&](Window& window) {
        auto& metered = dynamic_cast<MeteredWindow&>(window);
        EXPECT_TRUE(window.Put(0, 10, AsBytes("twelve bytes")).ok());
        EXPECT_TRUE(window.Put(0, 10, AsBytes("four")).ok());
        EXPECT_TRUE(window.Signal(0, 1).ok());
        EXPECT_TRUE(window.Wait(0, 1, 1).ok());
        EXPECT_FALSE(window.Put(5, 0, AsBytes("nobody")).ok());
        EXPECT_EQ(metered.with(0).puts, 2);
        EXPECT_EQ(metered.with(0).put_bytes, 16);
        EXPECT_EQ(metered.with(0).signals, 1);
        EXPECT_EQ(metered.with(0).waits, 1);
        EXPECT_EQ(metered.Total().put_bytes, 22);
        EXPECT_EQ(metered.Total().waiting, absl::ZeroDuration());
        metered.Reset();
        EXPECT_EQ(metered.Total().puts, 0);
      },
      wrap);
}

// Every operation takes a second of a clock's time.
class SlowWindow : public Window {
 public:
  explicit SlowWindow(ManualClock* clock) : clock_(clock) {}
  int rank() const override { return 0; }
  int size() const override { return 2; }
  absl::Span<std::byte> local() override { return {}; }
  absl::Status Put(int, uint64_t, absl::Span<const std::byte>) override { return Take(1); }
  absl::Status Signal(int, uint32_t) override { return Take(2); }
  absl::Status Wait(int, uint32_t, uint64_t) override { return Take(4); }
  absl::StatusOr<bool> Poll(int, uint32_t, uint64_t) override { return true; }
  void Abort(absl::Status) override {}

 private:
  absl::Status Take(int seconds) {
    clock_->Advance(absl::Seconds(seconds));
    return absl::OkStatus();
  }
  ManualClock* clock_;
};

TEST(MeteredWindow, TimeInsideOperations_IsSplitIntoSendingAndWaiting) {
  ManualClock clock;
  MeteredWindow window(std::make_unique<SlowWindow>(&clock), &clock);
  EXPECT_TRUE(window.Put(1, 0, {}).ok());
  EXPECT_TRUE(window.Signal(1, 0).ok());
  EXPECT_TRUE(window.Wait(1, 0, 0).ok());
  EXPECT_TRUE(window.Wait(0, 0, 0).ok());
  EXPECT_EQ(window.with(1).sending, absl::Seconds(3));
  EXPECT_EQ(window.with(1).waiting, absl::Seconds(4));
  EXPECT_EQ(window.Total().waiting, absl::Seconds(8));
}

WrapWindow Faulty(std::vector<Fault> script_of_rank_0) {
  return [script_of_rank_0](std::unique_ptr<Window> window) -> std::unique_ptr<Window> {
    const bool first = window->rank() == 0;
    return std::make_unique<FaultyWindow>(std::move(window),
                                          first ? script_of_rank_0 : std::vector<Fault>());
  };
}

TEST(FaultyWindow, DroppedSignal_LeavesThePeerWaitingToItsDeadline) {
  const ChannelLayout layout = Pair();
  WindowSizes sizes = SizesOf(layout);
  sizes.wait_timeout = absl::Milliseconds(30);
  // Of a message's three operations (length, bytes, signal) the signal.
  RunRanks(
      OwnNodes(2), sizes,
      [&](Window& window) {
        ChannelSet channels(&window, layout);
        if (window.rank() == 0) {
          EXPECT_TRUE(channels.sender("there", 1)->Send(AsBytes("lost")).ok());
          EXPECT_EQ(dynamic_cast<FaultyWindow&>(window).faults_struck(), 1);
        } else {
          EXPECT_EQ(channels.receiver("there", 0)->Receive().status().code(),
                    absl::StatusCode::kDeadlineExceeded);
        }
      },
      Faulty({{Fault::Kind::kDrop, 1, 2}}));
}

TEST(FaultyWindow, CutWay_IsUnavailableBothToSendAndToWait) {
  RunRanks(
      OneNode(2), EqualSizes(2, 64, 1),
      [&](Window& window) {
        if (window.rank() != 0) return;
        EXPECT_TRUE(window.Signal(1, 0).ok());
        EXPECT_EQ(window.Signal(1, 0).code(), absl::StatusCode::kUnavailable);
        EXPECT_EQ(window.Put(1, 0, {}).code(), absl::StatusCode::kUnavailable);
        EXPECT_EQ(window.Wait(1, 0, 0).code(), absl::StatusCode::kUnavailable);
        EXPECT_TRUE(window.Signal(0, 0).ok());
      },
      Faulty({{Fault::Kind::kCut, 1, 1}}));
}

TEST(FaultyWindow, DelayedMessages_AreLateButInOrder) {
  const ChannelLayout layout = Pair();
  RunRanks(
      OneNode(2), SizesOf(layout),
      [&](Window& window) {
        ChannelSet channels(&window, layout);
        for (int i = 0; i < 50; ++i) {
          const std::string text = std::to_string(i);
          if (window.rank() == 0) {
            ASSERT_TRUE(channels.sender("there", 1)->Send(AsBytes(text)).ok());
            ASSERT_EQ(AsText(channels.receiver("back", 1)->Receive().value()), text);
            ASSERT_TRUE(channels.receiver("back", 1)->Release().ok());
          } else {
            ASSERT_EQ(AsText(channels.receiver("there", 0)->Receive().value()), text);
            ASSERT_TRUE(channels.receiver("there", 0)->Release().ok());
            ASSERT_TRUE(channels.sender("back", 0)->Send(AsBytes(text)).ok());
          }
        }
        if (window.rank() == 0) {
          EXPECT_GT(dynamic_cast<FaultyWindow&>(window).faults_struck(), 20);
        }
      },
      Faulty(RandomDelays(11, 0, 2, 60, 180)));
}

}  // namespace
}  // namespace fathom::transport
