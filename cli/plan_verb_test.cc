// `fathomctl plan` and `fathomctl whatif` as a user meets them: files in, pages, JSON and pictures
// out, refusals with their exit codes; no coordinator anywhere.
#include "cli/plan_verb.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "cli/exit_code.h"
#include "cli/page.h"
#include "cli/test_environment.h"
#include "cli/whatif_verb.h"

namespace fathom::cli {
namespace {

using Json = nlohmann::json;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr char kJob[] = R"(apiVersion: fathom/v1
kind: Job
metadata:
  name: small
spec:
  model:
    preset: deepseek-v3
    num_hidden_layers: 6
    n_routed_experts: 64
  data:
    token_file: some.tokens
    sequence_length: 4096
  precision: fp8
  parallelism: {pipeline: 2, expert: 8, replicas: 2}
  training:
    steps: 1000
    micro_batches: 8
)";

constexpr char kCluster[] = R"(apiVersion: fathom/v1
kind: Cluster
metadata:
  name: four
spec:
  pools:
    - name: h800
      device: h800
      nodes: 5
      spares: 1
      nodes_per_leaf: 1
      dollars_per_device_hour: 2
  fabric:
    kind: infiniband
    planes: 8
)";

class PlanVerbTest : public testing::Test {
 protected:
  PlanVerbTest()
      : ctl(testing::TempDir() + "/" +
            testing::UnitTest::GetInstance()->current_test_info()->name()) {
    Write("job.yaml", kJob);
    Write("cluster.yaml", kCluster);
  }

  void Write(const std::string& name, const std::string& text) {
    std::ofstream(ctl.folder() + "/" + name) << text;
  }

