#include "worker/health/echo_server.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <string>
#include <thread>
#include <vector>

#include "common/base/host_port.h"
#include "common/base/real_clock.h"
#include "common/health/preflight_verdict.h"
#include "worker/health/echo_frame.h"
#include "worker/health/link_check.h"

namespace fathom::health {
namespace {

using ::testing::HasSubstr;

constexpr int kLongMs = 30'000;  // a test that waits this long has failed

TEST(EchoFrameTest, EncodedHello_DecodesToTheSame) {
  const std::string bytes = EncodeEchoHello({EchoKind::kPing, 64, 200});
  ASSERT_EQ(bytes.size(), kEchoHelloBytes);
  const auto hello = DecodeEchoHello(bytes);
  ASSERT_TRUE(hello.has_value());
  EXPECT_EQ(hello->kind, EchoKind::kPing);
  EXPECT_EQ(hello->bytes, 64u);
  EXPECT_EQ(hello->count, 200u);
}

TEST(EchoFrameTest, EveryAlteredMagicByte_IsRefused) {
  const std::string good = EncodeEchoHello({EchoKind::kSink, kEchoBlockBytes, 2});
  for (size_t i = 0; i < 16; ++i) {
    std::string bad = good;
    bad[i] ^= 1;
    EXPECT_FALSE(DecodeEchoHello(bad).has_value()) << "byte " << i;
  }
  EXPECT_FALSE(DecodeEchoHello(good.substr(1)).has_value());
}

TEST(EchoFrameTest, HelloBeyondItsMaxima_IsRefused) {
  const EchoHello beyond[] = {
      {EchoKind::kPing, 0, 1},
      {EchoKind::kPing, 64, 0},
      {EchoKind::kPing, kMaxEchoPingBytes + 1, 1},
      {EchoKind::kPing, 64, kMaxEchoPings + 1},
      {EchoKind::kSink, kEchoBlockBytes - 1, 1},
      {EchoKind::kSink, kEchoBlockBytes, kMaxEchoBlocks + 1},
      {EchoKind::kSink, kEchoBlockBytes, ~uint64_t{0}},
      {static_cast<EchoKind>(3), 64, 1},
  };
  for (const EchoHello& hello : beyond) {
    EXPECT_FALSE(DecodeEchoHello(EncodeEchoHello(hello)).has_value())
        << static_cast<uint32_t>(hello.kind) << " " << hello.bytes << " " << hello.count;
  }
}

class EchoServerTest : public ::testing::Test {
 protected:
  void Serve(int max_connections = 32, absl::Duration time = absl::Seconds(10)) {
    auto server = EchoServer::Start(
        {.max_connections = max_connections, .connection_time = time, .clock = &clock_});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  UniqueFd Connect() {
    const auto address = ParseHostPort(server_->endpoint());
    EXPECT_TRUE(address.ok());
    UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(static_cast<uint16_t>(address->port));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::connect(fd.get(), reinterpret_cast<sockaddr*>(&to), sizeof(to)), 0);
    return fd;
  }

  // Whether the server ends the connection, with what it sent before left out.
  static bool AwaitEnd(const UniqueFd& fd) {
    char buffer[4096];
    for (;;) {
      pollfd polled{fd.get(), POLLIN, 0};
      if (::poll(&polled, 1, kLongMs) != 1) return false;
      if (::recv(fd.get(), buffer, sizeof(buffer), 0) <= 0) return true;
    }
  }

