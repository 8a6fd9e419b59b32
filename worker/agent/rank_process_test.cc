#include "worker/agent/rank_process.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "worker/agent/process_inspection.h"
#include "worker/agent/rank_logs.h"

namespace fathom {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

constexpr int kLongMs = 30'000;  // a test that waits this long has failed

std::string TestRank() {
  const char* runfiles = std::getenv("TEST_SRCDIR");
  return absl::StrCat(runfiles, "/fathom/worker/agent/test_rank");
}

std::string TempFolder() {
  std::string path = absl::StrCat(::testing::TempDir(), "/agent.XXXXXX");
  return ::mkdtemp(path.data());
}

bool AwaitReadable(int fd) {
  pollfd poll{fd, POLLIN, 0};
  return ::poll(&poll, 1, kLongMs) == 1;
}

class RankProcessTest : public ::testing::Test {
 protected:
  absl::StatusOr<RankProcess> Start(const std::string& script) {
    const absl::StatusOr<int> log = logs_.OpenForAppend(id_);
    if (!log.ok()) return log.status();
    const UniqueFd log_fd(*log);
    return RankProcess::Start(TestRank(), {"--script=" + script}, log_fd.get());
  }

  RankProcess Started(const std::string& script) {
    absl::StatusOr<RankProcess> process = Start(script);
    EXPECT_TRUE(process.ok()) << process.status();
    return *std::move(process);
  }

  RankExit AwaitExit(RankProcess* process) {
    EXPECT_TRUE(AwaitReadable(process->pid_fd()));
    const std::optional<RankExit> exit = process->Reap();
    EXPECT_TRUE(exit.has_value());
    return exit.value_or(RankExit());
  }

  // Up to the channel's end.
  std::vector<v1::RankEvent> AwaitEvents(RankProcess* process, absl::Status* why) {
    std::vector<v1::RankEvent> events;
    for (bool closed = false; !closed;) {
      if (!AwaitReadable(process->channel_fd())) break;
      RankProcess::Heard heard = process->Receive();
      events.insert(events.end(), heard.events.begin(), heard.events.end());
      closed = heard.closed;
      *why = heard.why;
    }
    return events;
  }

