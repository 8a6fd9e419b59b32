#include "coordinator/planner/whatif.h"

#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/cluster/cluster_description.h"
#include "common/plan/job_resolve.h"
#include "coordinator/planner/state_bytes.h"
#include "coordinator/planner/survivability.h"
#include "coordinator/planner/topology_placement.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace fathom::planner {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::Gt;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

v1::Job JobOf(const std::string& preset, int pipeline, int expert, int replicas,
              int64_t micro_batches) {
  v1::Job job;
  job.set_api_version("fathom/v1");
  job.set_kind("Job");
  v1::JobSpec* spec = job.mutable_spec();
  spec->mutable_model()->set_preset(preset);
  spec->mutable_data()->set_token_file("/data/tokens");
  spec->mutable_parallelism()->set_pipeline(pipeline);
  spec->mutable_parallelism()->set_expert(expert);
  spec->mutable_parallelism()->set_replicas(replicas);
  spec->mutable_training()->set_micro_batches(micro_batches);
  spec->mutable_training()->set_steps(1000);
  return job;
}

cluster::Topology TopologyOf(const std::string& device, int nodes, int devices, int spares,
                             int nodes_per_leaf) {
  v1::ClusterDescription given;
  given.set_api_version("fathom/v1");
  given.set_kind("Cluster");
  given.mutable_metadata()->set_name("test");
  v1::Pool* pool = given.mutable_spec()->add_pools();
  pool->set_name("a");
  pool->set_device(device);
  pool->set_nodes(nodes + spares);
  pool->set_spares(spares);
  pool->set_devices_per_node(devices);
  pool->set_nodes_per_leaf(nodes_per_leaf);
  pool->set_dollars_per_device_hour(2);
  given.mutable_spec()->mutable_storage()->set_read_gigabytes_per_second(100);
  given.mutable_spec()->mutable_storage()->set_write_gigabytes_per_second(50);
  const auto resolved = cluster::ResolveCluster(given);
  EXPECT_TRUE(resolved.ok()) << resolved.status();
  return cluster::Topology(resolved->spec());
}

// A job of 2 x 4 x `replicas` ranks on nodes of 4.
struct Case {
  Case(int replicas, int spares, int64_t checkpoint_every = 50)
      : topology(TopologyOf("h800", 2 * replicas, 4, spares, 2)) {
    v1::Job job = JobOf("tiny", 2, 4, replicas, 4);
    job.mutable_spec()->mutable_checkpoint()->set_every_steps(checkpoint_every);
    spec = plan::ResolveJob(job).value().spec();
    Plan();
  }
  void Plan() {
    plan = PlanOnTopology("job", 1, spec, topology).value();
    what.plan = &plan;
    what.topology = &topology;
    what.step_seconds = 10;
  }
  // The node that keeps the state of that one's ranks.
  std::string BuddyOf(const std::string& node) const {
    const v1::Survivability survivability = SurvivabilityOf(plan);
    for (const v1::NodePair& pair : survivability.fatal_pairs()) {
      if (pair.first() == node) return pair.second();
      if (pair.second() == node) return pair.first();
    }
    return "";
  }

  cluster::Topology topology;
  v1::JobSpec spec;
  v1::Plan plan;
  WhatIfJob what;
};

void ExpectSum(const v1::WhatIf& answer) {
  const v1::TimeLost& time = answer.time_lost();
  EXPECT_NEAR(time.detect_s() + time.plan_s() + time.start_s() + time.restore_s() + time.redone_s(),
              time.total_s(), 1e-9);
  const v1::MoneyLost& money = answer.money_lost();
  EXPECT_NEAR(money.gpu_hours(), static_cast<double>(money.devices()) * time.total_s() / 3600,
              1e-9);
  EXPECT_NEAR(money.dollars(), money.gpu_hours() * money.dollars_per_device_hour(), 1e-9);
}

std::set<std::string> AssumptionsOf(const v1::WhatIf& answer) {
  std::set<std::string> names;
  for (const v1::Assumption& one : answer.assumptions()) {
    EXPECT_THAT(one.source(), Not(IsEmpty())) << one.name();
    names.insert(one.name());
  }
  return names;
}

