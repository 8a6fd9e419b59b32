#include "worker/transport/rendezvous.h"

#include <dirent.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <future>
#include <string>
#include <utility>
#include <vector>

#include "common/base/host_port.h"
#include "common/base/limits.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/transport/meeting.h"
#include "worker/transport/routed_window.h"
#include "worker/transport/segment.h"
#include "worker/transport/shm_link.h"
#include "worker/transport/socket.h"
#include "worker/transport/test_ranks.h"
#include "worker/transport/wire.h"

namespace fathom::transport {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

using Connecting = std::future<absl::StatusOr<std::unique_ptr<Window>>>;

// Ranks that listen, and the table that names them.
struct Ranks {
  explicit Ranks(const Placement& p) : placement(p), sizes(EqualSizes(p.ranks(), 128, 2)) {
    for (int rank = 0; rank < placement.ranks(); ++rank) {
      listening.push_back(Rendezvous::Listen("127.0.0.1").value());
      table.push_back({rank, placement.nodes[rank], listening.back()->endpoint()});
    }
  }
  RendezvousOptions Options(int rank) const { return OptionsOf(placement, sizes, rank); }
  RendezvousOptions Impatient(int rank) const {
    RendezvousOptions options = Options(rank);
    options.connect_timeout = absl::Milliseconds(60);
    return options;
  }
  Connecting Connect(RendezvousOptions options) {
    return std::async(std::launch::async,
                      [this, options] { return listening[options.rank]->Connect(options, table); });
  }
  int port(int rank) const { return ParseHostPort(table[rank].endpoint)->port; }

