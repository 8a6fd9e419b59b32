// Whole predictions, over the real models: the published run, every refusal and what it suggests,
// and what must hold of any prediction.
#include "coordinator/planner/search/predict.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "common/cluster/device_profiles.h"
#include "coordinator/planner/search/suggestion.h"

namespace fathom::planner {
namespace {

using ::testing::HasSubstr;

v1::Job JobOf(const std::string& preset, int pipeline, int expert, int replicas,
              int64_t micro_batches) {
  v1::Job job;
  job.set_api_version("fathom/v1");
  job.set_kind("Job");
  v1::JobSpec& spec = *job.mutable_spec();
  spec.mutable_model()->set_preset(preset);
  spec.mutable_data()->set_token_file("any.tokens");
  spec.set_precision("fp8");
  spec.mutable_training()->set_micro_batches(micro_batches);
  if (pipeline > 0) {
    spec.mutable_parallelism()->set_pipeline(pipeline);
    spec.mutable_parallelism()->set_expert(expert);
    spec.mutable_parallelism()->set_replicas(replicas);
  }
  return job;
}

v1::ClusterDescription ClusterOf(const std::string& device, int nodes, int devices_per_node = 8) {
  v1::ClusterDescription cluster;
  cluster.set_api_version("fathom/v1");
  cluster.set_kind("Cluster");
  cluster.mutable_metadata()->set_name("some");
  v1::Pool& pool = *cluster.mutable_spec()->add_pools();
  pool.set_name("all");
  pool.set_device(device);
  pool.set_nodes(nodes);
  pool.set_devices_per_node(devices_per_node);
  pool.set_dollars_per_device_hour(2);
  return cluster;
}

// A device like H800 with this much memory.
void SetMemory(int64_t bytes, v1::ClusterDescription* cluster) {
  v1::DeviceProfile profile = *cluster::FindProfile("h800");
  profile.set_memory_bytes(bytes);
  cluster->mutable_spec()->clear_profiles();
  *cluster->mutable_spec()->add_profiles() = profile;
}

PredictOptions WithoutSearch() {
  PredictOptions options;
  options.search = false;
  return options;
}

// What must hold of every prediction.
void CheckInvariants(const PredictedJob& predicted) {
  const v1::Prediction& p = predicted.prediction;
  const v1::StepBreakdown& b = p.step().breakdown();
  const double parts = b.forward_s() + b.backward_s() + b.weight_s() + b.overlapped_s() +
                       b.bubble_s() + b.reduce_s() + b.optimizer_s() + b.other_s();
  EXPECT_NEAR(parts, p.step().seconds(), 1e-6 * p.step().seconds());
  const v1::Parallelism& grid = p.layout().parallelism();
  EXPECT_EQ(grid.pipeline() * grid.expert() * grid.replicas(), p.devices());
  EXPECT_NEAR(p.tokens_per_day(), p.tokens_per_step() / p.step().seconds() * 86400,
              1e-6 * p.tokens_per_day());
  EXPECT_NEAR(p.gpu_hours_per_trillion_tokens(), p.devices() * 24.0 * 1e12 / p.tokens_per_day(),
              1e-6 * p.gpu_hours_per_trillion_tokens());
  EXPECT_LE(p.mfu_causal(), p.mfu_noncausal());
  EXPECT_LT(p.mfu_noncausal(), 1);
  int64_t memory = 0;
  for (const v1::MemoryPart& part : p.memory().parts()) memory += part.bytes();
  EXPECT_EQ(memory, p.memory().peak_bytes());
  EXPECT_LE(p.memory().peak_bytes(), p.memory().capacity_bytes());
  EXPECT_EQ(p.ranks_size(), grid.pipeline());
  for (const v1::PredictedRank& rank : p.ranks()) {
    EXPECT_LE(rank.memory().peak_bytes(), p.memory().peak_bytes());
  }
  int64_t layers = 0;
  int64_t parameters = 0;
  for (const v1::PredictedStage& stage : p.stages()) {
    EXPECT_EQ(stage.first_layer(), layers);
    layers += stage.layer_count();
    parameters += stage.parameters();
  }
  EXPECT_EQ(parameters, p.parameters().total() + p.parameters().mtp());
  EXPECT_FALSE(p.limits().empty());
  EXPECT_FALSE(p.assumptions().empty());
  ASSERT_EQ(predicted.timeline.ranks_size(), grid.pipeline());
  for (const v1::RankTimes& rank : predicted.timeline.ranks()) {
    double end = 0;
    for (const v1::TimedInstruction& timed : rank.instructions()) {
      EXPECT_GE(timed.start_s(), end - 1e-9);
      end = timed.end_s();
    }
    EXPECT_LE(end, p.step().seconds() * (1 + 1e-9));
  }
}

// Every suggestion is followed; each must plan.
void FollowSuggestions(const v1::Job& job, const v1::ClusterDescription& cluster,
                       const absl::Status& refusal) {
  SCOPED_TRACE(refusal.message());
  const std::vector<v1::PredictedLayout> suggestions = SuggestedLayouts(refusal);
  ASSERT_FALSE(suggestions.empty());
  for (const v1::PredictedLayout& layout : suggestions) {
    v1::ClusterDescription there = cluster;
    if (layout.nodes() > 0) there.mutable_spec()->mutable_pools(0)->set_nodes(layout.nodes());
    const auto predicted = Predict(WithLayout(job, layout), there, WithoutSearch());
    ASSERT_TRUE(predicted.ok()) << predicted.status();
    CheckInvariants(*predicted);
  }
}

// 80 GB of an H800 are 81559 MiB.
TEST(Predict, PublishedRun_FitsAndIsWithinTenPercentOfItsGpuHours) {
  v1::Job job = JobOf("deepseek-v3", 16, 64, 2, 120);
  job.mutable_spec()->mutable_training()->set_steps(227292);
  const auto predicted = Predict(job, ClusterOf("h800", 256), WithoutSearch());
  ASSERT_TRUE(predicted.ok()) << predicted.status();
  CheckInvariants(*predicted);
  const v1::Prediction& p = predicted->prediction;
  EXPECT_EQ(p.parameters().total(), 671026419200);
  EXPECT_NEAR(p.gpu_hours_per_trillion_tokens(), 180e3, 18e3);
  EXPECT_LT(p.memory().peak_bytes(), int64_t{81559} << 20);
  EXPECT_NEAR(p.dollars_per_trillion_tokens(), 2 * p.gpu_hours_per_trillion_tokens(), 1);
  // 250.5 and 281.2 GF a token, of the devices' BF16 peak.
  EXPECT_NEAR(p.tflops_causal() / p.tflops_noncausal(), 250.5 / 281.2, 1e-3);
  EXPECT_NEAR(p.tflops_causal(), 250.5e9 * p.tokens_per_day() / 86400 / 2048 / 1e12,
              1e-3 * p.tflops_causal());
  EXPECT_TRUE(p.layout().from_job());
}

TEST(Predict, PublishedJob_SearchFindsThePublishedGrid) {
  const auto predicted =
      Predict(JobOf("deepseek-v3", 0, 0, 0, 15360), ClusterOf("h800", 256), PredictOptions());
  ASSERT_TRUE(predicted.ok()) << predicted.status();
  CheckInvariants(*predicted);
  const v1::Parallelism& grid = predicted->prediction.layout().parallelism();
  EXPECT_EQ(grid.pipeline(), 16);
  EXPECT_EQ(grid.expert(), 64);
  EXPECT_EQ(grid.replicas(), 2);
  EXPECT_EQ(predicted->prediction.layout().schedule(), "dualpipe");
  EXPECT_GE(predicted->prediction.search().candidates_size(), 5);
  for (const v1::Candidate& candidate : predicted->prediction.search().candidates()) {
    EXPECT_FALSE(candidate.why().empty());
  }
}

TEST(Predict, SmallJobs_HoldTheInvariantsWithAndWithoutALayout) {
  for (int pipeline : {0, 1, 2, 4}) {
    SCOPED_TRACE(pipeline);
    const v1::Job job = JobOf("tiny", pipeline, 2, 1, pipeline == 0 ? 0 : 16);
    const auto predicted = Predict(job, ClusterOf("h100", 2, 4), PredictOptions());
    ASSERT_TRUE(predicted.ok()) << predicted.status();
    CheckInvariants(*predicted);
    const v1::Prediction& p = predicted->prediction;
    EXPECT_EQ(p.layout().from_job(), pipeline > 0);
    ASSERT_GT(p.search().candidates_size(), 0);
    const v1::Candidate& best = p.search().candidates(0);
    EXPECT_TRUE(best.feasible());
    EXPECT_LE(best.step_seconds(), p.step().seconds() * (1 + 1e-9));
    if (pipeline == 0) {
      EXPECT_EQ(p.devices(), 8);
      EXPECT_NEAR(best.step_seconds(), p.step().seconds(), 1e-9);
      EXPECT_THAT((std::vector<std::string>{"dualpipe", "sequential"}),
                  testing::Contains(p.layout().schedule()));
      EXPECT_EQ(p.layout().recomputation(), "selective");
    }
  }
}

TEST(Predict, TakingTheBest_IsWhatTheSearchFound) {
  const v1::Job job = JobOf("tiny", 4, 1, 2, 16);
  PredictOptions options;
  options.take_best = true;
  const auto best = Predict(job, ClusterOf("h100", 1), options);
  ASSERT_TRUE(best.ok()) << best.status();
  const auto own = Predict(job, ClusterOf("h100", 1), PredictOptions());
  ASSERT_TRUE(own.ok()) << own.status();
  EXPECT_FALSE(best->prediction.layout().from_job());
  EXPECT_LE(best->prediction.step().seconds(), own->prediction.step().seconds());
  EXPECT_EQ(best->prediction.tokens_per_step(), own->prediction.tokens_per_step());
}

TEST(Predict, LayoutsThatContradictThemselves_AreRefusedWithNearestOnesThatPlan) {
  const v1::ClusterDescription cluster = ClusterOf("h100", 2);
  struct Case {
    v1::Job job;
    const char* says;
  };
  const Case cases[] = {
      {JobOf("tiny", 3, 2, 1, 12), "odd"},
      {JobOf("tiny", 2, 3, 1, 8), "does not divide"},
      {JobOf("tiny", 100, 1, 1, 400), "layers"},
      {JobOf("tiny", 4, 2, 1, 5), "does not fill"},
      {JobOf("tiny", 4, 2, 1, 2), "does not fill"},
      {JobOf("tiny", 4, 2, -1, 8), "out of range"},
      {JobOf("tiny", 4, 4, 4, 16), "needs 64 devices"},
  };
  for (const Case& one : cases) {
    SCOPED_TRACE(one.says);
    const auto predicted = Predict(one.job, cluster, WithoutSearch());
    ASSERT_FALSE(predicted.ok());
    EXPECT_THAT(std::string(predicted.status().message()), HasSubstr(one.says));
    EXPECT_THAT(std::string(predicted.status().message()), HasSubstr("would do"));
    FollowSuggestions(one.job, cluster, predicted.status());
  }
}

TEST(Predict, LayoutTooLargeForMemory_IsRefusedWithOneThatFits) {
  v1::ClusterDescription cluster = ClusterOf("h800", 8);
  SetMemory(60'000'000, &cluster);
  const v1::Job job = JobOf("tiny", 1, 1, 1, 64);
  const auto predicted = Predict(job, cluster, WithoutSearch());
  ASSERT_FALSE(predicted.ok());
  EXPECT_EQ(predicted.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(predicted.status().message()), HasSubstr("on devices of 60.0 MB"));
  FollowSuggestions(job, cluster, predicted.status());
}

TEST(Predict, NothingFitsTheCluster_SaysHowLargeAClusterWouldDo) {
  const v1::ClusterDescription cluster = ClusterOf("h800", 2);
  for (const bool named : {true, false}) {
    const v1::Job job = JobOf("deepseek-v3", named ? 2 : 0, 8, 1, named ? 64 : 512);
    const auto predicted = Predict(job, cluster, WithoutSearch());
    ASSERT_FALSE(predicted.ok());
    EXPECT_EQ(predicted.status().code(), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(std::string(predicted.status().message()), HasSubstr(" nodes"));
    FollowSuggestions(job, cluster, predicted.status());
  }
}

TEST(Predict, ProcessorsWithoutOpTimes_AskForAProfile) {
  const auto predicted =
      Predict(JobOf("tiny", 2, 1, 1, 8), ClusterOf("cpu", 1, 2), PredictOptions());
  EXPECT_EQ(predicted.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(predicted.status().message()), HasSubstr("fathomctl profile"));
}

TEST(Predict, SeveralPools_TheFasterIsTakenAndAllTogetherOnlyWhereNeeded) {
  v1::ClusterDescription mixed = ClusterOf("h20", 1);
  v1::Pool& fast = *mixed.mutable_spec()->add_pools();
  fast = mixed.spec().pools(0);
  fast.set_name("fast");
  fast.set_device("h100");
  const v1::Job small = JobOf("tiny", 2, 2, 2, 16);
  const auto in_one = Predict(small, mixed, WithoutSearch());
  ASSERT_TRUE(in_one.ok()) << in_one.status();
  const auto alone = Predict(small, ClusterOf("h100", 1), WithoutSearch());
  ASSERT_TRUE(alone.ok()) << alone.status();
  EXPECT_NEAR(in_one->prediction.step().seconds(), alone->prediction.step().seconds(),
              1e-9 * alone->prediction.step().seconds());

  const v1::Job large = JobOf("tiny", 2, 2, 4, 16);
  const auto over_both = Predict(large, mixed, WithoutSearch());
  ASSERT_TRUE(over_both.ok()) << over_both.status();
  const auto fast_only = Predict(large, ClusterOf("h100", 2), WithoutSearch());
  ASSERT_TRUE(fast_only.ok()) << fast_only.status();
  EXPECT_GT(over_both->prediction.step().seconds(), fast_only->prediction.step().seconds());
  CheckInvariants(*over_both);
}

TEST(Predict, SeveralPoolsUnderNamedSwitches_AreTriedOneByOneToo) {
  v1::ClusterDescription mixed = ClusterOf("h20", 1);
  *mixed.mutable_spec()->add_pools() = mixed.spec().pools(0);
  mixed.mutable_spec()->mutable_pools(1)->set_name("fast");
  mixed.mutable_spec()->mutable_pools(1)->set_device("h100");
  auto add = [&](const char* name, const char* uplink, const char* nodes) {
    v1::Switch& one = *mixed.mutable_spec()->mutable_fabric()->add_switches();
    one.set_name(name);
    if (*uplink != 0) one.add_uplinks(uplink);
    if (*nodes != 0) one.add_nodes(nodes);
  };
  add("top", "", "");
  add("row-a", "top", "");
  add("row-b", "top", "");
  add("leaf-a", "row-a", "all-0");
  add("leaf-b", "row-b", "fast-0");
  for (int replicas : {2, 4}) {
    const auto predicted = Predict(JobOf("tiny", 2, 2, replicas, 16), mixed, PredictOptions());
    ASSERT_TRUE(predicted.ok()) << predicted.status();
    CheckInvariants(*predicted);
  }
}

TEST(Predict, PoolWhoseNameBeginsAnothers_HasItsOwnNodesOnly) {
  v1::ClusterDescription mixed = ClusterOf("h20", 12);
  *mixed.mutable_spec()->add_pools() = mixed.spec().pools(0);
  mixed.mutable_spec()->mutable_pools(1)->set_name("all-1");
  mixed.mutable_spec()->mutable_pools(1)->set_nodes(2);
  v1::Switch& leaf = *mixed.mutable_spec()->mutable_fabric()->add_switches();
  leaf.set_name("leaf");
  for (const char* nodes : {"all-[0-8]", "all-9", "all-1[0-1]", "all-1-[0-1]"}) {
    leaf.add_nodes(nodes);
  }
  const auto predicted = Predict(JobOf("tiny", 2, 2, 2, 16), mixed, WithoutSearch());
  ASSERT_TRUE(predicted.ok()) << predicted.status();
  CheckInvariants(*predicted);
}

// Pools of so many nodes of H800 each.
v1::ClusterDescription PoolsOf(const std::vector<int>& nodes) {
  v1::ClusterDescription cluster = ClusterOf("h800", nodes[0]);
  for (size_t i = 1; i < nodes.size(); ++i) {
    v1::Pool& pool = *cluster.mutable_spec()->add_pools();
    pool = cluster.spec().pools(0);
    pool.set_name("pool-" + std::to_string(i));
    pool.set_nodes(nodes[i]);
  }
  return cluster;
}

TEST(Predict, SearchOverSeveralPools_TellsTheBestOfEach) {
  const auto predicted = Predict(JobOf("tiny", 0, 1, 1, 64), PoolsOf({1, 1, 2}), PredictOptions());
  ASSERT_TRUE(predicted.ok()) << predicted.status();
  std::string told;
  for (const v1::Candidate& candidate : predicted->prediction.search().candidates()) {
    told += candidate.why() + "\n";
  }
  int others = 0;
  for (const char* where :
       {"in pool all: ", "in pool pool-1: ", "in pool pool-2: ", "over all pools: "}) {
    others += told.find(where) != std::string::npos ? 1 : 0;
  }
  EXPECT_EQ(others, 3) << told;
}

TEST(Predict, NothingFitsAnyPool_TellsTheLeastOverAll) {
  const auto least = [](const v1::ClusterDescription& cluster) {
    const auto predicted = Predict(JobOf("deepseek-v3", 0, 1, 1, 512), cluster, PredictOptions());
    const std::string text(predicted.status().message());
    return text.substr(text.find("the least is"),
                       text.find(" on devices") - text.find("the least"));
  };
  EXPECT_EQ(least(PoolsOf({1, 2})), least(PoolsOf({3})));
}

TEST(Predict, SeveralPoolsAllTooSmall_SaysWhichWouldDoWithMoreNodes) {
  const auto predicted =
      Predict(JobOf("deepseek-v3", 2, 8, 1, 64), PoolsOf({2, 2}), WithoutSearch());
  EXPECT_EQ(predicted.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(predicted.status().message()),
              testing::ContainsRegex("on [0-9]+ nodes in pool all"));
}

}  // namespace
}  // namespace fathom::planner
