#include "worker/transport/transport_conformance.h"

#include <algorithm>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/real_clock.h"
#include "gmock/gmock.h"

namespace fathom::transport {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr uint64_t kMiB = 1 << 20;

// Bytes that tell who wrote them, to whom, in which round and where.
std::vector<std::byte> Pattern(int from, int to, int round, size_t n) {
  uint64_t word = static_cast<uint64_t>(1 + from * 1000003 + to * 1009 + round * 31);
  std::vector<std::byte> bytes(n + sizeof(word));
  for (size_t at = 0; at < n; at += sizeof(word)) {
    word = word * 6364136223846793005 + 1442695040888963407;
    std::memcpy(bytes.data() + at, &word, sizeof(word));
  }
  bytes.resize(n);
  return bytes;
}

bool Holds(absl::Span<const std::byte> memory, const std::vector<std::byte>& bytes) {
  return memory.size() == bytes.size() &&
         (bytes.empty() || std::memcmp(memory.data(), bytes.data(), bytes.size()) == 0);
}

std::string PeerName(const Placement& placement, int peer) {
  return absl::StrCat("rank ", peer, " on node ", placement.nodes[peer]);
}

TEST_P(TransportConformance, FreshWindow_IsZeroedAlignedAndOfItsSize) {
  RunRanks(GetParam(), EqualSizes(GetParam().ranks(), 12345, 3), [](Window& window) {
    EXPECT_EQ(window.local().size(), 12345);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(window.local().data()) % 64, 0);
    EXPECT_TRUE(std::all_of(window.local().begin(), window.local().end(),
                            [](std::byte b) { return b == std::byte{0}; }));
    EXPECT_TRUE(window.Wait((window.rank() + 1) % window.size(), 2, 0).ok());
  });
}

// Every rank writes to every rank, itself included, at offset from * block; signal `from` says that
// a block is there, signal size + from that the reader is done with it.
TEST_P(TransportConformance, SignalAfterPut_MeansAllBytesAreThere) {
  const int n = GetParam().ranks();
  constexpr int kRounds = 60;
  constexpr uint64_t kBlock = 70'000;
  RunRanks(GetParam(), EqualSizes(n, kBlock * n, 2 * n), [&](Window& window) {
    const int me = window.rank();
    for (int round = 0; round < kRounds; ++round) {
      const size_t bytes = (static_cast<size_t>(round) * 7919 * 13) % kBlock;
      for (int to = 0; to < n; ++to) {
        ASSERT_TRUE(window.Wait(to, n + to, round).ok());
        const std::vector<std::byte> block = Pattern(me, to, round, bytes);
        ASSERT_TRUE(window.Put(to, me * kBlock, block).ok());
        ASSERT_TRUE(window.Signal(to, me).ok());
      }
      for (int from = 0; from < n; ++from) {
        ASSERT_TRUE(window.Wait(from, from, round + 1).ok());
        EXPECT_TRUE(
            Holds(window.local().subspan(from * kBlock, bytes), Pattern(from, me, round, bytes)))
            << "round " << round << " from " << from;
        ASSERT_TRUE(window.Signal(from, n + me).ok());
      }
    }
  });
}

TEST_P(TransportConformance, EverybodyPutsMuchBeforeAnybodyWaits_NothingLocksUp) {
  const int n = GetParam().ranks();
  constexpr uint64_t kBlock = 3 * kMiB + 13;
  RunRanks(GetParam(), EqualSizes(n, kBlock * n, n), [&](Window& window) {
    const int me = window.rank();
    for (int round = 0; round < 3; ++round) {
      for (int to = 0; to < n; ++to) {
        ASSERT_TRUE(window.Put(to, me * kBlock, Pattern(me, to, round, kBlock)).ok());
      }
    }
    for (int to = 0; to < n; ++to) ASSERT_TRUE(window.Signal(to, me).ok());
    for (int from = 0; from < n; ++from) {
      ASSERT_TRUE(window.Wait(from, from, 1).ok());
      EXPECT_TRUE(
          Holds(window.local().subspan(from * kBlock, kBlock), Pattern(from, me, 2, kBlock)));
    }
  });
}