TEST(WhatIfKillTest, OneNodeWithASpare_SpareTakesItsRanksFromMemory) {
  const Case c(2, 1);
  const v1::WhatIf answer = WhatIfKill(c.what, {"a-1"}).value();
  EXPECT_TRUE(answer.goes_on());
  EXPECT_THAT(answer.spares_used(), ElementsAre("a-4"));
  EXPECT_EQ(answer.moves_size(), 4);
  for (const v1::RankMove& move : answer.moves()) {
    EXPECT_EQ(move.from(), "a-1");
    EXPECT_EQ(move.to(), "a-4");
  }
  EXPECT_EQ(answer.replicas_shed(), 0);
  EXPECT_EQ(answer.restored_from(), "memory");
  EXPECT_THAT(answer.lost(), IsEmpty());
  EXPECT_DOUBLE_EQ(answer.steps_redone(), 1.5);
  EXPECT_DOUBLE_EQ(answer.time_lost().redone_s(), 15);
  EXPECT_DOUBLE_EQ(answer.time_lost().detect_s(), 5);
  EXPECT_GT(answer.time_lost().restore_s(), 0);
  EXPECT_DOUBLE_EQ(answer.tokens_per_day_after(), answer.tokens_per_day_before());
  EXPECT_EQ(answer.money_lost().devices(), 16);
  EXPECT_DOUBLE_EQ(answer.money_lost().dollars_per_device_hour(), 2);
  EXPECT_TRUE(answer.survivability_after().any_node());
  EXPECT_THAT(AssumptionsOf(answer),
              testing::IsSupersetOf({"detection", "new plan", "connecting", "start of processes",
                                     "steps redone", "restore from memory", "price"}));
  ExpectSum(answer);
}

TEST(WhatIfKillTest, CheapRanksOfASmallJob_AreToldInUnitsThatFit) {
  Case c(2, 1);
  v1::ClusterSpec free = TopologyOf("cpu", 4, 4, 1, 2).spec();
  free.mutable_pools(0)->set_dollars_per_device_hour(0);
  c.topology = cluster::Topology(free);
  c.Plan();
  const v1::WhatIf answer = WhatIfKill(c.what, {"a-1"}).value();
  EXPECT_THAT(AssumptionsOf(answer), Not(testing::Contains("price")));
  EXPECT_EQ(answer.money_lost().dollars(), 0);
  for (const v1::Assumption& one : answer.assumptions()) {
    if (one.name() != "restore from memory") continue;
    EXPECT_THAT(one.value(), HasSubstr(" MB of shards"));
    EXPECT_THAT(one.value(), Not(HasSubstr("0.00")));
  }
  EXPECT_THAT(WhatIfDrain(c.what, {"a-1"})->answer(), HasSubstr(" ms: a-4 for a-1"));
}

TEST(WhatIfKillTest, RarerSnapshots_MoreStepsRedone) {
  Case c(2, 1);
  c.spec.mutable_recovery()->set_snapshot_every_steps(9);
  c.Plan();
  EXPECT_DOUBLE_EQ(WhatIfKill(c.what, {"a-1"})->steps_redone(), 5.5);
}

TEST(WhatIfKillTest, NodeAndItsBuddy_SaysWhatIsLostAndFallsBackToTheCheckpoint) {
  Case c(2, 2);
  const std::vector<std::string> both = {"a-0", c.BuddyOf("a-0")};
  v1::WhatIf answer = WhatIfKill(c.what, both).value();
  EXPECT_TRUE(answer.goes_on());
  EXPECT_EQ(answer.restored_from(), "checkpoint");
  EXPECT_EQ(answer.spares_used_size(), 2);
  ASSERT_THAT(answer.lost(), Not(IsEmpty()));
  EXPECT_THAT(answer.lost(0), HasSubstr("experts"));
  EXPECT_DOUBLE_EQ(answer.steps_redone(), 25.5) << "half an interval of 50, on average";
  EXPECT_EQ(answer.time_lost().restore_path(), "storage");
  ExpectSum(answer);
  c.what.steps_done = 107;
  answer = WhatIfKill(c.what, both).value();
  EXPECT_DOUBLE_EQ(answer.steps_redone(), 7.5);
}

TEST(WhatIfKillTest, NodeAndItsBuddyWithoutCheckpoints_FromTheBeginning) {
  Case c(2, 2, 0);
  const v1::WhatIf answer = WhatIfKill(c.what, {"a-0", c.BuddyOf("a-0")}).value();
  EXPECT_EQ(answer.restored_from(), "the beginning");
  EXPECT_DOUBLE_EQ(answer.steps_redone(), 500.5);
  EXPECT_EQ(answer.time_lost().restore_s(), 0);
  ExpectSum(answer);
}

TEST(WhatIfKillTest, NoSnapshots_AnyNodeTakesStateWithIt) {
  Case c(2, 1);
  c.spec.mutable_recovery()->set_snapshot_every_steps(0);
  c.Plan();
  const v1::WhatIf answer = WhatIfKill(c.what, {"a-1"}).value();
  EXPECT_EQ(answer.restored_from(), "checkpoint");
  EXPECT_THAT(answer.lost(), Not(IsEmpty()));
}