  Placement placement;
  WindowSizes sizes;
  std::vector<std::unique_ptr<Rendezvous>> listening;
  std::vector<PeerAddress> table;
};

void AwaitReadable(const Fd& fd) {
  pollfd wait{fd.get(), POLLIN, 0};
  ASSERT_EQ(poll(&wait, 1, 60'000), 1) << "nothing came";
}

Fd Dial(int port) {
  Fd fd = StartConnectTcp("127.0.0.1", port).value();
  pollfd wait{fd.get(), POLLOUT, 0};
  EXPECT_EQ(poll(&wait, 1, 60'000), 1);
  EXPECT_TRUE(FinishConnect(fd).ok());
  return fd;
}

Fd AcceptNext(const Fd& listener) {
  AwaitReadable(listener);
  return AcceptOne(listener).value();
}

// The Hello that comes next, or nothing when the other end closes instead.
absl::StatusOr<Hello> HearHello(const Fd& fd) {
  std::string bytes;
  while (bytes.size() < kHelloBytes) {
    AwaitReadable(fd);
    const auto got = ReceiveShort(fd, kHelloBytes - bytes.size(), &bytes, nullptr);
    if (!got.ok()) return got.status();
  }
  return DecodeHello({reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()});
}

void Say(const Fd& fd, const std::string& bytes) { ASSERT_TRUE(SendShort(fd, bytes, -1).ok()); }

// What rank `from` of the placement says to rank `to`.
Hello HelloOf(const RendezvousOptions& options, int from, int to, int size) {
  Hello hello;
  hello.rank = static_cast<uint32_t>(from);
  hello.to_rank = static_cast<uint32_t>(to);
  hello.size = static_cast<uint32_t>(size);
  hello.epoch = options.epoch;
  hello.job = options.job;
  hello.window_bytes = options.window_bytes;
  hello.signal_count = options.signal_count;
  return hello;
}

bool IsClosed(const Fd& fd) {
  AwaitReadable(fd);
  return HasEnded(fd);
}

TEST(Rendezvous, OneRank_NeedsNobody) {
  Ranks ranks(OneNode(1));
  auto window = ranks.listening[0]->Connect(ranks.Options(0), ranks.table);
  ASSERT_TRUE(window.ok()) << window.status();
  EXPECT_EQ((*window)->size(), 1);
  EXPECT_TRUE((*window)->Signal(0, 1).ok());
  EXPECT_TRUE((*window)->Wait(0, 1, 1).ok());
}

TEST(Rendezvous, Strangers_NeitherBreakNorHoldUpTheMeeting) {
  for (const Placement& placement : {OneNode(2), OwnNodes(2)}) {
    Ranks ranks(placement);
    Fd garbage = Dial(ranks.port(1));
    Say(garbage, "GET / HTTP/1.1\r\n" + std::string(kHelloBytes, 'x'));
    Fd slow = Dial(ranks.port(1));
    Say(slow, "FATH");
    Fd silent = Dial(ranks.port(1));
    Fd local_garbage = StartConnectLocal(ranks.port(1)).value();
    Say(local_garbage, std::string(kHelloBytes, 'y'));
    Dial(ranks.port(1)).Close();
    Connecting one = ranks.Connect(ranks.Options(1));
    EXPECT_TRUE(IsClosed(garbage));
    EXPECT_TRUE(IsClosed(local_garbage));
    Connecting zero = ranks.Connect(ranks.Options(0));
    EXPECT_TRUE(zero.get().ok());
    EXPECT_TRUE(one.get().ok());
  }
}

TEST(Rendezvous, CrowdOfSilentStrangers_IsBounded) {
  Ranks ranks(OwnNodes(2));
  std::vector<Fd> crowd;
  for (int i = 0; i < limits::kMaxStrangerConnections + 40; ++i) {
    crowd.push_back(Dial(ranks.port(1)));
  }
  Connecting one = ranks.Connect(ranks.Options(1));
  // The oldest is sent away to make room.
  EXPECT_TRUE(IsClosed(crowd.front()));
  Connecting zero = ranks.Connect(ranks.Options(0));
  EXPECT_TRUE(zero.get().ok());
  EXPECT_TRUE(one.get().ok());
}

TEST(Rendezvous, AbsentRanks_AreNamedAtTheDeadline) {
  for (const Placement& placement : {OneNode(3), OwnNodes(3)}) {
    Ranks ranks(placement);
    ranks.listening[2].reset();
    const absl::Status late = ranks.listening[1]->Connect(ranks.Impatient(1), ranks.table).status();
    EXPECT_EQ(late.code(), absl::StatusCode::kDeadlineExceeded);
    EXPECT_THAT(
        late.message(),
        AllOf(HasSubstr("rank 1 of job a-test epoch 7"), HasSubstr("60ms"),
              HasSubstr("rank 0 on node " + placement.nodes[0]), HasSubstr("it did not connect"),
              HasSubstr("rank 2 on node " + placement.nodes[2]), HasSubstr("refused")));
  }
}

TEST(Rendezvous, FailedConnect_CanBeTriedAgainAndASuccessfulOneCannot) {
  for (const Placement& placement : {OneNode(2), OwnNodes(2)}) {
    Ranks ranks(placement);
    for (int rank = 0; rank < 2; ++rank) {
      EXPECT_FALSE(ranks.listening[rank]->Connect(ranks.Impatient(rank), ranks.table).ok());
    }
    Connecting zero = ranks.Connect(ranks.Options(0));
    Connecting one = ranks.Connect(ranks.Options(1));
    EXPECT_TRUE(zero.get().ok());
    EXPECT_TRUE(one.get().ok());
    EXPECT_EQ(ranks.listening[0]->Connect(ranks.Options(0), ranks.table).status().code(),
              absl::StatusCode::kFailedPrecondition);
  }
}

TEST(Rendezvous, Cancel_EndsTheConnect) {
  Ranks ranks(TwoNodes(4));
  Connecting one = ranks.Connect(ranks.Options(1));
  ranks.listening[1]->Cancel();
  EXPECT_EQ(one.get().status().code(), absl::StatusCode::kCancelled);
}

TEST(Rendezvous, TablesThatContradictTheOptions_AreRefused) {
  Ranks ranks(OwnNodes(2));
  const auto refusal = [&](auto change) {
    RendezvousOptions options = ranks.Options(0);
    std::vector<PeerAddress> table = ranks.table;
    change(options, table);
    const absl::Status status = ranks.listening[0]->Connect(options, table).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    return std::string(status.message());
  };
  using Table = std::vector<PeerAddress>;
  EXPECT_THAT(refusal([](auto& o, Table&) { o.rank = 2; }), HasSubstr("this rank is 2"));
  EXPECT_THAT(refusal([](auto& o, Table&) { o.rank = -1; }), HasSubstr("this rank is -1"));
  EXPECT_THAT(refusal([](auto& o, Table&) { o.node = "elsewhere"; }), HasSubstr("on node node-0"));
  EXPECT_THAT(refusal([](auto& o, Table&) { o.job = std::string(300, 'j'); }), HasSubstr("255"));
  EXPECT_THAT(refusal([](auto&, Table& t) { std::swap(t[0], t[1]); }), HasSubstr("is of rank 1"));
  EXPECT_THAT(refusal([](auto&, Table& t) { t[1].endpoint = "nonsense"; }), HasSubstr("nonsense"));
  EXPECT_THAT(refusal([](auto&, Table& t) { t[1].endpoint = "h:0"; }), HasSubstr("no port"));
  EXPECT_THAT(refusal([](auto& o, Table&) { o.window_bytes = UINT64_MAX; }), HasSubstr("beyond"));
}

TEST(Rendezvous, HostOfAnotherMachine_CannotBeListenedOn) {
  const absl::Status status = Rendezvous::Listen("192.0.2.1").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(status.message(), HasSubstr("192.0.2.1"));
}

TEST(Rendezvous, PeerOfAnotherJob_IsRefusedOnBothSides) {
  for (const Placement& placement : {OneNode(2), OwnNodes(2)}) {
    Ranks ranks(placement);
    RendezvousOptions other = ranks.Options(0);
    other.job = "b-test";
    Connecting zero = ranks.Connect(other);
    Connecting one = ranks.Connect(ranks.Options(1));
    const absl::Status refused = zero.get().status();
    EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(refused.message(),
                AllOf(HasSubstr("cannot connect to rank 1 on node " + placement.nodes[1]),
                      HasSubstr("its job is \"a-test\", and \"b-test\" was expected")));
    ranks.listening[1]->Cancel();
    EXPECT_THAT(one.get().status().message(),
                HasSubstr("its job is \"b-test\", and \"a-test\" was expected"));
  }
}

TEST(Rendezvous, OnlyAPeerOfAnotherJobByTheDeadline_IsAFailedPrecondition) {
  Ranks ranks(OwnNodes(2));
  Fd other = Dial(ranks.port(1));
  Hello hello = HelloOf(ranks.Options(0), 0, 1, 2);
  hello.job = "b-test";
  Say(other, EncodeHello(hello).value());
  const absl::Status status = ranks.listening[1]->Connect(ranks.Impatient(1), ranks.table).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(),
              AllOf(HasSubstr("rank 0 on node node-0"), HasSubstr("its job is \"b-test\"")));
}

TEST(Rendezvous, EndpointsOfRanksMixedUp_AreNoticed) {
  Ranks ranks(OwnNodes(3));
  Ranks confused(OwnNodes(3));
  confused.table = ranks.table;
  std::swap(confused.table[1].endpoint, confused.table[2].endpoint);
  Connecting two = ranks.Connect(ranks.Options(2));
  const absl::Status refused =
      confused.listening[0]->Connect(ranks.Options(0), confused.table).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(refused.message(), HasSubstr("its rank is 2, and 1 was expected"));
  ranks.listening[2]->Cancel();
  EXPECT_THAT(two.get().status().message(), HasSubstr("it takes this rank, 2, for rank 1"));
}

TEST(Rendezvous, StragglerOfAnEarlierEpoch_IsToldAndTheRightPeerIsMet) {
  Ranks ranks(OwnNodes(2));
  Connecting one = ranks.Connect(ranks.Options(1));
  Fd straggler = Dial(ranks.port(1));
  Hello old = HelloOf(ranks.Options(0), 0, 1, 2);
  old.epoch -= 1;
  Say(straggler, EncodeHello(old).value());
  EXPECT_EQ(HearHello(straggler).value().epoch, 7);
  EXPECT_TRUE(IsClosed(straggler));
  Connecting zero = ranks.Connect(ranks.Options(0));
  EXPECT_TRUE(zero.get().ok());
  EXPECT_TRUE(one.get().ok());
}

TEST(Rendezvous, PeerOfALaterEpoch_EndsTheConnectAtOnce) {
  Ranks ranks(OwnNodes(2));
  Connecting one = ranks.Connect(ranks.Options(1));
  Fd newer = Dial(ranks.port(1));
  Hello hello = HelloOf(ranks.Options(0), 0, 1, 2);
  hello.epoch += 1;
  Say(newer, EncodeHello(hello).value());
  const absl::Status status = one.get().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), AllOf(HasSubstr("of the past"), HasSubstr("epoch is 8, and 7")));
}

TEST(Rendezvous, SecondRankOfOneName_IsAnImpostor) {
  Ranks ranks(OwnNodes(3));
  Connecting one = ranks.Connect(ranks.Options(1));
  const std::string hello = EncodeHello(HelloOf(ranks.Options(0), 0, 1, 3)).value();
  Fd first = Dial(ranks.port(1));
  Say(first, hello);
  EXPECT_TRUE(HearHello(first).ok());
  Fd second = Dial(ranks.port(1));
  Say(second, hello);
  EXPECT_TRUE(HearHello(second).ok());
  EXPECT_TRUE(IsClosed(second));
  // Rank 2 waits for the real rank 0 in vain.
  Connecting two = ranks.Connect(ranks.Options(2));
  const auto window = one.get();
  EXPECT_TRUE(window.ok()) << window.status();
  ranks.listening[2]->Cancel();
  EXPECT_FALSE(two.get().ok());
  first.Close();
}

TEST(Rendezvous, PeerThatDiesWhileOthersAreAwaited_IsNamedAtOnce) {
  for (const Placement& placement : {OneNode(3), OwnNodes(3)}) {
    Ranks ranks(placement);
    Connecting one = ranks.Connect(ranks.Options(1));
    Fd zero =
        placement.nodes[0] == "a" ? StartConnectLocal(ranks.port(1)).value() : Dial(ranks.port(1));
    Say(zero, EncodeHello(HelloOf(ranks.Options(0), 0, 1, 3)).value());
    EXPECT_TRUE(HearHello(zero).ok());
    zero.Close();
    const absl::Status gone = one.get().status();
    EXPECT_EQ(gone.code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(gone.message(), HasSubstr("rank 0 on node " + placement.nodes[0]));
  }
}

// Rank 1 is the test itself, behind a listener of its own.
struct FakeRankOne {
  FakeRankOne() : zero(OwnNodes(2)), listener(ListenTcp("127.0.0.1").value()) {
    zero.table[1].endpoint = ToString(HostPort{"127.0.0.1", listener.port});
  }
  std::string Answer() const { return EncodeHello(HelloOf(zero.Options(1), 1, 0, 2)).value(); }

  Ranks zero;
  TcpListener listener;
};

TEST(Rendezvous, PeerThatClosesOrBabbles_IsTriedAgain) {
  FakeRankOne fake;
  Connecting zero = fake.zero.Connect(fake.zero.Options(0));
  AcceptNext(fake.listener.fd).Close();
  Fd babbling = AcceptNext(fake.listener.fd);
  EXPECT_EQ(HearHello(babbling).value().to_rank, 1);
  Say(babbling, std::string(kHelloBytes, '?'));
  Fd good = AcceptNext(fake.listener.fd);
  EXPECT_EQ(HearHello(good).value().rank, 0);
  Say(good, fake.Answer());
  auto window = zero.get();
  EXPECT_TRUE(window.ok()) << window.status();
  good.Close();
}

TEST(Rendezvous, PeerThatPutsOutsideTheWindow_LosesItsConnectionAndIsNamed) {
  FakeRankOne fake;
  Connecting zero = fake.zero.Connect(fake.zero.Options(0));
  Fd liar = AcceptNext(fake.listener.fd);
  EXPECT_TRUE(HearHello(liar).ok());
  Say(liar, fake.Answer());
  auto window = zero.get();
  ASSERT_TRUE(window.ok()) << window.status();
  const auto frame = EncodeFrame({FrameKind::kPut, 0, 100, 29});
  Say(liar, std::string(reinterpret_cast<const char*>(frame.data()), frame.size()));
  const absl::Status status = (*window)->Wait(1, 0, 1);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(status.message(), AllOf(HasSubstr("rank 1 on node node-1"),
                                      HasSubstr("it put 29 bytes at 100, outside")));
  EXPECT_TRUE(IsClosed(liar));
}

TEST(Rendezvous, LocalPeerWithoutMemory_IsRefusedByName) {
  Ranks ranks(OneNode(2));
  Connecting one = ranks.Connect(ranks.Options(1));
  Fd empty_handed = StartConnectLocal(ranks.port(1)).value();
  Say(empty_handed, EncodeHello(HelloOf(ranks.Options(0), 0, 1, 2)).value());
  const absl::Status status = one.get().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), AllOf(HasSubstr("rank 0 on node a"), HasSubstr("memory")));
}

int CountEntries(const char* folder) {
  int count = 0;
  DIR* dir = opendir(folder);
  while (readdir(dir) != nullptr) ++count;
  closedir(dir);
  return count;
}

TEST(Rendezvous, ClosedWindows_LeaveNeitherDescriptorsNorFiles) {
  const int descriptors = CountEntries("/proc/self/fd");
  const int files = CountEntries("/dev/shm");
  RunRanks(TwoNodes(4), EqualSizes(4, 1000, 1), [&](Window&) {
    EXPECT_GT(CountEntries("/proc/self/fd"), descriptors);
    // Nor while they are open: a killed process has nothing to clean up.
    EXPECT_EQ(CountEntries("/dev/shm"), files);
  });
  EXPECT_EQ(CountEntries("/proc/self/fd"), descriptors);
}

TEST(Meeting, EveryPeerMet_IsHandedOverWithItsHello) {
  const Placement placement = OwnNodes(2);
  const WindowSizes sizes = EqualSizes(2, 64, 1);
  FakeRankOne fake;
  const TcpListener tcp = ListenTcp("127.0.0.1").value();
  const Fd local = ListenLocal(tcp.port).value();
  const Fd cancel = MakeEvent().value();
  const RendezvousOptions options = OptionsOf(placement, sizes, 0);
  Meeting meeting(options, fake.zero.table, {&tcp.fd, &local, &cancel, -1});
  auto met = std::async(std::launch::async, [&] { return meeting.Run(); });
  Fd one = AcceptNext(fake.listener.fd);
  EXPECT_EQ(HearHello(one).value().window_bytes, 64);
  Say(one, fake.Answer());
  const auto acquaintances = met.get();
  ASSERT_TRUE(acquaintances.ok()) << acquaintances.status();
  ASSERT_EQ(acquaintances->size(), 2);
  EXPECT_FALSE((*acquaintances)[0].socket.valid());
  EXPECT_TRUE((*acquaintances)[1].socket.valid());
  EXPECT_FALSE((*acquaintances)[1].local);
  EXPECT_EQ((*acquaintances)[1].hello.window_bytes, 128);
}

TEST(RoutedWindow, LinkToItself_IsAWindowOfOne) {
  const auto own = Segment::Create(10, 1).value();
  std::vector<RoutedPeer> peers(1);
  peers[0] = {"a", 10, 1, MakeShmLink(Fd(), own)};
  const auto window =
      MakeRoutedWindow(0, own, std::move(peers), MakeEvent().value(), absl::Seconds(1)).value();
  const std::byte bytes[] = {std::byte{4}};
  EXPECT_TRUE(window->Put(0, 9, bytes).ok());
  EXPECT_EQ(window->local()[9], std::byte{4});
  EXPECT_THAT(window->Wait(0, 0, 1).message(), Not(HasSubstr("gone")));
}

}  // namespace
}  // namespace fathom::transport