// Small messages through a ring of slots, as channels do it: none is lost and none overtakes.
TEST_P(TransportConformance, ManySmallMessages_ArriveInOrder) {
  const int n = GetParam().ranks();
  constexpr uint64_t kMessages = 2000;
  constexpr uint64_t kSlots = 8;
  RunRanks(GetParam(), EqualSizes(n, kSlots * 8, 2), [&](Window& window) {
    const int next = (window.rank() + 1) % n;
    const int before = (window.rank() + n - 1) % n;
    for (uint64_t i = 0, received = 0; received < kMessages;) {
      if (i < kMessages && i < received + kSlots) {
        if (i >= kSlots) {
          ASSERT_TRUE(window.Wait(next, 1, i - kSlots + 1).ok());
        }
        const uint64_t message = i * 0x9e3779b97f4a7c15;
        ASSERT_TRUE(
            window.Put(next, i % kSlots * 8, {reinterpret_cast<const std::byte*>(&message), 8})
                .ok());
        ASSERT_TRUE(window.Signal(next, 0).ok());
        ++i;
        continue;
      }
      ASSERT_TRUE(window.Wait(before, 0, received + 1).ok());
      uint64_t message = 0;
      std::memcpy(&message, window.local().data() + received % kSlots * 8, 8);
      ASSERT_EQ(message, received * 0x9e3779b97f4a7c15);
      ASSERT_TRUE(window.Signal(before, 1).ok());
      ++received;
    }
  });
}

TEST_P(TransportConformance, PutsAtTheEdges_HitOnlyTheirBytes) {
  const int n = GetParam().ranks();
  constexpr uint64_t kBytes = 4096 + 7;
  RunRanks(GetParam(), EqualSizes(n, kBytes, 1), [&](Window& window) {
    const int next = (window.rank() + 1) % n;
    const std::byte first[] = {std::byte{1}};
    const std::byte last[] = {std::byte{2}};
    EXPECT_TRUE(window.Put(next, 0, first).ok());
    EXPECT_TRUE(window.Put(next, kBytes - 1, last).ok());
    EXPECT_TRUE(window.Put(next, kBytes, {}).ok());
    ASSERT_TRUE(window.Signal(next, 0).ok());
    ASSERT_TRUE(window.Wait((window.rank() + n - 1) % n, 0, 1).ok());
    const absl::Span<const std::byte> got = window.local();
    EXPECT_EQ(got.front(), std::byte{1});
    EXPECT_EQ(got.back(), std::byte{2});
    EXPECT_EQ(std::count(got.begin(), got.end(), std::byte{0}), kBytes - 2);
  });
}

