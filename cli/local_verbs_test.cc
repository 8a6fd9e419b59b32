// A local cluster of real processes that stand in for the daemons.
#include "cli/local_verbs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/cluster_record.h"
#include "cli/exit_code.h"
#include "cli/find_program.h"
#include "cli/pause.h"
#include "cli/test_environment.h"

namespace fathom::cli {
namespace {

using Json = nlohmann::json;
using ::testing::HasSubstr;

// Says where it listens, as a coordinator does, and waits to be ended.
constexpr char kCoordinator[] = R"(#!/bin/sh
while [ $# -gt 1 ]; do
  case $1 in
    --state-directory) dir=$2 ;;
    --listen-address) address=$2 ;;
  esac
  shift
done
printf '{"address": "%s", "metrics_address": "m", "pid": %d}' "$address" $$ > "$dir/new.json"
mv "$dir/new.json" "$dir/coordinator.json"
exec sleep 1000
)";
constexpr char kWorker[] = "#!/bin/sh\necho \"$@\"\nexec sleep 1000\n";
constexpr char kBrokenWorker[] = "#!/bin/sh\necho no room aboard\nexit 1\n";

class LocalVerbsTest : public testing::Test {
 protected:
  LocalVerbsTest()
      : ctl_(testing::TempDir() + "/" +
                 testing::UnitTest::GetInstance()->current_test_info()->name(),
             &pause_),
        state_(ctl_.folder() + "/state") {
    WriteProgram("fathom-coordinator", kCoordinator);
    WriteProgram("fathom-worker", kWorker);
    ctl_.variables["FATHOM_BIN_DIR"] = ctl_.folder() + "/bin";
    // Every node that runs reports.
    ctl_.coordinator.before_list_nodes = [this] {
      ctl_.coordinator.nodes.clear();
      const auto record = ReadClusterRecord(state_);
      for (size_t i = 1; record.ok() && i < record->daemons.size(); ++i) {
        if (!IsAlive(record->daemons[i].process)) continue;
        v1::NodeStatus node;
        node.mutable_node()->set_name(record->daemons[i].name);
        node.set_pid(record->daemons[i].process.pid);
        node.set_state(record->daemons[i].spare ? v1::NODE_STATE_SPARE : v1::NODE_STATE_READY);
        node.mutable_preflight()->set_id("start");
        ctl_.coordinator.nodes.push_back(node);
      }
    };
  }
  ~LocalVerbsTest() override { ctl_.Run({"local", "down", "--grace", "5"}); }

  void WriteProgram(const std::string& name, const std::string& text) {
    const std::string folder = ctl_.folder() + "/bin";
    std::filesystem::create_directories(folder);
    std::ofstream(folder + "/" + name) << text;
    std::filesystem::permissions(folder + "/" + name, std::filesystem::perms::owner_all);
  }

  std::vector<int64_t> Pids() {
    std::vector<int64_t> pids;
    const auto record = ReadClusterRecord(state_);
    EXPECT_TRUE(record.ok()) << record.status();
    for (const DaemonRecord& daemon : record->daemons) pids.push_back(daemon.process.pid);
    return pids;
  }

  std::string Log(const std::string& name) {
    std::ifstream file(state_ + "/logs/" + name + ".log");
    return {std::istreambuf_iterator<char>(file), {}};
  }

  RealPause pause_;
  TestEnvironment ctl_;
  const std::string state_;
};