  const std::string folder_ = TempFolder();
  const RankLogs logs_{folder_};
  const RankId id_{JobId("tiny-1"), 2, 3};
};

TEST_F(RankProcessTest, ExitCode_IsClassified) {
  RankProcess process = Started("exit:3");
  const RankExit exit = AwaitExit(&process);
  EXPECT_EQ(exit.code, 3);
  EXPECT_EQ(exit.signal, 0);
  EXPECT_EQ(DescribeExit(exit), "exited with 3");
}

TEST_F(RankProcessTest, Signal_IsClassifiedByName) {
  RankProcess process = Started(absl::StrCat("signal:", SIGUSR1));
  const RankExit exit = AwaitExit(&process);
  EXPECT_EQ(exit.signal, SIGUSR1);
  EXPECT_THAT(DescribeExit(exit), StartsWith("was killed by signal 10 (SIGUSR1"));
}

TEST_F(RankProcessTest, SigkillFromElsewhere_HintsAtMemory) {
  RankProcess process = Started(absl::StrCat("signal:", SIGKILL));
  EXPECT_THAT(DescribeExit(AwaitExit(&process)), HasSubstr("out of memory"));
  EXPECT_THAT(DescribeExit({.signal = SIGKILL, .oom_kills = 2}), HasSubstr("struck 2 times"));
}

TEST_F(RankProcessTest, KilledByTheDaemon_HasNoMemoryHint) {
  RankProcess process = Started("hang");
  EXPECT_FALSE(process.Reap().has_value()) << "still running";
  process.Kill();
  const RankExit exit = AwaitExit(&process);
  EXPECT_EQ(exit.signal, SIGKILL);
  EXPECT_TRUE(exit.killed_by_us);
  EXPECT_THAT(DescribeExit(exit), Not(HasSubstr("memory")));
}

TEST_F(RankProcessTest, StopCommand_ReachesTheRank) {
  RankProcess process = Started("stop;exit:7");
  v1::RankCommand stop;
  stop.mutable_stop()->set_reason("test");
  ASSERT_TRUE(process.Send(stop).ok());
  EXPECT_EQ(AwaitExit(&process).code, 7);
}

TEST_F(RankProcessTest, CommandLargerThanTheSocketBuffer_IsSentPieceByPiece) {
  RankProcess process = Started("stop;exit:7");
  v1::RankCommand stop;
  stop.mutable_stop()->set_reason(std::string(4 << 20, 'x'));
  ASSERT_TRUE(process.Send(stop).ok());
  EXPECT_TRUE(process.wants_to_write());
  while (process.wants_to_write()) {
    pollfd poll{process.channel_fd(), POLLOUT, 0};
    ASSERT_EQ(::poll(&poll, 1, kLongMs), 1);
    ASSERT_TRUE(process.Flush().ok());
  }
  EXPECT_EQ(AwaitExit(&process).code, 7);
}

TEST_F(RankProcessTest, RankThatNeverReads_DoesNotBlockTheDaemon) {
  RankProcess process = Started("hang");
  v1::RankCommand stop;
  stop.mutable_stop()->set_reason(std::string(4 << 20, 'x'));
  ASSERT_TRUE(process.Send(stop).ok());
  EXPECT_TRUE(process.wants_to_write());
  process.Kill();
  AwaitExit(&process);
}

TEST_F(RankProcessTest, Events_ArriveInOrderBeforeTheEnd) {
  RankProcess process = Started("listen;train;step:1;step:2;finish");
  absl::Status why;
  const std::vector<v1::RankEvent> events = AwaitEvents(&process, &why);
  ASSERT_EQ(events.size(), 5u);
  EXPECT_EQ(events[0].listening(), absl::StrCat("127.0.0.1:", process.pid()));
  EXPECT_EQ(events[3].step().step(), 2);
  EXPECT_EQ(events[4].finished().weights_sha256(), "f00d");
  EXPECT_TRUE(why.ok()) << why;
  EXPECT_EQ(AwaitExit(&process).code, 0);
}

v1::RankCommand StartOf(uint64_t epoch, const std::string& script = "") {
  v1::RankCommand command;
  command.mutable_start()->mutable_plan()->set_epoch(epoch);
  command.mutable_start()->set_checkpoint_directory(script);
  return command;
}

TEST_F(RankProcessTest, ProcessStartedAhead_WaitsForItsRankAndGoesOnToALaterEpoch) {
  const UniqueFd log(::open("/dev/null", O_WRONLY | O_CLOEXEC));
  absl::StatusOr<RankProcess> process = RankProcess::Start(TestRank(), {}, log.get());
  ASSERT_TRUE(process.ok()) << process.status();
  ASSERT_TRUE(process->Send(StartOf(3, "listen;train;step:1;start;listen;step:2")).ok());
  ASSERT_TRUE(process->Send(StartOf(4)).ok());
  absl::Status why;
  std::vector<uint64_t> epochs;
  for (const v1::RankEvent& event : AwaitEvents(&*process, &why)) epochs.push_back(event.epoch());
  EXPECT_THAT(epochs, ElementsAre(3, 3, 3, 4, 4));
  EXPECT_EQ(AwaitExit(&*process).code, 0);
}

TEST_F(RankProcessTest, ChannelClosedByALivingRank_IsNoticed) {
  RankProcess process = Started("close;hang");
  absl::Status why;
  EXPECT_THAT(AwaitEvents(&process, &why), IsEmpty());
  EXPECT_TRUE(why.ok()) << why;
  EXPECT_EQ(process.channel_fd(), -1);
  EXPECT_FALSE(process.Reap().has_value());
  EXPECT_EQ(process.Send(v1::RankCommand()).code(), absl::StatusCode::kUnavailable);
}

TEST_F(RankProcessTest, Gibberish_IsDataLoss) {
  RankProcess process = Started("listen;garbage;hang");
  absl::Status why;
  EXPECT_EQ(AwaitEvents(&process, &why).size(), 1u);
  EXPECT_EQ(why.code(), absl::StatusCode::kDataLoss);
}

TEST_F(RankProcessTest, Surroundings_AreCleanWhateverTheDaemonHas) {
  ASSERT_EQ(::setenv("SECRET", "x", 1), 0);
  sigset_t blocked, before;
  ::sigemptyset(&blocked);
  ::sigaddset(&blocked, SIGTERM);
  ::pthread_sigmask(SIG_BLOCK, &blocked, &before);
  const auto handler = ::signal(SIGPIPE, SIG_IGN);
  const UniqueFd leak(::open("/dev/null", O_RDONLY));  // not closed on exec
  RankProcess process = Started("surroundings");
  EXPECT_EQ(AwaitExit(&process).code, 0);
  ::signal(SIGPIPE, handler);
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  EXPECT_EQ(logs_.Read(id_, 0, 4096)->bytes,
            "env OMP_NUM_THREADS=1\nfd 0\nfd 1\nfd 2\nfd 3\nown group 1\nSIGTERM blocked 0\n"
            "SIGPIPE default 1\n");
}

TEST_F(RankProcessTest, ChildLeftBehind_DiesWithTheRank) {
  // The child holds the write end of this pipe through its standard output.
  int fds[2];
  ASSERT_EQ(::pipe2(fds, O_CLOEXEC), 0);
  const UniqueFd read_end(fds[0]);
  UniqueFd write_end(fds[1]);
  absl::StatusOr<RankProcess> process =
      RankProcess::Start(TestRank(), {"--script=orphan;exit:0"}, write_end.get());
  ASSERT_TRUE(process.ok()) << process.status();
  write_end.reset();
  AwaitExit(&*process);
  ASSERT_TRUE(AwaitReadable(read_end.get()));
  char byte;
  EXPECT_EQ(::read(read_end.get(), &byte, 1), 0) << "end of file: nobody holds it any more";
}

TEST_F(RankProcessTest, Destruction_LeavesNoProcess) {
  pid_t pid;
  {
    RankProcess process = Started("hang");
    pid = process.pid();
    EXPECT_EQ(::kill(pid, 0), 0);
  }
  EXPECT_EQ(::kill(pid, 0), -1);
}

TEST_F(RankProcessTest, MissingBinary_IsAnErrorThatNamesIt) {
  const UniqueFd log(::open("/dev/null", O_WRONLY | O_CLOEXEC));
  const absl::Status status = RankProcess::Start("/nowhere/fathom-rank", {}, log.get()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("/nowhere/fathom-rank"));
}

TEST_F(RankProcessTest, FileThatIsNoProgram_IsAnError) {
  const UniqueFd log(::open("/dev/null", O_WRONLY | O_CLOEXEC));
  EXPECT_FALSE(RankProcess::Start("/etc/passwd", {}, log.get()).ok());
}

// --- What the kernel says ---

TEST(ProcessInspectionTest, StateAndPlace_AreSaidInWords) {
  EXPECT_EQ(DescribeProcess("Name:\tx\nState:\tT (stopped)\n", "do_signal_stop"),
            "stopped by a signal");
  EXPECT_EQ(DescribeProcess("State:\tD (disk sleep)\n", "rq_qos_wait"),
            "in disk wait in rq_qos_wait");
  EXPECT_EQ(DescribeProcess("State:\tS (sleeping)\n", "0"), "sleeping");
  EXPECT_EQ(DescribeProcess("State:\tR (running)\n", ""), "running");
  EXPECT_EQ(DescribeProcess("", ""), "gone");
  EXPECT_EQ(DescribeProcess(::getpid()), "running");
}

// --- Logs ---

class RankLogsTest : public ::testing::Test {
 protected:
  void Append(const RankId& id, const std::string& text) {
    const absl::StatusOr<int> fd = logs_.OpenForAppend(id);
    ASSERT_TRUE(fd.ok()) << fd.status();
    const UniqueFd owned(*fd);
    ASSERT_EQ(::write(owned.get(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }

  const std::string folder_ = TempFolder();
  const RankLogs logs_{folder_};
  const RankId id_{JobId("tiny-1"), 2, 3};
};

TEST_F(RankLogsTest, LogOfARank_LiesUnderJobAndEpoch) {
  Append(id_, "hello\n");
  EXPECT_TRUE(std::filesystem::exists(folder_ + "/logs/tiny-1/2/rank-3.log"));
  Append(id_, "again\n");
  const absl::StatusOr<RankLogs::Piece> piece = logs_.Read(id_, 0, 100);
  ASSERT_TRUE(piece.ok()) << piece.status();
  EXPECT_EQ(piece->bytes, "hello\nagain\n");
  EXPECT_EQ(piece->log_bytes, 12);
}

TEST_F(RankLogsTest, ReadingFromAnOffset_GivesTheRestWithinTheBound) {
  Append(id_, "0123456789");
  EXPECT_EQ(logs_.Read(id_, 4, 3)->bytes, "456");
  EXPECT_EQ(logs_.Read(id_, 8, 100)->bytes, "89");
  EXPECT_EQ(logs_.Read(id_, 10, 100)->bytes, "");
  EXPECT_EQ(logs_.Read(id_, 1000, 100)->bytes, "");
  EXPECT_EQ(logs_.Read(id_, 1000, 100)->log_bytes, 10);
  EXPECT_EQ(logs_.Read(id_, -1, 100).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(RankLogsTest, UnknownRank_IsNotFound) {
  EXPECT_EQ(logs_.Read(id_, 0, 1).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(logs_.Epochs(id_.job).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(RankLogsTest, Epochs_AreListedInOrder) {
  for (const uint64_t epoch : {10, 2, 1}) Append({id_.job, epoch, 0}, "x");
  const absl::StatusOr<std::vector<uint64_t>> epochs = logs_.Epochs(id_.job);
  ASSERT_TRUE(epochs.ok()) << epochs.status();
  EXPECT_THAT(*epochs, ElementsAre(1, 2, 10));
}

TEST_F(RankLogsTest, JobIdThatIsAPath_IsRefused) {
  for (const char* name : {"", ".", "..", "../x", "a/b", "/etc", "-rf", "a b", "a\nb"}) {
    const RankId id{JobId(name), 1, 0};
    EXPECT_EQ(logs_.OpenForAppend(id).status().code(), absl::StatusCode::kInvalidArgument) << name;
    EXPECT_EQ(logs_.Read(id, 0, 1).status().code(), absl::StatusCode::kInvalidArgument) << name;
    EXPECT_EQ(logs_.Epochs(id.job).status().code(), absl::StatusCode::kInvalidArgument) << name;
  }
  EXPECT_FALSE(logs_.OpenForAppend({JobId(std::string(129, 'a')), 1, 0}).ok());
}

TEST_F(RankLogsTest, SymbolicLinkAmongTheLogs_IsNotFollowed) {
  Append(id_, "x");
  const std::string outside = TempFolder();
  std::filesystem::create_directory_symlink(outside, folder_ + "/logs/tiny-9");
  EXPECT_FALSE(logs_.OpenForAppend({JobId("tiny-9"), 1, 0}).ok());
  std::filesystem::create_symlink("/etc/passwd", folder_ + "/logs/tiny-1/2/rank-4.log");
  EXPECT_FALSE(logs_.Read({id_.job, 2, 4}, 0, 10).ok());
  EXPECT_TRUE(std::filesystem::is_empty(outside));
}

TEST_F(RankLogsTest, LogMadeForARank_LiesWhereItIsReadAndKeepsWhatItHas) {
  Append(id_, "x");
  const absl::StatusOr<std::string> path = logs_.Create(id_);
  ASSERT_TRUE(path.ok()) << path.status();
  EXPECT_EQ(*path, folder_ + "/logs/tiny-1/2/rank-3.log");
  EXPECT_EQ(logs_.Read(id_, 0, 10)->bytes, "x");
}

TEST_F(RankLogsTest, IdleProcess_BeginsItsLogAnew) {
  for (const char* word : {"long ago", "now"}) {
    const absl::StatusOr<int> fd = logs_.OpenIdle(5);
    ASSERT_TRUE(fd.ok()) << fd.status();
    const UniqueFd owned(*fd);
    ASSERT_GT(::write(owned.get(), word, std::string(word).size()), 0);
  }
  EXPECT_EQ(std::filesystem::file_size(folder_ + "/logs/idle-5.log"), 3u);
}

TEST_F(RankLogsTest, MoreEpochsThanAreKept_LoseTheOldestOfThatJobOnly) {
  Append({JobId("other-1"), 1, 0}, "x");
  for (uint64_t epoch = 1; epoch <= RankLogs::kEpochLogsKept + 3; ++epoch) {
    Append({id_.job, epoch, 0}, "x");
  }
  const absl::StatusOr<std::vector<uint64_t>> epochs = logs_.Epochs(id_.job);
  ASSERT_TRUE(epochs.ok()) << epochs.status();
  EXPECT_EQ(epochs->size(), static_cast<size_t>(RankLogs::kEpochLogsKept));
  EXPECT_EQ(epochs->front(), 4u);
  EXPECT_TRUE(logs_.Read({JobId("other-1"), 1, 0}, 0, 1).ok());
}

TEST_F(RankLogsTest, Tail_IsTheLastWholeLinesAsUtf8) {
  EXPECT_EQ(logs_.Tail(id_), "");
  Append(id_, "one\ntwo");
  EXPECT_EQ(logs_.Tail(id_), "one\ntwo");
  std::string many;
  for (int i = 0; i < 50; ++i) absl::StrAppend(&many, "\nline ", i);
  Append(id_, many + "\n\n");
  EXPECT_THAT(logs_.Tail(id_), StartsWith("line 42\nline 43\n"));
  Append(id_, std::string(5000, 'y') + "\nlast \xff word\n");
  EXPECT_EQ(logs_.Tail(id_), "last ? word");
}

}  // namespace
}  // namespace fathom
