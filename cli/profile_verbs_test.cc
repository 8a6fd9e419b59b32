// `fathomctl get profiles` and cluster files as a user meets them.
#include "cli/profile_verbs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>

#include "cli/cluster_file.h"
#include "cli/exit_code.h"
#include "cli/test_environment.h"

namespace fathom::cli {
namespace {

using Json = nlohmann::json;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

class GetProfilesTest : public testing::Test {
 protected:
  TestEnvironment ctl{testing::TempDir() + "/profiles"};
};

TEST_F(GetProfilesTest, Table_HasALineForEachKindWithoutACoordinator) {
  ASSERT_EQ(ctl.Run({"get", "profiles"}), kExitOk) << ctl.err();
  const std::string out = ctl.out();
  EXPECT_EQ(std::count(out.begin(), out.end(), '\n'), 11) << out;
  EXPECT_THAT(out, HasSubstr("\nh800 "));
  EXPECT_THAT(out, HasSubstr("160/200"));
  EXPECT_THAT(out, Not(HasSubstr("NVIDIA")));
  EXPECT_THAT(ctl.coordinator.addresses, IsEmpty());
  ASSERT_EQ(ctl.Run({"get", "profiles", "H20", "cpu", "-o", "wide"}), kExitOk);
  EXPECT_THAT(ctl.out(), HasSubstr("NVIDIA H20 SXM"));
  EXPECT_THAT(ctl.out(), Not(HasSubstr("h800 ")));
  ASSERT_EQ(ctl.Run({"get", "profile", "H20", "cpu", "-o", "name"}), kExitOk);
  EXPECT_EQ(ctl.out(), "h20\ncpu\n");
}

TEST_F(GetProfilesTest, Json_HasEveryFigureWithItsSource) {
  ASSERT_EQ(ctl.Run({"get", "profiles", "h800", "-o", "json"}), kExitOk) << ctl.err();
  const Json json = Json::parse(ctl.out());
  ASSERT_EQ(json["items"].size(), 1u);
  const Json& h800 = json["items"][0];
  EXPECT_EQ(h800["bf16_tflops"], 989.5);
  for (const Json& rate : h800["rates"]) EXPECT_FALSE(rate["source"].empty());
  for (const auto& [key, value] : h800.items()) {
    if (!value.is_number()) continue;
    const auto sources = h800["sources"];
    EXPECT_TRUE(std::any_of(sources.begin(), sources.end(), [&, name = key](const Json& source) {
      return source["figure"] == name;
    })) << key;
  }
}

TEST_F(GetProfilesTest, UnknownKind_IsAUsageErrorThatNamesTheNearest) {
  EXPECT_EQ(ctl.Run({"get", "profiles", "h80O"}), kExitUsage);
  EXPECT_THAT(ctl.err(), HasSubstr("no device profile \"h80O\"; did you mean h800?"));
  EXPECT_THAT(ctl.out(), IsEmpty());
}

TEST(ClusterFileTest, SoundFile_IsRead) {
  const auto cluster = ParseCluster(
      "apiVersion: fathom/v1\nkind: Cluster\nspec: {pools: [{device: h800, nodes: 2}]}\n",
      "c.yaml");
  ASSERT_TRUE(cluster.ok()) << cluster.status();
  EXPECT_EQ(cluster->spec().pools(0).nodes(), 2);
}

TEST(ClusterFileTest, WhatIsWrong_IsNamedWithFileLineAndField) {
  const auto message = [](const std::string& text) {
    return std::string(ParseCluster(text, "c.yaml").status().message());
  };
  EXPECT_EQ(message("kind: Cluster\n"),
            "c.yaml: apiVersion is ''; a cluster file begins with apiVersion: fathom/v1");
  EXPECT_EQ(message("apiVersion: fathom/v1\nkind: Job\n"),
            "c.yaml: kind is 'Job'; a cluster file says kind: Cluster");
  EXPECT_THAT(message("apiVersion: fathom/v1\nkind: Cluster\nspec: {pool: []}\n"),
              HasSubstr("c.yaml:3: spec.pool: unknown field; did you mean pools?"));
  EXPECT_TRUE(absl::IsNotFound(LoadClusterFile(testing::TempDir() + "/none.yaml").status()));
}

}  // namespace
}  // namespace fathom::cli