TEST_F(LocalVerbsTest, UpStatusAndDown_TellWhatRuns) {
  EXPECT_EQ(ctl_.Run({"local", "status"}), kExitNotFound);
  EXPECT_EQ(ctl_.Run({"local", "down"}), kExitNotFound);
  ASSERT_EQ(ctl_.Run({"local", "up", "--nodes", "2", "--ranks-per-node", "3", "--spares", "1",
                      "--coordinator-port", "0"}),
            kExitOk)
      << ctl_.err();
  EXPECT_THAT(ctl_.out(),
              HasSubstr("up: 2 nodes of 3 ranks and 1 spares, coordinator 127.0.0.1:0"));
  EXPECT_THAT(ctl_.out(), HasSubstr("spare-0"));
  const std::vector<int64_t> pids = Pids();
  EXPECT_EQ(pids.size(), 4u);
  EXPECT_THAT(Log("node-1"), HasSubstr("--coordinator-address 127.0.0.1:0 --node-name node-1"));
  EXPECT_THAT(Log("node-1"), HasSubstr("--devices 3"));
  EXPECT_THAT(Log("node-1"), testing::Not(HasSubstr("--spare")));
  EXPECT_THAT(Log("spare-0"), HasSubstr("--spare"));

  EXPECT_EQ(ctl_.Run({"local", "status", "-o", "json"}), kExitOk);
  const Json items = Json::parse(ctl_.out())["items"];
  ASSERT_EQ(items.size(), 4u);
  EXPECT_EQ(items[0]["name"], "coordinator");
  EXPECT_EQ(items[1]["state"], "READY");
  EXPECT_EQ(items[1]["pid"], pids[1]);
  EXPECT_EQ(items[3]["state"], "SPARE");

  // Again, without saying what: nothing is started.
  EXPECT_EQ(ctl_.Run({"local", "up"}), kExitOk);
  EXPECT_THAT(ctl_.out(), HasSubstr("already up"));
  EXPECT_EQ(Pids(), pids);

  EXPECT_EQ(ctl_.Run({"local", "down"}), kExitOk);
  EXPECT_THAT(ctl_.out(), HasSubstr("down: 4 daemons stopped"));
  for (const int64_t pid : pids) EXPECT_FALSE(Identify(pid).ok()) << pid;
  EXPECT_EQ(ctl_.Run({"local", "status"}), kExitError);
  EXPECT_THAT(ctl_.err(), HasSubstr("4 of 4 daemons don't run"));
  EXPECT_EQ(ctl_.Run({"local", "down"}), kExitOk);
  EXPECT_THAT(ctl_.out(), HasSubstr("already down"));
}

TEST_F(LocalVerbsTest, LostDaemon_IsStartedAgainAndOthersAreKept) {
  ASSERT_EQ(ctl_.Run({"local", "up", "--nodes", "2"}), kExitOk) << ctl_.err();
  const std::vector<int64_t> before = Pids();
  kill(static_cast<pid_t>(before[2]), SIGKILL);
  const auto record = ReadClusterRecord(state_);
  for (int i = 0; i < 500 && IsAlive(record->daemons[2].process); ++i) {
    pause_.For(absl::Milliseconds(10));
  }
  EXPECT_EQ(ctl_.Run({"local", "status"}), kExitError);
  ASSERT_EQ(ctl_.Run({"local", "up"}), kExitOk) << ctl_.err();
  const std::vector<int64_t> after = Pids();
  EXPECT_EQ(after[0], before[0]);
  EXPECT_EQ(after[1], before[1]);
  EXPECT_NE(after[2], before[2]);
}

TEST_F(LocalVerbsTest, AnotherShape_IsRefusedWhileItRuns) {
  ASSERT_EQ(ctl_.Run({"local", "up", "--nodes", "1"}), kExitOk) << ctl_.err();
  EXPECT_EQ(ctl_.Run({"local", "up", "--nodes", "2"}), kExitRefused);
  EXPECT_THAT(ctl_.err(), HasSubstr("fathomctl local down first"));
  EXPECT_EQ(Pids().size(), 2u);
  ASSERT_EQ(ctl_.Run({"local", "down"}), kExitOk);
  EXPECT_EQ(ctl_.Run({"local", "up", "--nodes", "2"}), kExitOk) << ctl_.err();
  EXPECT_EQ(Pids().size(), 3u);
}

TEST_F(LocalVerbsTest, DaemonThatEndsAtOnce_IsReportedWithItsLastWords) {
  WriteProgram("fathom-worker", kBrokenWorker);
  EXPECT_EQ(ctl_.Run({"local", "up", "--nodes", "1"}), kExitError);
  EXPECT_THAT(ctl_.err(), HasSubstr("no room aboard"));
  // Whatever did start is known to `down`.
  EXPECT_EQ(ctl_.Run({"local", "down"}), kExitOk);
  EXPECT_THAT(ctl_.out(), HasSubstr("1 daemons stopped"));
}

TEST_F(LocalVerbsTest, NodesThatNeverReport_AreATimeOut) {
  ctl_.coordinator.before_list_nodes = nullptr;
  EXPECT_EQ(ctl_.Run({"local", "up", "--nodes", "1", "--timeout", "0.3"}), kExitTimeOut);
  EXPECT_THAT(ctl_.err(), HasSubstr("all nodes to be READY"));
}

TEST_F(LocalVerbsTest, MissingProgram_IsNamedWithWhereItWasLookedFor) {
  std::filesystem::remove(ctl_.folder() + "/bin/fathom-coordinator");
  EXPECT_EQ(ctl_.Run({"local", "up"}), kExitNotFound);
  EXPECT_THAT(ctl_.err(), HasSubstr("bin/fathom-coordinator"));
  EXPECT_THAT(ctl_.err(), HasSubstr("../coordinator/service/fathom-coordinator"));
  EXPECT_TRUE(FindProgram(ctl_.environment(), "fathom-worker", "worker/agent").ok());
}

}  // namespace
}  // namespace fathom::cli