TEST(WhatIfKillTest, NoSpareAndSeveralReplicas_ShedsOne) {
  Case c(2, 0);
  v1::WhatIf answer = WhatIfKill(c.what, {"a-3"}).value();
  EXPECT_TRUE(answer.goes_on());
  EXPECT_EQ(answer.replicas_shed(), 1);
  EXPECT_EQ(answer.parallelism_after().replicas(), 1);
  EXPECT_EQ(answer.micro_batches_after(), 8);
  EXPECT_EQ(answer.restored_from(), "memory");
  EXPECT_THAT(answer.moves(), IsEmpty()) << "those that are left keep their devices";
  EXPECT_DOUBLE_EQ(answer.step_seconds_after(), 20);
  EXPECT_DOUBLE_EQ(answer.tokens_per_day_after() / answer.tokens_per_day_before(), 0.5);
  EXPECT_THAT(answer.answer(), HasSubstr("50%"));
  EXPECT_THAT(AssumptionsOf(answer), testing::Contains("step after shedding"));
  ExpectSum(answer);
  c.what.step_seconds_of = [](const v1::JobSpec& spec) -> absl::StatusOr<double> {
    return 2.0 * static_cast<double>(spec.training().micro_batches());
  };
  answer = WhatIfKill(c.what, {"a-3"}).value();
  EXPECT_DOUBLE_EQ(answer.step_seconds_after(), 16);
  c.what.step_seconds_of = [](const v1::JobSpec&) -> absl::StatusOr<double> {
    return absl::ResourceExhaustedError("needs 90 GB of 80");
  };
  answer = WhatIfKill(c.what, {"a-3"}).value();
  EXPECT_DOUBLE_EQ(answer.step_seconds_after(), 20);
  EXPECT_THAT(AssumptionsOf(answer), testing::Contains("memory after shedding"));
  c.spec.mutable_recovery()->set_shed_replicas(false);
  c.Plan();
  EXPECT_FALSE(WhatIfKill(c.what, {"a-3"})->goes_on());
}

TEST(WhatIfKillTest, NothingFits_WaitsAndSaysForWhatAndWhatAnHourCosts) {
  const Case c(1, 0);
  const v1::WhatIf answer = WhatIfKill(c.what, {"a-0"}).value();
  EXPECT_FALSE(answer.goes_on());
  EXPECT_THAT(answer.waits_for(), HasSubstr("4 missing"));
  EXPECT_DOUBLE_EQ(answer.money_lost().dollars_per_hour_waiting(), 8);
  EXPECT_THAT(answer.answer(), HasSubstr("waits"));
}

TEST(WhatIfKillTest, NodeWithoutRanks_NothingHappens) {
  const Case c(2, 1);
  const v1::WhatIf answer = WhatIfKill(c.what, {"a-4"}).value();
  EXPECT_TRUE(answer.goes_on());
  EXPECT_EQ(answer.restored_from(), "nothing lost");
  EXPECT_EQ(answer.time_lost().total_s(), 0);
  EXPECT_EQ(answer.money_lost().dollars(), 0);
}