TEST_P(TransportConformance, OutsideTheWindow_IsRefusedAndHarmless) {
  const int n = GetParam().ranks();
  WindowSizes sizes = EqualSizes(n, 1000, 2);
  // Each peer's own size counts, not this rank's.
  sizes.window_bytes[0] = 64;
  sizes.signal_count[0] = 1;
  RunRanks(GetParam(), sizes, [&](Window& window) {
    const std::vector<std::byte> bytes(65, std::byte{9});
    const auto code = [&](uint64_t offset, size_t count) {
      return window.Put(0, offset, absl::MakeConstSpan(bytes).first(count)).code();
    };
    EXPECT_EQ(code(0, 65), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(code(64, 1), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(code(65, 0), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(code(UINT64_MAX, 2), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(window.Signal(0, 1).code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(window.Put(n, 0, bytes).code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(window.Signal(-1, 0).code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(window.Wait(0, 2, 0).code(), absl::StatusCode::kInvalidArgument);
    // The connection is as good as before.
    ASSERT_TRUE(window.Put(n - 1, static_cast<uint64_t>(window.rank()), {bytes.data(), 1}).ok());
    ASSERT_TRUE(window.Signal(n - 1, 0).ok());
    if (window.rank() == n - 1) {
      EXPECT_TRUE(window.Wait(0, 0, n).ok());
    }
    if (window.rank() == 0) {
      EXPECT_EQ(std::count(window.local().begin(), window.local().end(), std::byte{9}), 0);
    }
  });
}

TEST_P(TransportConformance, SilentPeer_EndsTheWaitAtItsDeadlineByName) {
  WindowSizes sizes = EqualSizes(GetParam().ranks(), 64, 1);
  sizes.wait_timeout = absl::Milliseconds(40);
  RunRanks(GetParam(), sizes, [&](Window& window) {
    const int peer = (window.rank() + 1) % window.size();
    const absl::Status late = window.Wait(peer, 0, 1);
    EXPECT_EQ(late.code(), absl::StatusCode::kDeadlineExceeded);
    EXPECT_THAT(late.message(), AllOf(HasSubstr(PeerName(GetParam(), peer)), HasSubstr("40ms")));
  });
}

TEST_P(TransportConformance, Poll_TellsWithoutWaitingWhetherASignalHasArrived) {
  const int n = GetParam().ranks();
  RunRanks(GetParam(), EqualSizes(n, 64, 2), [&](Window& window) {
    const int next = (window.rank() + 1) % n;
    const int before = (window.rank() + n - 1) % n;
    const absl::StatusOr<bool> never = window.Poll(before, 0, 2);
    ASSERT_TRUE(never.ok()) << never.status();
    EXPECT_FALSE(*never);
    ASSERT_TRUE(window.Signal(next, 0).ok());
    ASSERT_TRUE(window.Wait(before, 0, 1).ok());
    EXPECT_TRUE(*window.Poll(before, 0, 1));
    EXPECT_EQ(window.Poll(before, 2, 1).status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(window.Poll(n, 0, 1).status().code(), absl::StatusCode::kInvalidArgument);
    // Nobody leaves before all have looked.
    ASSERT_TRUE(window.Signal(next, 1).ok());
    ASSERT_TRUE(window.Wait(before, 1, 1).ok());
  });
}

TEST_P(TransportConformance, Abort_WakesTheWaiterAndStays) {
  RunRanks(GetParam(), EqualSizes(GetParam().ranks(), 64, 1), [&](Window& window) {
    const int peer = (window.rank() + 1) % window.size();
    std::thread other([&] {
      window.Abort(absl::CancelledError("a new epoch"));
      window.Abort(absl::InternalError("too late to count"));
    });
    for (int i = 0; i < 2; ++i) {
      const absl::Status status = window.Wait(peer, 0, 1);
      EXPECT_EQ(status, absl::CancelledError("a new epoch"));
    }
    other.join();
    EXPECT_EQ(window.Wait(peer, 0, 0), absl::CancelledError("a new epoch"));
    EXPECT_EQ(window.Signal(peer, 0), absl::CancelledError("a new epoch"));
    EXPECT_EQ(window.Put(peer, 0, {}), absl::CancelledError("a new epoch"));
  });
}

// Listens and connects, and leaves it to the test when each window closes.
std::vector<std::unique_ptr<Window>> Connected(const Placement& placement,
                                               const WindowSizes& sizes) {
  std::vector<std::unique_ptr<Rendezvous>> listening;
  std::vector<PeerAddress> peers;
  for (int rank = 0; rank < placement.ranks(); ++rank) {
    listening.push_back(Rendezvous::Listen("127.0.0.1").value());
    peers.push_back({rank, placement.nodes[rank], listening.back()->endpoint()});
  }
  std::vector<std::unique_ptr<Window>> windows(listening.size());
  std::vector<std::thread> threads;
  for (int rank = 0; rank < placement.ranks(); ++rank) {
    threads.emplace_back([&, rank] {
      windows[rank] = listening[rank]->Connect(OptionsOf(placement, sizes, rank), peers).value();
    });
  }
  for (std::thread& thread : threads) thread.join();
  return windows;
}

TEST_P(TransportConformance, PeerThatFinished_LeavesAllItSentAndFailsOnlyWhatItNeverSent) {
  const int n = GetParam().ranks();
  const int leaver = n - 1;
  constexpr uint64_t kBytes = 3 * kMiB;
  std::vector<std::unique_ptr<Window>> windows = Connected(GetParam(), EqualSizes(n, kBytes, 2));
  for (int to = 0; to < leaver; ++to) {
    ASSERT_TRUE(windows[leaver]->Put(to, 0, Pattern(leaver, to, 0, kBytes)).ok());
    ASSERT_TRUE(windows[leaver]->Signal(to, 0).ok());
    ASSERT_TRUE(windows[leaver]->Signal(to, 0).ok());
    // Unread by the leaver when it closes; that must not cost the others what it sent.
    ASSERT_TRUE(windows[to]->Put(leaver, 0, Pattern(to, leaver, 0, 1000)).ok());
    ASSERT_TRUE(windows[to]->Signal(leaver, 0).ok());
  }
  windows[leaver].reset();
  for (int rank = 0; rank < leaver; ++rank) {
    Window& window = *windows[rank];
    const absl::Status never = window.Wait(leaver, 0, 3);
    EXPECT_EQ(never.code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(never.message(), AllOf(HasSubstr(PeerName(GetParam(), leaver)),
                                       HasSubstr("closed its window"), HasSubstr("which is at 2")));
    EXPECT_TRUE(window.Wait(leaver, 0, 1).ok());
    EXPECT_TRUE(window.Wait(leaver, 0, 2).ok());
    EXPECT_TRUE(Holds(window.local(), Pattern(leaver, rank, 0, kBytes)));
    // Credits for one that is done are dropped, not errors.
    EXPECT_TRUE(window.Put(leaver, 0, Pattern(rank, leaver, 0, 64 << 10)).ok());
    EXPECT_TRUE(window.Signal(leaver, 1).ok());
  }
}

TEST_P(TransportConformance, PeerThatGaveUp_IsGoneForTheOthers) {
  const int n = GetParam().ranks();
  std::vector<std::unique_ptr<Window>> windows = Connected(GetParam(), EqualSizes(n, 64, 1));
  windows[0]->Abort(absl::InternalError("out of luck"));
  windows[0].reset();
  for (int rank = 1; rank < n; ++rank) {
    const absl::Status gone = windows[rank]->Wait(0, 0, 1);
    EXPECT_EQ(gone.code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(gone.message(), HasSubstr(PeerName(GetParam(), 0)));
    EXPECT_EQ(windows[rank]->Put(0, 0, {}).code(), absl::StatusCode::kUnavailable);
    EXPECT_EQ(windows[rank]->Signal(0, 0).code(), absl::StatusCode::kUnavailable);
  }
  // The rest go on among themselves.
  for (int rank = 1; rank < n; ++rank) {
    EXPECT_TRUE(windows[n - 1]->Signal(rank, 0).ok());
    EXPECT_TRUE(windows[rank]->Wait(n - 1, 0, 1).ok());
  }
}

TEST_P(TransportConformance, KilledPeer_IsNoticedAtOnceByName) {
  const Placement& placement = GetParam();
  const int mortal = placement.ranks() - 1;
  RunRanksWithMortal(
      placement, EqualSizes(placement.ranks(), 64, 2),
      [&](Window& window) {
        for (int to = 0; to < mortal; ++to) {
          const std::byte last_words[] = {std::byte{42}};
          if (!window.Put(to, 0, last_words).ok() || !window.Signal(to, 0).ok()) std::abort();
        }
      },
      [&](Window& window, const std::function<void()>& kill) {
        ASSERT_TRUE(window.Wait(mortal, 0, 1).ok());
        if (window.rank() == 0) kill();
        const RealClock clock;
        const absl::Duration start = clock.Steady();
        const absl::Status gone = window.Wait(mortal, 1, 1);
        // Generous for a loaded machine, far below the deadline of 60 s.
        EXPECT_LT(clock.Steady() - start, absl::Seconds(20));
        EXPECT_EQ(gone.code(), absl::StatusCode::kUnavailable);
        EXPECT_THAT(gone.message(), HasSubstr(PeerName(placement, mortal)));
        EXPECT_EQ(window.local()[0], std::byte{42});
        EXPECT_TRUE(window.Wait(mortal, 0, 1).ok());
      });
}

TEST_P(TransportConformance, PeerKilledUnderLargePuts_EndsThemByName) {
  const Placement& placement = GetParam();
  const int mortal = placement.ranks() - 1;
  RunRanksWithMortal(
      placement, EqualSizes(placement.ranks(), 8 * kMiB, 1), [](Window&) {},
      [&](Window& window, const std::function<void()>& kill) {
        if (window.rank() != 0) return;
        const std::vector<std::byte> block(8 * kMiB, std::byte{1});
        ASSERT_TRUE(window.Put(mortal, 0, block).ok());
        std::thread killer(kill);
        absl::Status put;
        while (put.ok()) put = window.Put(mortal, 0, block);
        killer.join();
        EXPECT_EQ(put.code(), absl::StatusCode::kUnavailable);
        EXPECT_THAT(put.message(), HasSubstr(PeerName(placement, mortal)));
      });
}

TEST_P(TransportConformance, PeerOfAnotherEpoch_IsRefusedOnBothSides) {
  for (int other = 1; other < GetParam().ranks(); ++other) {
    Placement pair = GetParam();
    pair.nodes = {GetParam().nodes[0], GetParam().nodes[other]};
    std::vector<std::unique_ptr<Rendezvous>> listening;
    std::vector<PeerAddress> peers;
    for (int rank = 0; rank < 2; ++rank) {
      listening.push_back(Rendezvous::Listen("127.0.0.1").value());
      peers.push_back({rank, pair.nodes[rank], listening.back()->endpoint()});
    }
    RendezvousOptions late = OptionsOf(pair, EqualSizes(2, 64, 1), 0);
    late.epoch -= 1;
    const RendezvousOptions current = OptionsOf(pair, EqualSizes(2, 64, 1), 1);
    // The one of the past learns at once. The other would go on waiting for the right one.
    std::thread stale([&] {
      const absl::Status refused = listening[0]->Connect(late, peers).status();
      EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition) << refused;
      EXPECT_THAT(refused.message(), HasSubstr("its epoch is 7, and 6 was expected"));
      listening[1]->Cancel();
    });
    const absl::Status missing = listening[1]->Connect(current, peers).status();
    stale.join();
    EXPECT_THAT(missing.message(), HasSubstr("its epoch is 6, and 7 was expected"));
  }
}

}  // namespace
}  // namespace fathom::transport
