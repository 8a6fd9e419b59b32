// Whole commands against a coordinator in memory: drains, preflights, the queue, and the story of a
// job that recovered.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/exit_code.h"
#include "cli/job_description.h"
#include "cli/resources.h"
#include "cli/test_environment.h"

namespace fathom::cli {
namespace {

using Json = nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

class OperationsTest : public testing::Test {
 protected:
  OperationsTest()
      : ctl(testing::TempDir() + "/operations-" +
            testing::UnitTest::GetInstance()->current_test_info()->name()) {
    v1::NodeStatus node;
    node.mutable_node()->set_name("node-1");
    node.set_state(v1::NODE_STATE_READY);
    for (int rank : {2, 3}) {
      node.add_ranks()->set_rank(rank);
      node.mutable_ranks(rank - 2)->set_job("sea-1");
    }
    node.set_held_devices(2);
    ctl.coordinator.nodes = {node};
    v1::DrainedJob* job = ctl.coordinator.drain_answer.add_jobs();
    job->set_job("sea-1");
    job->set_ranks(2);
    job->add_to("spare-0");
  }

  v1::NodeStatus& node() { return ctl.coordinator.nodes[0]; }

  void Empty() {
    node().clear_ranks();
    node().set_held_devices(0);
  }

  v1::PreflightReport Report(bool passed) {
    v1::PreflightReport report;
    report.set_id("p-7");
    report.set_passed(passed);
    report.set_finished_ms(5);
    report.set_verdict(passed ? "all is well" : "disk_write is too slow");
    v1::PreflightCheck* check = report.add_checks();
    check->set_name("disk_write");
    check->set_subject("/scratch");
    check->set_passed(passed);
    check->set_value(0.25);
    check->set_threshold(0.5);
    check->set_unit("GB/s");
    check->set_calibrated(true);
    return report;
  }