  static void Send(const UniqueFd& fd, const std::string& bytes) {
    EXPECT_EQ(::send(fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(bytes.size()));
  }

  static std::string Receive(const UniqueFd& fd, size_t bytes) {
    std::string got(bytes, '\0');
    const ssize_t count = ::recv(fd.get(), got.data(), bytes, MSG_WAITALL);
    got.resize(count < 0 ? 0 : static_cast<size_t>(count));
    return got;
  }

  v1::PreflightPeer Peer() const {
    v1::PreflightPeer peer;
    peer.set_node("n1");
    peer.set_endpoint(server_->endpoint());
    return peer;
  }

  LinkCheckOptions Quick() const {
    return {.pings = 20, .bandwidth_bytes = 1 << 20, .time = absl::Seconds(20)};
  }

  RealClock clock_;
  std::unique_ptr<EchoServer> server_;
};

TEST_F(EchoServerTest, LinkToServer_GivesLatencyAndBandwidth) {
  Serve();
  const auto checks = CheckLink(Peer(), Quick(), &clock_);
  ASSERT_EQ(checks.size(), 2u);
  for (const v1::PreflightCheck& check : checks) {
    EXPECT_TRUE(check.passed()) << check.message();
    EXPECT_GT(check.value(), 0) << check.name();
    EXPECT_EQ(check.subject(), "n1");
  }
  EXPECT_EQ(checks[0].name(), kLinkLatency);
  EXPECT_EQ(checks[0].unit(), "us");
  EXPECT_LT(checks[0].value(), 1e6);
  EXPECT_EQ(checks[1].unit(), "GB/s");
  EXPECT_LT(checks[1].value(), 1000);
}

TEST_F(EchoServerTest, NobodyListens_FailsAndNamesPeerAndEndpoint) {
  Serve();
  const v1::PreflightPeer peer = Peer();
  server_.reset();
  for (const v1::PreflightCheck& check : CheckLink(peer, Quick(), &clock_)) {
    EXPECT_FALSE(check.passed());
    EXPECT_THAT(check.message(), HasSubstr("node n1 at " + peer.endpoint()));
    EXPECT_THAT(check.message(), HasSubstr("refused"));
  }
}

TEST_F(EchoServerTest, PeerThatNeverAnswers_FailsAtTheDeadline) {
  // Takes connections into its backlog, and no more.
  const UniqueFd silent(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in at{};
  at.sin_family = AF_INET;
  at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(at);
  ASSERT_EQ(::bind(silent.get(), reinterpret_cast<sockaddr*>(&at), length), 0);
  ASSERT_EQ(::listen(silent.get(), 8), 0);
  ASSERT_EQ(::getsockname(silent.get(), reinterpret_cast<sockaddr*>(&at), &length), 0);
  v1::PreflightPeer peer;
  peer.set_node("mute");
  peer.set_endpoint(ToString(HostPort{"127.0.0.1", ntohs(at.sin_port)}));
  LinkCheckOptions options = Quick();
  options.time = absl::Milliseconds(50);
  for (const v1::PreflightCheck& check : CheckLink(peer, options, &clock_)) {
    EXPECT_FALSE(check.passed());
    EXPECT_THAT(check.message(), HasSubstr("no answer in time"));
  }
}

TEST_F(EchoServerTest, Garbage_IsClosedAndTheNextIsServed) {
  Serve();
  for (const std::string& garbage :
       {std::string("GET / HTTP/1.1\r\nHost: example\r\n\r\n"), std::string(4096, '\xff'),
        EncodeEchoHello({EchoKind::kPing, kMaxEchoPingBytes + 1, 1})}) {
    const UniqueFd fd = Connect();
    Send(fd, garbage);
    EXPECT_TRUE(AwaitEnd(fd));
  }
  EXPECT_TRUE(CheckLink(Peer(), Quick(), &clock_)[0].passed());
}

TEST_F(EchoServerTest, MoreThanPromised_IsNotSentBack) {
  Serve();
  const UniqueFd fd = Connect();
  Send(fd, EncodeEchoHello({EchoKind::kPing, 4, 2}) + "abcdefghSURPLUS");
  EXPECT_EQ(Receive(fd, 8), "abcdefgh");
  EXPECT_TRUE(AwaitEnd(fd));
}

TEST_F(EchoServerTest, HelloInPieces_IsUnderstood) {
  Serve();
  const UniqueFd fd = Connect();
  for (const char byte : EncodeEchoHello({EchoKind::kPing, 3, 1})) Send(fd, std::string(1, byte));
  Send(fd, "abc");
  EXPECT_EQ(Receive(fd, 3), "abc");
}

TEST_F(EchoServerTest, SilentConnection_IsClosedAtItsDeadline) {
  Serve(32, absl::Milliseconds(20));
  const UniqueFd fd = Connect();
  EXPECT_TRUE(AwaitEnd(fd));
}

TEST_F(EchoServerTest, ConnectionTooMany_IsClosedAtOnce) {
  Serve(2);
  std::vector<UniqueFd> held;
  for (int i = 0; i < 2; ++i) {
    held.push_back(Connect());
    Send(held.back(), EncodeEchoHello({EchoKind::kPing, 1, 10}) + "x");
    EXPECT_EQ(Receive(held.back(), 1), "x");
  }
  EXPECT_TRUE(AwaitEnd(Connect()));
  // Its place is free once one leaves; the server may need a moment to see that.
  held.pop_back();
  bool served = false;
  for (int tries = 0; tries < 1000 && !served; ++tries) {
    served = CheckLink(Peer(), Quick(), &clock_)[0].passed();
  }
  EXPECT_TRUE(served);
}

TEST_F(EchoServerTest, ManyAtOnce_AreAllServed) {
  Serve(64);
  std::vector<std::thread> threads;
  std::vector<int> passed(16, 0);
  for (int& result : passed) {
    threads.emplace_back([this, &result] {
      for (const v1::PreflightCheck& check : CheckLink(Peer(), Quick(), &clock_)) {
        result += check.passed() ? 1 : 0;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(passed, ::testing::Each(2));
}

TEST_F(EchoServerTest, StopWithOpenConnections_EndsThem) {
  Serve();
  const UniqueFd fd = Connect();
  Send(fd, EncodeEchoHello({EchoKind::kPing, 1, 10}) + "x");
  EXPECT_EQ(Receive(fd, 1), "x");
  server_.reset();
  EXPECT_TRUE(AwaitEnd(fd));
}

TEST_F(EchoServerTest, PortInUse_IsRefusedByName) {
  Serve();
  const auto port = ParseHostPort(server_->endpoint())->port;
  const auto second = EchoServer::Start({.port = port, .clock = &clock_});
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(server_->endpoint()));
}

TEST_F(EchoServerTest, HostThatIsNotThisMachines_IsRefused) {
  const auto server = EchoServer::Start({.host = "192.0.2.1", .clock = &clock_});
  EXPECT_EQ(server.status().code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace fathom::health
