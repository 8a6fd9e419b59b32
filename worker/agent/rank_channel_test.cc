#include "worker/agent/rank_channel.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>
#include <thread>
#include <utility>

#include "proto/fathom/v1/worker.pb.h"

namespace fathom {
namespace {

class RankChannelTest : public ::testing::Test {
 protected:
  void SetUp() override {
    int fds[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    near_ = fds[0];
    far_ = fds[1];
  }

  // What a broken peer could write.
  void WriteRaw(const std::string& bytes) {
    ASSERT_EQ(::write(far_, bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
  }

  int near_ = -1;  // owned by the channel under test
  int far_ = -1;   // closed by each test
};

v1::RankEvent Failed(const std::string& why) {
  v1::RankEvent event;
  event.set_failed(why);
  return event;
}

TEST_F(RankChannelTest, MessagesBothWays_ArriveInOrder) {
  RankChannel near = RankChannel::FromFd(near_);
  RankChannel far = RankChannel::FromFd(far_);
  ASSERT_TRUE(near.Send(Failed("first")).ok());
  ASSERT_TRUE(near.Send(v1::RankEvent()).ok());
  ASSERT_TRUE(near.Send(Failed("third")).ok());
  v1::RankCommand stop;
  stop.mutable_stop()->set_reason("enough");
  ASSERT_TRUE(far.Send(stop).ok());

  v1::RankEvent event;
  for (const std::string want : {"first", "", "third"}) {
    const absl::StatusOr<bool> got = far.Receive(&event);
    ASSERT_TRUE(got.ok()) << got.status();
    EXPECT_TRUE(*got);
    EXPECT_EQ(event.failed(), want);
  }
  v1::RankCommand command;
  ASSERT_TRUE(*near.Receive(&command));
  EXPECT_EQ(command.stop().reason(), "enough");
}

TEST_F(RankChannelTest, MessageLargerThanTheSocketBuffer_ArrivesWhole) {
  RankChannel near = RankChannel::FromFd(near_);
  RankChannel far = RankChannel::FromFd(far_);
  const std::string big(8 << 20, 'x');
  absl::Status sent;
  std::thread writer([&] { sent = near.Send(Failed(big)); });
  v1::RankEvent event;
  const absl::StatusOr<bool> got = far.Receive(&event);
  writer.join();
  EXPECT_TRUE(sent.ok()) << sent;
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(event.failed(), big);
}

TEST_F(RankChannelTest, OtherEndClosedBetweenMessages_IsEndOfFile) {
  RankChannel near = RankChannel::FromFd(near_);
  {
    RankChannel far = RankChannel::FromFd(far_);
    ASSERT_TRUE(far.Send(Failed("last words")).ok());
  }
  v1::RankEvent event;
  EXPECT_TRUE(*near.Receive(&event));
  EXPECT_EQ(event.failed(), "last words");
  const absl::StatusOr<bool> end = near.Receive(&event);
  ASSERT_TRUE(end.ok()) << end.status();
  EXPECT_FALSE(*end);
  EXPECT_EQ(near.Send(event).code(), absl::StatusCode::kUnavailable);
}

TEST_F(RankChannelTest, ClosedInsideAHeader_SaysSo) {
  RankChannel near = RankChannel::FromFd(near_);
  WriteRaw(std::string("\x05\x00", 2));
  ::close(far_);
  v1::RankEvent event;
  const absl::Status status = near.Receive(&event).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(status.message().find("header"), std::string::npos) << status;
}

TEST_F(RankChannelTest, ClosedInsideAMessage_SaysHowMuchCame) {
  RankChannel near = RankChannel::FromFd(near_);
  WriteRaw(std::string("\x05\x00\x00\x00xyz", 7));
  ::close(far_);
  v1::RankEvent event;
  const absl::Status status = near.Receive(&event).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(status.message().find("3 of 5 bytes"), std::string::npos) << status;
}

TEST_F(RankChannelTest, AnnouncedLengthAboveTheLimit_IsRefusedBeforeReadingIt) {
  RankChannel near = RankChannel::FromFd(near_);
  WriteRaw("GET / HTTP/1.1\r\n");
  v1::RankEvent event;
  const absl::Status status = near.Receive(&event).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_NE(status.message().find("does not speak"), std::string::npos) << status;
  ::close(far_);
}

TEST_F(RankChannelTest, BytesThatAreNoMessage_AreDataLoss) {
  RankChannel near = RankChannel::FromFd(near_);
  WriteRaw(std::string("\x02\x00\x00\x00\x0a\x7f", 6));
  v1::RankEvent event;
  EXPECT_EQ(near.Receive(&event).status().code(), absl::StatusCode::kDataLoss);
  ::close(far_);
}

TEST_F(RankChannelTest, MessageAboveTheLimit_IsNotSent) {
  RankChannel near = RankChannel::FromFd(near_);
  const absl::Status status = near.Send(Failed(std::string(kRankMessageBytesMax, 'x')));
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  ASSERT_EQ(::fcntl(far_, F_SETFL, O_NONBLOCK), 0);
  char byte;
  EXPECT_EQ(::read(far_, &byte, 1), -1);
  ::close(far_);
}

TEST_F(RankChannelTest, Shutdown_EndsAReceiveInAnotherThread) {
  RankChannel near = RankChannel::FromFd(near_);
  absl::StatusOr<bool> got = true;
  std::thread reader([&] {
    v1::RankEvent event;
    got = near.Receive(&event);
  });
  near.Shutdown();
  reader.join();
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_FALSE(*got);
  ::close(far_);
}

TEST(RankFrameDecoderTest, BytesOneByOne_GiveTheSameMessages) {
  std::string stream;
  for (const std::string why : {"a", "", "longer words"}) {
    stream += *EncodeRankMessage(Failed(why));
  }
  RankFrameDecoder decoder;
  std::vector<std::string> got;
  for (const char byte : stream) {
    decoder.Append(std::string(1, byte));
    for (;;) {
      absl::StatusOr<std::optional<std::string>> payload = decoder.Next();
      ASSERT_TRUE(payload.ok()) << payload.status();
      if (!payload->has_value()) break;
      v1::RankEvent event;
      ASSERT_TRUE(event.ParseFromString(**payload));
      got.push_back(event.failed());
    }
  }
  EXPECT_EQ(got, (std::vector<std::string>{"a", "", "longer words"}));
  EXPECT_EQ(decoder.pending_bytes(), 0u);
}

TEST(RankFrameDecoderTest, LengthAboveTheLimit_IsDataLoss) {
  RankFrameDecoder decoder;
  decoder.Append("\xff\xff\xff\xff");
  EXPECT_EQ(decoder.Next().status().code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace fathom