  TestEnvironment ctl;
};

TEST_F(OperationsTest, WrongUse_IsOneLineOfUsage) {
  for (const std::vector<std::string>& wrong : std::vector<std::vector<std::string>>{
           {"drain"},
           {"drain", "node-1"},
           {"drain", "node-1", "--reason", "r", "--with", "n"},
           {"drain", "node-1", "--reason", "r", "--deadline", "x"},
           {"drain", "node-1", "--reason", "r", "--deadline", "-1s"},
           {"cordon", "node-1"},
           {"undrain"},
           {"replace"},
           {"preflight"},
           {"suspend"},
           {"resume"},
           {"explain"}}) {
    EXPECT_EQ(ctl.Run(wrong), kExitUsage) << testing::PrintToString(wrong);
    EXPECT_THAT(ctl.err(), HasSubstr("--help"));
  }
  EXPECT_THAT(ctl.coordinator.addresses, IsEmpty());
}

TEST_F(OperationsTest, EveryVerb_PassesOnRefusalAndAbsence) {
  const std::vector<std::vector<std::string>> verbs = {{"drain", "node-1", "--reason", "r"},
                                                       {"replace", "node-1"},
                                                       {"undrain", "node-1"},
                                                       {"uncordon", "node-1"},
                                                       {"cordon", "node-1", "--reason", "r"},
                                                       {"preflight", "node-1", "--wait"},
                                                       {"suspend", "sea"},
                                                       {"resume", "sea"}};
  for (const auto& verb : verbs) {
    ctl.coordinator.refusal = absl::FailedPreconditionError("not now");
    EXPECT_EQ(ctl.Run(verb), kExitRefused) << verb[0];
    EXPECT_EQ(ctl.err(), "fathomctl: not now\n");
    ctl.coordinator.refusal = absl::NotFoundError("there is no such thing");
    EXPECT_EQ(ctl.Run(verb), kExitNotFound) << verb[0];
    ctl.coordinator.failure = absl::UnavailableError("away");
    EXPECT_EQ(ctl.Run(verb), kExitUnreachable) << verb[0];
    ctl.coordinator.failure = absl::OkStatus();
  }
  ctl.coordinator.failure = absl::UnavailableError("away");
  EXPECT_EQ(ctl.Run({"explain", "sea"}), kExitUnreachable);
  EXPECT_EQ(ctl.Run({"get", "queue"}), kExitUnreachable);
}

TEST_F(OperationsTest, Drain_SaysWhoAsksAndWhatMovesWhere) {
  EXPECT_EQ(
      ctl.Run({"drain", "node-1", "--reason", "fan is loud", "--deadline", "10m", "-o", "json"}),
      kExitOk)
      << ctl.err();
  const Json answer = Json::parse(ctl.out());
  EXPECT_EQ(answer["jobs"][0]["to"][0], "spare-0");
  EXPECT_EQ(answer["jobs"][0]["ranks"], 2);
  EXPECT_EQ(answer["dry_run"], false);
  ASSERT_EQ(ctl.coordinator.drained.size(), 1u);
  const v1::DrainNodeRequest& request = ctl.coordinator.drained[0];
  EXPECT_EQ(request.node(), "node-1");
  EXPECT_EQ(request.reason(), "fan is loud");
  EXPECT_EQ(request.actor(), "ada");
  EXPECT_EQ(request.deadline_s(), 600);
  EXPECT_THAT(request.request_id(), Not(IsEmpty()));
  EXPECT_EQ(ctl.Run({"drain", "node-1", "--reason", "r", "--dry-run", "--wait", "--actor", "cron",
                     "--deadline", "90"}),
            kExitOk);
  EXPECT_THAT(ctl.out(), HasSubstr("would be drained"));
  EXPECT_THAT(ctl.out(), HasSubstr("spare-0"));
  EXPECT_TRUE(ctl.coordinator.drained[1].dry_run());
  EXPECT_EQ(ctl.coordinator.drained[1].actor(), "cron");
  EXPECT_EQ(ctl.coordinator.drained[1].deadline_s(), 90);
  EXPECT_EQ(ctl.Run({"replace", "node-1", "--with", "spare-0"}), kExitOk);
  EXPECT_EQ(ctl.coordinator.drained[2].replacement(), "spare-0");
}

TEST_F(OperationsTest, DrainAndWait_EndsWhenTheNodeIsEmpty) {
  node().mutable_admin()->set_draining(true);
  int looks = 0;
  ctl.coordinator.before_list_nodes = [&] {
    ctl.coordinator.failure = ++looks == 2 ? absl::UnavailableError("away") : absl::OkStatus();
    if (looks == 4) node().mutable_ranks()->RemoveLast();
    if (looks == 5) Empty();
  };
  EXPECT_EQ(ctl.Run({"drain", "node-1", "--reason", "r", "--wait"}), kExitOk) << ctl.err();
  EXPECT_THAT(ctl.out(), HasSubstr("node-1: 2 ranks of sea-1, 2 devices held\n"));
  EXPECT_THAT(ctl.out(), HasSubstr("the coordinator is away"));
  EXPECT_THAT(ctl.out(), HasSubstr("node-1: 1 ranks of sea-1, 2 devices held\n"));
  EXPECT_THAT(ctl.out(), HasSubstr("node-1: drained\n"));
  EXPECT_EQ(looks, 5);
}

TEST_F(OperationsTest, DrainThatTakesTooLongOrIsEnded_SaysSo) {
  node().mutable_admin()->set_draining(true);
  EXPECT_EQ(ctl.Run({"drain", "node-1", "--reason", "r", "--wait", "--timeout", "2s"}),
            kExitTimeOut);
  EXPECT_THAT(ctl.err(), HasSubstr("fathomctl describe node node-1"));
  node().clear_admin();
  EXPECT_EQ(ctl.Run({"drain", "node-1", "--reason", "r", "--wait"}), kExitError);
  EXPECT_THAT(ctl.err(), HasSubstr("ended by somebody"));
}

TEST_F(OperationsTest, CordonAndUndrain_NameActorAndNode) {
  EXPECT_EQ(ctl.Run({"cordon", "node-1", "--reason", "look at it first"}), kExitOk);
  EXPECT_THAT(ctl.out(), HasSubstr("node node-1 gets no new ranks"));
  EXPECT_EQ(ctl.Run({"undrain", "node-1", "-o", "json"}), kExitOk);
  EXPECT_EQ(Json::parse(ctl.out())["node"], "node-1");
  EXPECT_EQ(ctl.Run({"uncordon", "node-1"}), kExitOk);
  EXPECT_EQ(ctl.coordinator.cordoned[0].actor(), "ada");
  EXPECT_EQ(ctl.coordinator.cordoned[0].reason(), "look at it first");
  ASSERT_EQ(ctl.coordinator.undrained.size(), 2u);
  EXPECT_EQ(ctl.coordinator.undrained[1].node(), "node-1");
}

TEST_F(OperationsTest, PreflightAndWait_ShowsChecksAndTellsByItsExitCode) {
  EXPECT_EQ(ctl.Run({"preflight", "node-1"}), kExitOk);
  EXPECT_THAT(ctl.out(), HasSubstr("preflight p-7 of node node-1 asked for"));
  *node().mutable_preflight() = Report(true);
  node().mutable_preflight()->set_id("p-6");  // an older one
  int looks = 0;
  bool passes = true;
  ctl.coordinator.before_list_nodes = [&] {
    if (++looks >= 3) *node().mutable_preflight() = Report(passes);
  };
  EXPECT_EQ(ctl.Run({"preflight", "node-1", "--wait"}), kExitOk) << ctl.err();
  EXPECT_EQ(looks, 3);
  EXPECT_THAT(ctl.out(), HasSubstr("disk_write  /scratch  passed   0.25  GB/s  >= 0.5 (fleet)"));
  EXPECT_THAT(ctl.out(), HasSubstr("node node-1 passed: all is well"));
  passes = false;
  EXPECT_EQ(ctl.Run({"preflight", "node-1", "--wait", "-o", "json"}), kExitError);
  EXPECT_EQ(Json::parse(ctl.out())["preflight"]["checks"][0]["passed"], false);
  EXPECT_THAT(ctl.err(), HasSubstr("did not pass its preflight: disk_write is too slow"));
  ctl.coordinator.before_list_nodes = nullptr;
  node().clear_preflight();
  EXPECT_EQ(ctl.Run({"preflight", "node-1", "--wait", "--timeout", "3"}), kExitTimeOut);
  node().set_state(v1::NODE_STATE_LOST);
  EXPECT_EQ(ctl.Run({"preflight", "node-1", "--wait"}), kExitError);
  EXPECT_THAT(ctl.err(), HasSubstr("was lost"));
}

TEST_F(OperationsTest, SuspendAndResume_SayWhatFollows) {
  EXPECT_EQ(ctl.Run({"suspend", "sea", "--reason", "weekend"}), kExitOk);
  EXPECT_EQ(ctl.out(), "job sea is RUNNING: suspended once its state is saved\n");
  EXPECT_EQ(ctl.coordinator.suspended[0].reason(), "weekend");
  EXPECT_EQ(ctl.coordinator.suspended[0].actor(), "ada");
  EXPECT_EQ(ctl.Run({"resume", "sea", "-o", "yaml"}), kExitOk);
  EXPECT_THAT(ctl.out(), HasSubstr("state: PENDING\n"));
  EXPECT_EQ(ctl.coordinator.resumed[0].name(), "sea");
}

TEST_F(OperationsTest, ExplainAndQueue_ShowTheOrderAndWhatIsAwaited) {
  EXPECT_EQ(ctl.Run({"get", "queue"}), kExitOk);
  EXPECT_EQ(ctl.out(), "no job waits\n");
  v1::ExplainJobResponse& explanation = ctl.coordinator.explanation;
  explanation.set_name("sea");
  explanation.set_id("sea-1");
  explanation.set_state(v1::JOB_STATE_PENDING);
  explanation.set_summary("sea waits for 4 devices");
  explanation.add_lines("sky is ahead of it: priority 5");
  for (const char* job : {"sky-2", "sea-1"}) {
    v1::QueueEntry* entry = explanation.add_queue();
    entry->set_job(job);
    entry->set_devices(4);
    entry->set_waits_for("4 devices, 2 are free");
  }
  v1::JobStatus job;
  job.set_name("sea");
  job.set_id("sea-1");
  job.set_state(v1::JOB_STATE_PENDING);
  ctl.coordinator.jobs = {job};
  EXPECT_EQ(ctl.Run({"explain", "sea"}), kExitOk);
  EXPECT_THAT(ctl.out(), HasSubstr("sea waits for 4 devices\n  sky is ahead of it: priority 5\n"));
  EXPECT_THAT(ctl.out(), HasSubstr("4 devices, 2 are free"));
  EXPECT_EQ(ctl.Run({"explain", "sea", "-o", "json"}), kExitOk);
  const Json explained = Json::parse(ctl.out());
  EXPECT_EQ(explained["state"], "PENDING");
  EXPECT_EQ(explained["lines"][0], "sky is ahead of it: priority 5");
  EXPECT_EQ(explained["queue"][1]["job"], "sea-1");
  EXPECT_EQ(ctl.Run({"get", "queue", "-o", "name"}), kExitOk);
  EXPECT_EQ(ctl.out(), "sky-2\nsea-1\n");
  EXPECT_EQ(ctl.Run({"explain", "sun"}), kExitNotFound);
}

TEST_F(OperationsTest, Nodes_SayWhetherTheyServeAndWhyNot) {
  node().mutable_admin()->set_draining(true);
  node().mutable_admin()->set_cordoned(true);
  node().mutable_admin()->set_reason("fan is loud");
  node().mutable_admin()->set_actor("ada");
  EXPECT_EQ(ctl.Run({"get", "nodes"}), kExitOk);
  EXPECT_THAT(ctl.out(), HasSubstr("DRAINING"));
  EXPECT_THAT(ctl.out(), HasSubstr("fan is loud (ada)"));
  Empty();
  EXPECT_EQ(SchedulabilityText(node()), "DRAINED");
  node().mutable_admin()->set_draining(false);
  EXPECT_EQ(SchedulabilityText(node()), "CORDONED");
  node().clear_admin();
  *node().mutable_preflight() = Report(false);
  EXPECT_EQ(SchedulabilityText(node()), "UNFIT");
  node().set_state(v1::NODE_STATE_LOST);
  EXPECT_EQ(SchedulabilityText(node()), "LOST");
  v1::HealthSignal* signal = node().mutable_health()->add_signals();
  signal->set_source("xid");
  signal->set_severity(v1::SEVERITY_FATAL);
  EXPECT_EQ(ctl.Run({"describe", "node", "node-1", "-o", "json"}), kExitOk);
  const Json described = Json::parse(ctl.out());
  EXPECT_EQ(described["schedulability"], "LOST");
  EXPECT_EQ(described["preflight"], "failed");
  EXPECT_EQ(described["preflight_report"]["checks"][0]["threshold"], 0.5);
  EXPECT_EQ(described["health"]["signals"][0]["severity"], "FATAL");
  EXPECT_TRUE(described["admin"].is_null());
}

v1::RecoveryRecord Recovery() {
  v1::RecoveryRecord recovery;
  recovery.set_epoch(2);
  recovery.set_cause("node_lost");
  recovery.set_node("node-1");
  recovery.set_steps_redone(1);
  recovery.set_resumed_step(41);
  recovery.set_source("memory");
  recovery.set_pause_seconds(1.5);
  recovery.set_detect(0.5);
  recovery.set_decide(0.25);
  recovery.set_fence(-1);
  recovery.set_rejoin(0.125);
  recovery.set_load(0);
  recovery.set_first_step(0.625);
  recovery.set_finished(true);
  recovery.add_lost_nodes("node-1");
  recovery.add_joined_nodes("spare-0");
  return recovery;
}

TEST_F(OperationsTest, DescribeJob_TellsItsStory) {
  v1::JobStatus job;
  job.set_name("sea");
  job.set_id("sea-1");
  job.set_replicas_shed(1);
  job.mutable_job()->mutable_spec()->mutable_scheduling()->set_priority(7);
  *job.add_recoveries() = Recovery();
  v1::RankDiagnosis* stuck = job.add_diagnoses();
  stuck->set_instruction("F1.3");
  stuck->set_seconds(31);
  stuck->set_stack("wait\nexchange\nforward\nstep\nmain\n");
  ctl.coordinator.jobs = {job};
  EXPECT_EQ(ctl.Run({"describe", "job", "sea", "-o", "json"}), kExitOk);
  const Json described = Json::parse(ctl.out());
  EXPECT_EQ(described["priority"], 7);
  EXPECT_EQ(described["replicas_shed"], 1);
  const Json& recovery = described["recoveries"][0];
  EXPECT_EQ(recovery["cause"], "node_lost");
  EXPECT_EQ(recovery["node"], "node-1");
  EXPECT_EQ(recovery["epoch"], 2);
  EXPECT_EQ(recovery["steps_redone"], 1);
  EXPECT_EQ(recovery["pause_seconds"], 1.5);
  EXPECT_EQ(recovery["detect"], 0.5);
  EXPECT_EQ(recovery["decide"], 0.25);
  EXPECT_TRUE(recovery["fence"].is_null());
  EXPECT_EQ(recovery["load"], 0);
  EXPECT_EQ(recovery["rejoin"], 0.125);
  EXPECT_EQ(recovery["first_step"], 0.625);
  EXPECT_EQ(described["diagnoses"][0]["instruction"], "F1.3");
  EXPECT_EQ(described["diagnoses"][0]["seconds"], 31);
  EXPECT_THAT(described["diagnoses"][0]["frames"],
              ElementsAre("wait", "exchange", "forward", "step"));
  EXPECT_EQ(ctl.Run({"describe", "job", "sea"}), kExitOk);
  EXPECT_THAT(ctl.out(),
              HasSubstr("epoch 2: node_lost of node-1; left: node-1; joined: spare-0; went on from "
                        "step 41 (memory); 1 step redone, pause 1.50s: detect 0.50s, decide 0.25s, "
                        "rejoin 0.12s, load 0.00s, first step 0.62s"))
      << ctl.out();
}

TEST_F(OperationsTest, UnfinishedRecovery_ClaimsNothing) {
  v1::RecoveryRecord recovery;
  recovery.set_epoch(3);
  recovery.set_cause("drain");
  recovery.set_decide(-1);
  recovery.set_detect(-1);
  recovery.set_fence(-1);
  recovery.set_rejoin(-1);
  recovery.set_load(-1);
  recovery.set_first_step(-1);
  EXPECT_EQ(RecoveryStory(recovery), "epoch 3: drain; not finished");
  EXPECT_THAT(ToJson(RecoveryValue(recovery)), HasSubstr("\"pause_seconds\": null"));
}

}  // namespace
}  // namespace fathom::cli
