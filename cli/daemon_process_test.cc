#include "cli/daemon_process.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "cli/cluster_record.h"
#include "cli/pause.h"

namespace fathom::cli {
namespace {

using ::testing::HasSubstr;

std::string FreshFolder() {
  const std::string folder =
      testing::TempDir() + "/" + testing::UnitTest::GetInstance()->current_test_info()->name();
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  return folder;
}

std::string ReadAll(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

// Until the daemon has written that word to its log.
void AwaitWord(const std::string& log, const std::string& word) {
  RealPause pause;
  for (int i = 0; i < 1000 && ReadAll(log).find(word) == std::string::npos; ++i) {
    pause.For(absl::Milliseconds(10));
  }
  ASSERT_THAT(ReadAll(log), HasSubstr(word));
}

TEST(IdentifyTest, OwnProcess_IsAliveAndItself) {
  const auto self = Identify(getpid());
  ASSERT_TRUE(self.ok()) << self.status();
  EXPECT_TRUE(IsAlive(*self));
  EXPECT_EQ(*self, *Identify(getpid()));
  EXPECT_EQ(self->boot_id.size(), 36u);
}

TEST(IdentifyTest, AnotherProcessOfThatPid_IsNotTaken) {
  ProcessIdentity other = *Identify(getpid());
  ++other.start_ticks;
  EXPECT_FALSE(IsAlive(other));
  other = *Identify(getpid());
  other.boot_id = "an earlier boot";
  EXPECT_FALSE(IsAlive(other));
  EXPECT_FALSE(IsAlive(ProcessIdentity()));
}

TEST(StopProcessesTest, ReusedPid_IsNotSignalled) {
  const std::string log = FreshFolder() + "/log";
  const auto daemon = SpawnDaemon({"/bin/sleep", "1000"}, log);
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  ProcessIdentity stale = *daemon;
  --stale.start_ticks;
  RealPause pause;
  const auto killed = StopProcesses({stale}, absl::Seconds(1), pause);
  ASSERT_TRUE(killed.ok()) << killed.status();
  EXPECT_TRUE(IsAlive(*daemon));
  ASSERT_TRUE(StopProcesses({*daemon}, absl::Seconds(10), pause).ok());
  EXPECT_FALSE(IsAlive(*daemon));
}

TEST(SpawnDaemonTest, Daemon_HasOwnSessionNoInputAndItsLog) {
  const std::string log = FreshFolder() + "/log";
  const auto daemon = SpawnDaemon(
      {"/bin/sh", "-c", "read line; echo input \"$?\"; echo error >&2; echo up; exec sleep 1000"},
      log);
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  AwaitWord(log, "up\n");
  EXPECT_THAT(ReadAll(log), HasSubstr("input 1\n"));
  EXPECT_THAT(ReadAll(log), HasSubstr("error\n"));
  EXPECT_EQ(LastLogLine(log), "up");
  EXPECT_EQ(getsid(static_cast<pid_t>(daemon->pid)), daemon->pid);
  RealPause pause;
  const auto killed = StopProcesses({*daemon}, absl::Seconds(10), pause);
  ASSERT_TRUE(killed.ok()) << killed.status();
  EXPECT_EQ(*killed, 0);
  int status = 0;
  EXPECT_EQ(waitpid(static_cast<pid_t>(daemon->pid), &status, 0), daemon->pid);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM);
}

TEST(StopProcessesTest, DaemonDeafToTerm_IsKilledAfterTheGrace) {
  const std::string log = FreshFolder() + "/log";
  const auto daemon =
      SpawnDaemon({"/bin/sh", "-c", "trap '' TERM; echo deaf; exec sleep 1000"}, log);
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  AwaitWord(log, "deaf");
  RealPause pause;
  const auto killed = StopProcesses({*daemon}, absl::Milliseconds(100), pause);
  ASSERT_TRUE(killed.ok()) << killed.status();
  EXPECT_EQ(*killed, 1);
  EXPECT_FALSE(IsAlive(*daemon));
}

TEST(SpawnDaemonTest, MissingProgram_IsNamed) {
  const auto daemon = SpawnDaemon({"/nowhere/daemon"}, FreshFolder() + "/log");
  EXPECT_TRUE(absl::IsNotFound(daemon.status())) << daemon.status();
  EXPECT_THAT(std::string(daemon.status().message()), HasSubstr("/nowhere/daemon"));
}

TEST(ClusterRecordTest, RecordWritten_ReadsBackTheSame) {
  const std::string folder = FreshFolder();
  EXPECT_TRUE(absl::IsNotFound(ReadClusterRecord(folder).status()));
  ClusterRecord record;
  record.shape = {4, 2, 1};
  record.address = "127.0.0.1:7070";
  record.daemons.push_back({"coordinator", false, {17, ~uint64_t{0} >> 1, "boot"}, "a log"});
  record.daemons.push_back({"spare-0", true, {18, 5, "boot"}, "another"});
  ASSERT_TRUE(WriteClusterRecord(folder, record).ok());
  const auto back = ReadClusterRecord(folder);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->shape, record.shape);
  EXPECT_EQ(back->address, record.address);
  ASSERT_EQ(back->daemons.size(), 2u);
  EXPECT_EQ(back->daemons[0].process, record.daemons[0].process);
  EXPECT_TRUE(back->daemons[1].spare);
  EXPECT_EQ(back->daemons[1].log, "another");
}

TEST(ClusterRecordTest, DamagedFile_IsNamed) {
  const std::string folder = FreshFolder();
  for (const std::string text : {"", "[]", "{\"daemons\": 3}", "\xFF"}) {
    std::ofstream(folder + "/cluster.json", std::ios::trunc) << text;
    const auto record = ReadClusterRecord(folder);
    EXPECT_TRUE(absl::IsDataLoss(record.status())) << text << record.status();
    EXPECT_THAT(std::string(record.status().message()), HasSubstr("cluster.json"));
  }
  // Members of the wrong kind count as missing.
  std::ofstream(folder + "/cluster.json", std::ios::trunc)
      << R"({"nodes": "x", "daemons": [{"pid": "y"}, 4]})";
  const auto record = ReadClusterRecord(folder);
  ASSERT_TRUE(record.ok()) << record.status();
  EXPECT_EQ(record->daemons.size(), 2u);
  EXPECT_EQ(record->daemons[0].process.pid, 0);
}

}  // namespace
}  // namespace fathom::cli