  std::string Read(const std::string& name) {
    std::ifstream file(ctl.folder() + "/" + name);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  int Run(std::vector<std::string> arguments, const std::vector<std::string>& more = {}) {
    for (const char* word : {"-f", "job.yaml", "--cluster", "cluster.yaml"}) {
      arguments.push_back(word);
    }
    arguments.insert(arguments.end(), more.begin(), more.end());
    return ctl.Run(arguments);
  }

  int Plan(const std::vector<std::string>& more = {}) { return Run({"plan"}, more); }

  Json PlanJson(std::vector<std::string> more = {}) {
    more.insert(more.end(), {"-o", "json"});
    EXPECT_EQ(Plan(more), kExitOk) << ctl.err();
    return Json::parse(ctl.out());
  }

  TestEnvironment ctl;
};

TEST_F(PlanVerbTest, Json_HoldsEveryKeyAndAddsUp) {
  const Json json = PlanJson({"--no-search"});
  EXPECT_EQ(json["job"], "small");
  EXPECT_EQ(json["cluster"], "four");
  EXPECT_EQ(json["devices"], 32);
  EXPECT_GT(json["parameters"]["total"].get<int64_t>(), 10'000'000'000);
  EXPECT_GT(json["parameters"]["active"].get<int64_t>(), 0);
  const double seconds = json["step"]["seconds"];
  EXPECT_GT(seconds, 0);
  double sum = 0;
  for (const char* key : {"forward_s", "backward_s", "weight_s", "overlapped_s", "bubble_s",
                          "optimizer_s", "reduce_s", "other_s"}) {
    ASSERT_TRUE(json["step"]["breakdown"][key].is_number()) << key;
    sum += json["step"]["breakdown"][key].get<double>();
  }
  EXPECT_NEAR(sum, seconds, 1e-9 + 1e-6 * seconds);
  int64_t bytes = 0;
  for (const Json& part : json["memory"]["parts"]) bytes += part["bytes"].get<int64_t>();
  EXPECT_EQ(bytes, json["memory"]["peak_bytes"].get<int64_t>());
  EXPECT_LE(bytes, json["memory"]["capacity_bytes"].get<int64_t>());
  EXPECT_EQ(json["stages"].size(), 2u);
  EXPECT_EQ(json["layout"]["parallelism"]["expert"], 8);
  EXPECT_GT(json["mfu_causal"].get<double>(), 0);
  EXPECT_LT(json["mfu_causal"].get<double>(), json["mfu_noncausal"].get<double>());
  EXPECT_NEAR(json["tokens_per_day"].get<double>(),
              json["tokens_per_step"].get<double>() / seconds * 86400, 1);
  EXPECT_NEAR(json["gpu_hours_per_trillion_tokens"].get<double>(),
              1e12 / json["tokens_per_step"].get<double>() * seconds * 32 / 3600, 1);
  for (const Json& assumption : json["assumptions"]) {
    EXPECT_NE(assumption["source"], "") << assumption;
  }
  EXPECT_THAT(ctl.coordinator.addresses, IsEmpty());
}

TEST_F(PlanVerbTest, ThePage_SaysTheSameAndKeepsItsWidth) {
  const Json json = PlanJson();
  ASSERT_EQ(Plan(), kExitOk) << ctl.err();
  EXPECT_THAT(ctl.out(), HasSubstr("small on four: 32 "));
  EXPECT_THAT(ctl.out(), HasSubstr(SecondsText(json["step"]["seconds"])));
  EXPECT_THAT(ctl.out(), HasSubstr("as the job names it"));
  EXPECT_THAT(ctl.out(), HasSubstr("Search: "));
  ASSERT_EQ(Plan({"-o", "wide"}), kExitOk);
  EXPECT_THAT(ctl.out(), HasSubstr("PARAMETERS"));
  const std::vector<std::string> lines = absl::StrSplit(ctl.out(), '\n');
  for (const std::string& line : lines) EXPECT_LE(TextColumns(line), kPageColumns) << line;
}

TEST_F(PlanVerbTest, PictureAndTrace_HoldTheWholeStep) {
  const Json json = PlanJson({"--no-search", "--svg", "step.svg", "--trace", "step.json"});
  const double seconds = json["step"]["seconds"];
  EXPECT_THAT(Read("step.svg"), HasSubstr("small on four: a step as predicted, dualpipe"));
  const Json trace = Json::parse(Read("step.json"));
  std::map<int, double> totals;
  for (const Json& event : trace["traceEvents"]) {
    if (event["ph"] == "X" && event["tid"] == 0) totals[event["pid"]] += event["dur"].get<double>();
  }
  EXPECT_EQ(totals.size(), 2u);
  for (const auto& [pid, total] : totals) EXPECT_NEAR(total, seconds * 1e6, 1);
}

TEST_F(PlanVerbTest, Overrides_ChangeThePlan) {
  const Json before = PlanJson({"--no-search"});
  const Json after = PlanJson({"--no-search", "--set", "spec.training.micro_batches=16"});
  EXPECT_EQ(after["layout"]["micro_batches"], 16);
  EXPECT_GT(after["step"]["seconds"].get<double>(), before["step"]["seconds"].get<double>());
}

TEST_F(PlanVerbTest, TakeBest_IsNeverSlower) {
  const Json own = PlanJson({"--no-search"});
  const Json best = PlanJson({"--take-best"});
  EXPECT_LE(best["gpu_hours_per_trillion_tokens"].get<double>(),
            own["gpu_hours_per_trillion_tokens"].get<double>() * (1 + 1e-9));
  EXPECT_EQ(best["layout"]["from_job"], false);
  EXPECT_EQ(own["layout"]["from_job"], true);
}

TEST_F(PlanVerbTest, WrongFilesAndCommandLines_AreUsageErrors) {
  EXPECT_EQ(ctl.Run({"plan", "-f", "none.yaml", "--cluster", "cluster.yaml"}), kExitNotFound);
  EXPECT_THAT(ctl.err(), HasSubstr("none.yaml"));
  EXPECT_EQ(ctl.Run({"plan", "-f", "job.yaml", "--cluster", "none.yaml"}), kExitNotFound);
  EXPECT_EQ(ctl.Run({"plan", "-f", "job.yaml"}), kExitUsage);
  EXPECT_THAT(ctl.err(), HasSubstr("--cluster"));
  EXPECT_EQ(Plan({"--set", "spec.trainin.steps=3"}), kExitUsage);
  Write("cluster.yaml", "apiVersion: fathom/v1\nkind: Cluster\nspec:\n  pool: []\n");
  EXPECT_EQ(Plan(), kExitUsage);
  EXPECT_THAT(ctl.err(), HasSubstr("cluster.yaml:4: spec.pool"));
  EXPECT_THAT(ctl.out(), IsEmpty());
}

TEST_F(PlanVerbTest, WhatThePlannerRefuses_ExitsAsRefused) {
  EXPECT_EQ(Plan({"--set", "spec.parallelism.replicas=64"}), kExitRefused);
  EXPECT_THAT(ctl.err(), HasSubstr("job.yaml on cluster.yaml: "));
  EXPECT_EQ(Plan({"--set", "spec.parallelism.expert=7"}), kExitRefused);
  EXPECT_EQ(Plan({"--schedule", "no-such-kind"}), kExitRefused);
  EXPECT_EQ(Plan({"--set", "spec.model.num_hidden_layers=61"}), kExitRefused);
  EXPECT_THAT(ctl.err(), HasSubstr("GB"));
  EXPECT_EQ(Plan({"--svg", "no/such/folder/step.svg", "--no-search"}), kExitNotFound);
  EXPECT_THAT(ctl.err(), HasSubstr("--svg"));
}

TEST_F(PlanVerbTest, WhatIfKill_TakesASpareAndTellsWhatItCosts) {
  ASSERT_EQ(Run({"whatif", "kill", "h800-1"}, {"-o", "json", "--steps-done", "500"}), kExitOk)
      << ctl.err();
  const Json json = Json::parse(ctl.out());
  EXPECT_EQ(json["question"], "kill");
  EXPECT_EQ(json["nodes"], Json({"h800-1"}));
  EXPECT_EQ(json["goes_on"], true);
  EXPECT_EQ(json["spares_used"].size(), 1u);
  double parts = 0;
  for (const char* part : {"detect_s", "plan_s", "start_s", "restore_s", "redone_s"}) {
    parts += json["time_lost"][part].get<double>();
  }
  EXPECT_NEAR(parts, json["time_lost"]["total_s"].get<double>(), 1e-6);
  EXPECT_GT(json["money_lost"]["dollars"].get<double>(), 0);
  ASSERT_EQ(Run({"whatif", "kill", "h800-1"}), kExitOk);
  for (const char* part : {"small: after the death of h800-1",
                           "Time lost: ", "Money lost: ", "Moves: 8 ranks", "goes on       yes"}) {
    EXPECT_THAT(ctl.out(), HasSubstr(part));
  }
  const std::vector<std::string> lines = absl::StrSplit(ctl.out(), '\n');
  for (const std::string& line : lines) EXPECT_LE(TextColumns(line), kPageColumns) << line;
}

TEST_F(PlanVerbTest, WhatIfKillOfTooMuch_TellsTheLayoutThatWaits) {
  ASSERT_EQ(Run({"whatif", "kill", "h800-0", "h800-1", "h800-2", "h800-3", "h800-4"}), kExitOk)
      << ctl.err();
  EXPECT_THAT(ctl.out(), HasSubstr("goes on       no"));
  EXPECT_THAT(ctl.out(), HasSubstr("layout        pipeline 2 "));
  EXPECT_THAT(ctl.out(), Not(HasSubstr("pipeline 0")));
  EXPECT_THAT(ctl.out(), Not(HasSubstr(", 0 s after")));
}

TEST_F(PlanVerbTest, WhatIfDrain_LosesLessThanADeath) {
  ASSERT_EQ(Run({"whatif", "kill", "h800-1"}, {"-o", "json"}), kExitOk) << ctl.err();
  const double death = Json::parse(ctl.out())["time_lost"]["total_s"];
  ASSERT_EQ(Run({"whatif", "drain", "h800-1"}, {"-o", "json"}), kExitOk) << ctl.err();
  EXPECT_LT(Json::parse(ctl.out())["time_lost"]["total_s"].get<double>(), death);
}

TEST_F(PlanVerbTest, WhatIfOnNodesThatAreNotThere_IsAUsageError) {
  EXPECT_EQ(Run({"whatif", "kill", "h800-99"}), kExitUsage);
  EXPECT_THAT(ctl.err(), HasSubstr("h800-99"));
  EXPECT_EQ(Run({"whatif", "kill"}), kExitUsage);
  EXPECT_EQ(Run({"whatif", "kill", "h800-1", "h800-1"}), kExitUsage);
  EXPECT_EQ(Run({"whatif", "kill", "h800-1"}, {"--steps-done", "1001"}), kExitUsage);
  EXPECT_THAT(ctl.err(), HasSubstr("1001 steps done of a job of 1000"));
}

TEST_F(PlanVerbTest, WhatIfOnAnotherCluster_ComparesBoth) {
  std::string other = kCluster;
  other.replace(other.find("name: four"), 10, "name: next");
  other.replace(other.find("device: h800"), 12, "device: h200");
  Write("other.yaml", other);
  ASSERT_EQ(Run({"whatif", "cluster", "other.yaml"}, {"-o", "json"}), kExitOk) << ctl.err();
  const Json json = Json::parse(ctl.out());
  EXPECT_EQ(json["comparison"]["here"], "four");
  EXPECT_EQ(json["comparison"]["there"], "next");
  EXPECT_GT(json["comparison"]["step_ratio"].get<double>(), 0);
  EXPECT_EQ(json["question"], "cluster");
  ASSERT_EQ(Run({"whatif", "cluster", "other.yaml"}), kExitOk);
  EXPECT_THAT(ctl.out(), HasSubstr("Here and there"));
  EXPECT_EQ(Run({"whatif", "cluster", "none.yaml"}), kExitNotFound);
}

TEST_F(PlanVerbTest, ProcessorsOfEitherCluster_HaveTheProfileOfThisMachine) {
  std::filesystem::create_directories(ctl.folder() + "/state");
  Write("state/cpu-profile.yaml", "kinds: cpu\n");  // what stands there is read
  Write("other.yaml", R"(apiVersion: fathom/v1
kind: Cluster
spec:
  pools:
    - {device: cpu, nodes: 2}
)");
  EXPECT_EQ(Run({"whatif", "cluster", "other.yaml"}), kExitUsage);
  EXPECT_THAT(ctl.err(), HasSubstr("cpu-profile.yaml:1"));
  Write("cluster.yaml", Read("other.yaml"));
  EXPECT_EQ(Plan(), kExitUsage);
  EXPECT_THAT(ctl.err(), HasSubstr("cpu-profile.yaml:1"));
}

TEST_F(PlanVerbTest, Help_ShowsAnExample) {
  ASSERT_EQ(ctl.Run({"plan", "--help"}), kExitOk);
  EXPECT_THAT(ctl.out(), HasSubstr("fathomctl plan -f deploy/examples/deepseek-v3.yaml"));
  ASSERT_EQ(ctl.Run({"whatif", "drain", "--help"}), kExitOk);
  EXPECT_THAT(ctl.out(), HasSubstr("fathomctl whatif drain h800-3 -f "));
  ASSERT_EQ(ctl.Run({"completion", "bash"}), kExitOk);
  EXPECT_THAT(ctl.out(), HasSubstr("\"fathomctl whatif kill\""));
  EXPECT_THAT(ctl.out(), HasSubstr("\"fathomctl plan --svg\") _fathomctl_files"));
}

}  // namespace
}  // namespace fathom::cli
