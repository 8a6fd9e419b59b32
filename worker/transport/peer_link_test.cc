// One end of a link against bytes written by hand: what a peer may say, and what it must not.
#include "worker/transport/peer_link.h"

#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/transport/segment.h"
#include "worker/transport/shm_link.h"
#include "worker/transport/socket.h"
#include "worker/transport/tcp_link.h"
#include "worker/transport/wire.h"

namespace fathom::transport {
namespace {

using ::testing::HasSubstr;

Hello SomeHello() {
  Hello hello;
  hello.rank = 3;
  hello.to_rank = 5;
  hello.size = 8;
  hello.epoch = uint64_t{1} << 40;
  hello.window_bytes = 123456789012;
  hello.signal_count = 77;
  hello.job = "job-17";
  return hello;
}

absl::Span<const std::byte> AsBytes(const std::string& s) {
  return {reinterpret_cast<const std::byte*>(s.data()), s.size()};
}

TEST(Wire, Hello_SurvivesTheTrip) {
  Hello hello = SomeHello();
  hello.job = std::string(kJobNameBytesMax, 'j');
  const std::string bytes = EncodeHello(hello).value();
  ASSERT_EQ(bytes.size(), kHelloBytes);
  const Hello back = DecodeHello(AsBytes(bytes)).value();
  EXPECT_EQ(back.version, kProtocolVersion);
  EXPECT_EQ(back.rank, 3);
  EXPECT_EQ(back.to_rank, 5);
  EXPECT_EQ(back.size, 8);
  EXPECT_EQ(back.epoch, uint64_t{1} << 40);
  EXPECT_EQ(back.window_bytes, 123456789012);
  EXPECT_EQ(back.signal_count, 77);
  EXPECT_EQ(back.job, hello.job);
  hello.job += "x";
  EXPECT_EQ(EncodeHello(hello).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(Wire, AnyBytes_AreDecodedOrRefusedWithoutHarm) {
  const std::string good = EncodeHello(SomeHello()).value();
  EXPECT_FALSE(DecodeHello(AsBytes(good).first(kHelloBytes - 1)).ok());
  EXPECT_FALSE(DecodeHello({}).ok());
  EXPECT_FALSE(DecodeHello(AsBytes(std::string(kHelloBytes, 'G'))).ok());
  std::mt19937 next(5);
  for (int i = 0; i < 20000; ++i) {
    std::string bytes = good;
    for (uint32_t flips = 1 + next() % 4; flips > 0; --flips) {
      bytes[next() % 64] = static_cast<char>(next());
    }
    const auto hello = DecodeHello(AsBytes(bytes));
    if (hello.ok()) {
      EXPECT_LE(hello->job.size(), kJobNameBytesMax);
    }
    const auto frame = DecodeFrame(AsBytes(bytes).subspan(8, kFrameBytes), 1000, 10);
    if (frame.ok() && frame->kind == FrameKind::kPut) {
      EXPECT_LE(frame->offset, 1000);
      EXPECT_LE(frame->length, 1000 - frame->offset);
    }
  }
}

TEST(Wire, HelloOfAnother_IsRefusedWithWhatDiffers) {
  const Hello theirs = SomeHello();
  Hello mine = SomeHello();
  std::swap(mine.rank, mine.to_rank);
  EXPECT_TRUE(CheckHello(mine, theirs, 3).ok());
  const auto refusal = [&](auto change) {
    Hello other = theirs;
    change(other);
    const absl::Status status = CheckHello(mine, other, 3);
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    return std::string(status.message());
  };
  EXPECT_THAT(refusal([](Hello& h) { h.version = 9; }), HasSubstr("protocol version is 9"));
  EXPECT_THAT(refusal([](Hello& h) { h.job = "b"; }), HasSubstr("job is \"b\", and \"job-17\""));
  EXPECT_THAT(refusal([](Hello& h) { h.epoch = 4; }), HasSubstr("epoch is 4"));
  EXPECT_THAT(refusal([](Hello& h) { h.size = 9; }), HasSubstr("number of ranks is 9"));
  EXPECT_THAT(refusal([](Hello& h) { h.rank = 4; }), HasSubstr("rank is 4, and 3"));
  EXPECT_THAT(refusal([](Hello& h) { h.to_rank = 6; }),
              HasSubstr("takes this rank, 5, for rank 6"));
}

std::pair<Fd, Fd> SocketPair() {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) std::abort();
  return {Fd(ends[0]), Fd(ends[1])};
}

// A link whose peer is the test.
struct TcpRig {
  TcpRig(uint64_t window_bytes, uint32_t signals)
      : own(Segment::Create(window_bytes, signals).value()), stop(MakeEvent().value()) {
    auto [mine, theirs] = SocketPair();
    peer = std::move(theirs);
    link = MakeTcpLink(std::move(mine), own, stop.get(), absl::Milliseconds(50));
  }
  void Say(const std::string& bytes) { ASSERT_TRUE(SendShort(peer, bytes, -1).ok()); }

  std::shared_ptr<Segment> own;
  Fd stop;
  Fd peer;
  std::unique_ptr<PeerLink> link;
};

std::string FrameText(const Frame& frame) {
  const auto bytes = EncodeFrame(frame);
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

TEST(TcpLink, FramesCutAnywhere_AreWrittenWhereTheyBelong) {
  std::mt19937 next(23);
  TcpRig rig(4000, 4);
  std::vector<char> expected(4000, 0);
  std::vector<uint64_t> raised(4, 0);
  std::string stream;
  for (int i = 0; i < 300; ++i) {
    if (next() % 3 == 0) {
      const uint32_t signal = next() % 4;
      ++raised[signal];
      stream += FrameText({FrameKind::kSignal, signal, 0, 0});
      continue;
    }
    const uint64_t offset = next() % 4000;
    const uint64_t length = next() % (4001 - offset);
    const std::string bytes(length, static_cast<char>(next()));
    std::copy(bytes.begin(), bytes.end(), expected.begin() + static_cast<std::ptrdiff_t>(offset));
    stream += FrameText({FrameKind::kPut, 0, offset, length}) + bytes;
  }
  for (size_t at = 0; at < stream.size();) {
    const size_t n = std::min<size_t>(stream.size() - at, 1 + next() % 3000);
    rig.Say(stream.substr(at, n));
    EXPECT_EQ(rig.link->Receive().kind, LinkEvent::Kind::kAlive);
    at += n;
  }
  EXPECT_EQ(std::memcmp(rig.own->window().data(), expected.data(), expected.size()), 0);
  for (uint32_t signal = 0; signal < 4; ++signal) {
    EXPECT_EQ(rig.own->value(signal), raised[signal]);
  }
  rig.Say(FrameText({FrameKind::kBye, 0, 0, 0}));
  EXPECT_EQ(rig.link->Receive().kind, LinkEvent::Kind::kLeft);
}

TEST(TcpLink, LyingPeer_IsBrokenBeforeAByteIsWritten) {
  const auto verdict = [](const std::string& stream) {
    TcpRig rig(100, 2);
    rig.Say(stream);
    const LinkEvent event = rig.link->Receive();
    EXPECT_EQ(event.kind, LinkEvent::Kind::kBroken);
    EXPECT_EQ(std::count(rig.own->window().begin(), rig.own->window().end(), std::byte{0}), 100);
    EXPECT_EQ(rig.own->value(0) + rig.own->value(1), 0);
    return event.why;
  };
  const std::string junk(200, 'x');
  EXPECT_THAT(verdict(FrameText({FrameKind::kPut, 0, 50, 51}) + junk), HasSubstr("outside"));
  EXPECT_THAT(verdict(FrameText({FrameKind::kPut, 0, 101, 0}) + junk), HasSubstr("outside"));
  EXPECT_THAT(verdict(FrameText({FrameKind::kPut, 0, 1, UINT64_MAX}) + junk), HasSubstr("outside"));
  EXPECT_THAT(verdict(FrameText({FrameKind::kPut, 0, UINT64_MAX, 2}) + junk), HasSubstr("outside"));
  EXPECT_THAT(verdict(FrameText({FrameKind::kSignal, 2, 0, 0})), HasSubstr("signal 2 of 2"));
  EXPECT_THAT(verdict(junk), HasSubstr("unknown kind"));
}

TEST(TcpLink, PeerThatTakesNothing_EndsThePutAtItsDeadline) {
  TcpRig rig(64, 1);
  const std::vector<std::byte> block(16 << 20);
  EXPECT_EQ(rig.link->Put(0, block).code(), absl::StatusCode::kDeadlineExceeded);
}

TEST(TcpLink, StopEvent_EndsAPutUnderWay) {
  TcpRig rig(64, 1);
  auto [mine, theirs] = SocketPair();
  auto patient = MakeTcpLink(std::move(mine), rig.own, rig.stop.get(), absl::Hours(1));
  std::thread stopper([&] { RaiseEvent(rig.stop); });
  const std::vector<std::byte> block(16 << 20);
  EXPECT_EQ(patient->Put(0, block).code(), absl::StatusCode::kCancelled);
  stopper.join();
}

TEST(TcpLink, SmallPut_GoesOutTogetherWithItsSignal) {
  TcpRig rig(64, 1);
  const std::byte bytes[] = {std::byte{7}, std::byte{8}};
  ASSERT_TRUE(rig.link->Put(5, bytes).ok());
  std::string got;
  EXPECT_FALSE(ReceiveShort(rig.peer, 500, &got, nullptr).value());
  ASSERT_TRUE(rig.link->Signal(0).ok());
  EXPECT_TRUE(ReceiveShort(rig.peer, 500, &got, nullptr).value());
  EXPECT_EQ(got, FrameText({FrameKind::kPut, 0, 5, 2}) + "\x07\x08" +
                     FrameText({FrameKind::kSignal, 0, 0, 0}));
}

TEST(ShmLink, EndOfThePeer_IsAGoodbyeOrABreak) {
  const auto segment = Segment::Create(64, 1).value();
  auto [a, b] = SocketPair();
  const auto left = MakeShmLink(std::move(a), segment);
  EXPECT_EQ(left->Receive().kind, LinkEvent::Kind::kAlive);
  MakeShmLink(std::move(b), segment)->SayGoodbye(DeadlineAfter(absl::ZeroDuration()));
  EXPECT_EQ(left->Receive().kind, LinkEvent::Kind::kLeft);

  auto [c, d] = SocketPair();
  const auto broken = MakeShmLink(std::move(c), segment);
  d.Close();
  EXPECT_EQ(broken->Receive().kind, LinkEvent::Kind::kBroken);
}

TEST(Segment, MemoryThatIsNotAsStated_IsRefused) {
  const auto segment = Segment::Create(10'000, 100).value();
  const auto map = [](int fd, uint64_t bytes, uint32_t signals) {
    return Segment::Map(Fd(dup(fd)), bytes, signals).status().code();
  };
  EXPECT_EQ(map(segment->fd(), 10'000, 100), absl::StatusCode::kOk);
  EXPECT_EQ(map(segment->fd(), 100'000, 100), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(map(segment->fd(), 10'000, 100'000), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(map(segment->fd(), UINT64_MAX, 1), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(map(MakeEvent().value().get(), 10'000, 100), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Segment::Map(Fd(), 1, 1).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST(Segment, TwoMappings_AreOneMemory) {
  const auto mine = Segment::Create(100, 2).value();
  const auto theirs = Segment::Map(Fd(dup(mine->fd())), 100, 2).value();
  theirs->window()[99] = std::byte{3};
  theirs->Raise(1);
  EXPECT_EQ(mine->value(1), 1);
  EXPECT_EQ(mine->window()[99], std::byte{3});
  EXPECT_EQ(mine->Wait(1, 1, DeadlineAfter(absl::Hours(1)), [] { return true; }),
            Segment::Outcome::kReached);
  EXPECT_EQ(mine->Wait(1, 2, DeadlineAfter(absl::Hours(1)), [] { return true; }),
            Segment::Outcome::kInterrupted);
  EXPECT_EQ(mine->Wait(0, 1, DeadlineAfter(absl::Milliseconds(5)), [] { return false; }),
            Segment::Outcome::kDeadline);
}

}  // namespace
}  // namespace fathom::transport
