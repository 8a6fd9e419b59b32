// `fathomctl model` as a user meets it: its JSON read back, its page, its errors.
#include "cli/model_verb.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/exit_code.h"
#include "cli/test_environment.h"

namespace fathom::cli {
namespace {

using Json = nlohmann::json;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr char kDeepSeek[] = R"(apiVersion: fathom/v1
kind: Job
metadata:
  name: v3
spec:
  model:
    preset: deepseek-v3
  data:
    token_file: /data/pretraining.tokens
    sequence_length: 4096
  precision: fp8
  parallelism:
    pipeline: 16
    expert: 64
    replicas: 2
  training:
    micro_batches: 120
)";

class ModelVerbTest : public testing::Test {
 protected:
  ModelVerbTest()
      : ctl(testing::TempDir() + "/" +
            testing::UnitTest::GetInstance()->current_test_info()->name()),
        file(ctl.folder() + "/job.yaml") {
    std::ofstream(file) << kDeepSeek;
  }

  Json Parsed(const std::vector<std::string>& more) {
    std::vector<std::string> arguments = {"model", "-f", file, "-o", "json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    EXPECT_EQ(ctl.Run(arguments), kExitOk) << ctl.err();
    return Json::parse(ctl.out());
  }

  TestEnvironment ctl;
  std::string file;
};

TEST_F(ModelVerbTest, DeepSeekV3_HasThePublishedNumbers) {
  const Json json = Parsed({});
  EXPECT_EQ(json["parameters"]["total"], 671026419200);
  EXPECT_NEAR(json["training_flops_per_token"]["noncausal"].get<double>(), 281.2e9, 0.1e9);
  EXPECT_NEAR(json["training_flops_per_token"]["causal"].get<double>(), 250.5e9, 0.1e9);
  EXPECT_GT(json["training_flops_per_token"]["executed"],
            json["training_flops_per_token"]["causal_with_mtp"]);
  EXPECT_FALSE(json.contains("tensors"));
  EXPECT_EQ(json["stages"].size(), 16u);
}

TEST_F(ModelVerbTest, Tensors_AddUpToTheModelAndNameTheirOwners) {
  const Json json = Parsed({"--tensors"});
  int64_t elements = 0;
  Json expert;
  Json norm;
  for (const Json& tensor : json["tensors"]) {
    int64_t product = 1;
    for (const Json& size : tensor["shape"]) product *= size.get<int64_t>();
    EXPECT_EQ(product, tensor["elements"]);
    elements += product;
    if (tensor["name"] == "model.layers.3.mlp.experts.255.down_proj.weight") expert = tensor;
    if (tensor["name"] == "model.norm.weight") norm = tensor;
  }
  EXPECT_EQ(elements,
            json["parameters"]["total"].get<int64_t>() + json["parameters"]["mtp"].get<int64_t>());
  EXPECT_EQ(expert["shape"], Json({7168, 2048}));
  EXPECT_EQ(expert["precision"], "bf16");
  EXPECT_EQ(expert["product_precision"], "e4m3");
  EXPECT_EQ(expert["expert_rank"], 63);
  EXPECT_EQ(expert["holders"], 4);  // two mirrors, two replicas
  EXPECT_EQ(norm["stage"], 15);
  EXPECT_EQ(norm["pipeline_ranks"], Json({0, 15}));
  EXPECT_EQ(norm["product_precision"], nullptr);
  EXPECT_EQ(norm["holders"], 256);
}

TEST_F(ModelVerbTest, PageForPeople_SaysTheCountInFullAndTensorsWhenAsked) {
  EXPECT_EQ(ctl.Run({"model", "-f", file}), kExitOk) << ctl.err();
  EXPECT_THAT(ctl.out(), HasSubstr("671,026,419,200"));
  EXPECT_THAT(ctl.out(), Not(HasSubstr("self_attn.q_a_proj")));
  EXPECT_EQ(ctl.Run({"model", "-f", file, "--tensors"}), kExitOk) << ctl.err();
  EXPECT_THAT(ctl.out(), HasSubstr("self_attn.q_a_proj"));
  EXPECT_THAT(ctl.out(), HasSubstr("expert rank 63 of pipeline ranks"));
}

TEST_F(ModelVerbTest, JobThatDoesNotFitItsModel_IsRefusedByField) {
  EXPECT_EQ(ctl.Run({"model", "-f", file, "--set", "spec.parallelism.expert=3"}), kExitUsage);
  EXPECT_THAT(ctl.err(), HasSubstr("spec.parallelism.expert"));
  EXPECT_THAT(ctl.out(), IsEmpty());
}

}  // namespace
}  // namespace fathom::cli