TEST(WhatIfKillTest, Mistakes_AreRefusedByName) {
  Case c(2, 1);
  const auto refusal = [&](const std::vector<std::string>& nodes) {
    const auto answer = WhatIfKill(c.what, nodes);
    EXPECT_EQ(answer.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(answer.status().message());
  };
  EXPECT_THAT(refusal({"a_1"}), AllOf(HasSubstr("\"a_1\""), HasSubstr("nearest name is \"a-1\"")));
  EXPECT_THAT(refusal({}), HasSubstr("no node is named"));
  EXPECT_THAT(refusal({"a-1", "a-1"}), HasSubstr("twice"));
  c.what.step_seconds = 0;
  EXPECT_THAT(refusal({"a-1"}), HasSubstr("0 s"));
  c.what.step_seconds = 1;
  c.plan.mutable_ranks(3)->set_node("elsewhere");
  EXPECT_THAT(refusal({"a-1"}), HasSubstr("elsewhere"));
}

TEST(WhatIfDrainTest, PlaceIsThere_NoStepIsLostAndProcessesStartMeanwhile) {
  const Case c(2, 1);
  const v1::WhatIf drained = WhatIfDrain(c.what, {"a-1"}).value();
  const v1::WhatIf killed = WhatIfKill(c.what, {"a-1"}).value();
  EXPECT_TRUE(drained.goes_on());
  EXPECT_THAT(drained.spares_used(), ElementsAre("a-4"));
  EXPECT_EQ(drained.steps_redone(), 0);
  EXPECT_EQ(drained.time_lost().detect_s(), 0);
  EXPECT_LT(drained.time_lost().start_s(), killed.time_lost().start_s());
  EXPECT_EQ(drained.time_lost().restore_bytes(), killed.time_lost().restore_bytes());
  EXPECT_THAT(drained.time_lost().total_s(), Gt(0));
  ExpectSum(drained);
}

TEST(WhatIfDrainTest, NoPlace_TrainsOnWhereItIsAndShedsNothing) {
  const Case c(2, 0);
  const v1::WhatIf answer = WhatIfDrain(c.what, {"a-1"}).value();
  EXPECT_FALSE(answer.goes_on());
  EXPECT_EQ(answer.replicas_shed(), 0);
  EXPECT_EQ(answer.time_lost().total_s(), 0);
  EXPECT_THAT(answer.answer(), HasSubstr("trains on"));
}

TEST(WhatIfDrainTest, NodeAndItsBuddy_SaveACheckpointFirst) {
  const Case c(2, 2);
  const v1::WhatIf answer = WhatIfDrain(c.what, {"a-0", c.BuddyOf("a-0")}).value();
  EXPECT_EQ(answer.restored_from(), "checkpoint");
  EXPECT_EQ(answer.steps_redone(), 0);
  EXPECT_THAT(answer.lost(), IsEmpty());
  const double gigabytes = static_cast<double>(StateBytesOf(c.plan)->all_shards) / 1e9;
  EXPECT_NEAR(answer.time_lost().restore_s(), gigabytes / 50 + gigabytes / 100, 1e-9);
}

TEST(WhatIfKillTest, ReferenceJob_OneNodeOf256CostsAMinuteOfTheCluster) {
  const cluster::Topology topology = TopologyOf("h800", 256, 8, 2, 32);
  v1::Job job = JobOf("deepseek-v3", 16, 64, 2, 120);
  job.mutable_spec()->set_precision("fp8");
  const v1::JobSpec spec = plan::ResolveJob(job).value().spec();
  const v1::Plan plan = PlanOnTopology("v3", 1, spec, topology).value();
  WhatIfJob what;
  what.plan = &plan;
  what.topology = &topology;
  what.step_seconds = 20;
  const v1::WhatIf answer = WhatIfKill(what, {"a-17"}).value();
  EXPECT_TRUE(answer.goes_on());
  EXPECT_EQ(answer.moves_size(), 8);
  EXPECT_EQ(answer.restored_from(), "memory");
  // 8 bytes for each of 682.6 billion parameters (with MTP), over 2,048 ranks: 2.7 GB a rank.
  const PlanStateBytes bytes = StateBytesOf(plan).value();
  EXPECT_NEAR(static_cast<double>(bytes.all_shards), 8 * 682.6e9, 8 * 0.4e9);
  EXPECT_GT(answer.time_lost().total_s(), 30);
  EXPECT_LT(answer.time_lost().total_s(), 90);
  EXPECT_NEAR(answer.money_lost().dollars(), 2 * 2048 * answer.time_lost().total_s() / 3600, 1e-6);
  EXPECT_TRUE(answer.survivability_after().any_node());
}

TEST(WhatIfClusterTest, TwoPredictions_AreCompared) {
  v1::Prediction here;
  here.set_cluster("here");
  here.mutable_parameters()->set_total(671);
  here.mutable_step()->set_seconds(20);
  here.set_tokens_per_day(100);
  here.set_devices(2048);
  here.set_gpu_hours_per_trillion_tokens(180);
  here.set_dollars_per_trillion_tokens(360);
  here.set_total_hours(1300);
  here.add_limits("network");
  v1::Prediction there = here;
  there.set_cluster("there");
  there.mutable_step()->set_seconds(10);
  there.set_tokens_per_day(200);
  there.set_devices(1024);
  there.set_gpu_hours_per_trillion_tokens(45);
  there.set_dollars_per_trillion_tokens(180);
  there.set_total_hours(650);
  there.set_limits(0, "compute");
  const v1::WhatIf answer = WhatIfCluster(here, there).value();
  EXPECT_DOUBLE_EQ(answer.comparison().step_ratio(), 0.5);
  EXPECT_DOUBLE_EQ(answer.comparison().hours_ratio(), 0.5);
  EXPECT_DOUBLE_EQ(answer.comparison().gpu_hours_ratio(), 0.25);
  EXPECT_DOUBLE_EQ(answer.comparison().dollars_ratio(), 0.5);
  EXPECT_EQ(answer.comparison().limit_there(), "compute");
  EXPECT_THAT(answer.answer(), AllOf(HasSubstr("2.00 times the tokens"), HasSubstr("0.50 times")));
  there.mutable_parameters()->set_total(1);
  EXPECT_EQ(WhatIfCluster(here, there).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(WhatIfCluster(here, v1::Prediction()).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace fathom::planner
