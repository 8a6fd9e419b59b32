// fathomctl experts plan: what it prints, and how it refuses what can't be placed.
#include "cli/experts_verbs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/str_replace.h"
#include "cli/exit_code.h"
#include "cli/experts_file.h"
#include "cli/test_environment.h"

namespace fathom::cli {
namespace {

using Json = nlohmann::json;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class ExpertsPlanTest : public testing::Test {
 protected:
  ExpertsPlanTest()
      : ctl(testing::TempDir() + "/" +
            testing::UnitTest::GetInstance()->current_test_info()->name()) {}

  std::string Write(const std::string& text) {
    const std::string path = ctl.folder() + "/loads.json";
    std::ofstream(path) << text;
    return path;
  }

  // The published example, and a second layer whose load lies elsewhere.
  static Json Example() {
    return {{"loads",
             {{90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86},
              {20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27}}},
            {"replicas", 16},
            {"groups", 4},
            {"nodes", 2},
            {"devices", 8}};
  }

  int Plan(const Json& file, std::vector<std::string> further = {}) {
    std::vector<std::string> arguments = {"experts", "plan", "--loads", Write(file.dump())};
    arguments.insert(arguments.end(), further.begin(), further.end());
    return ctl.Run(arguments);
  }

  TestEnvironment ctl;
};

TEST_F(ExpertsPlanTest, PublishedAlgorithm_GivesThePublishedExample) {
  ASSERT_EQ(Plan(Example(), {"--algorithm", "eplb", "-o", "json"}), kExitOk) << ctl.err();
  const Json plan = Json::parse(ctl.out());
  EXPECT_EQ(plan["mode"], "hierarchical");
  ASSERT_EQ(plan["layers"].size(), 2u);
  EXPECT_EQ(plan["layers"][0]["physical_to_logical"],
            Json({5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1}));
  EXPECT_EQ(plan["layers"][1]["physical_to_logical"],
            Json({7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1}));
  EXPECT_TRUE(plan["layers"][0]["moved"].is_null());
  EXPECT_THAT(ctl.coordinator.addresses, IsEmpty());
}

TEST_F(ExpertsPlanTest, BalancedPlan_HasNoTwoCopiesOnADeviceAndIsKept) {
  Json file = Example();
  ASSERT_EQ(Plan(file, {"-o", "json"}), kExitOk) << ctl.err();
  const Json plan = Json::parse(ctl.out());
  EXPECT_EQ(plan["algorithm"], "balanced");
  file["current"] = Json::array();
  for (const Json& layer : plan["layers"]) {
    const auto physical = layer["physical_to_logical"].get<std::vector<int>>();
    ASSERT_EQ(physical.size(), 16u);
    for (int device = 0; device < 8; ++device) {
      EXPECT_NE(physical[2 * device], physical[2 * device + 1]);
    }
    for (int expert = 0; expert < 12; ++expert) {
      EXPECT_EQ(layer["counts"][expert], std::count(physical.begin(), physical.end(), expert));
    }
    EXPECT_GE(layer["device_max_over_mean"], 1.0);
    file["current"].push_back(physical);
  }
  ASSERT_EQ(Plan(file, {"-o", "json"}), kExitOk) << ctl.err();
  const Json again = Json::parse(ctl.out());
  for (size_t layer = 0; layer < 2; ++layer) {
    EXPECT_EQ(again["layers"][layer]["moved"], 0);
    EXPECT_EQ(again["layers"][layer]["physical_to_logical"],
              plan["layers"][layer]["physical_to_logical"]);
  }
  // From another algorithm's placement: as many slots as differ.
  file["loads"][0][0] = 900;
  ASSERT_EQ(Plan(file, {"-o", "json"}), kExitOk);
  const Json changed = Json::parse(ctl.out())["layers"][0];
  int differing = 0;
  for (size_t slot = 0; slot < 16; ++slot) {
    differing += changed["physical_to_logical"][slot] != file["current"][0][slot] ? 1 : 0;
  }
  EXPECT_GT(differing, 0);
  EXPECT_EQ(changed["moved"], differing);
}

TEST_F(ExpertsPlanTest, TableForPeople_NamesShapeAndBalance) {
  Json file = Example();
  file["loads"].erase(1);
  ASSERT_EQ(Plan(file, {"--algorithm", "eplb"}), kExitOk) << ctl.err();
  EXPECT_THAT(ctl.out(), HasSubstr("hierarchical placement (eplb): 12 experts in 4 groups, 16 "
                                   "replicas on 8 devices of 2 nodes, 2 on each device"));
  EXPECT_THAT(ctl.out(), HasSubstr("MAX/MEAN"));
  EXPECT_THAT(ctl.out(), HasSubstr("5 6 | 5 7 | 8 4 | 3 4 || 10 9 | 10 2 | 0 1 | 11 1"));
  ASSERT_EQ(Plan(Example(), {"-o", "wide"}), kExitOk);
  EXPECT_THAT(ctl.out(), HasSubstr("DEVICES"));
  ASSERT_EQ(Plan(Example()), kExitOk);
  EXPECT_THAT(ctl.out(), testing::Not(HasSubstr("DEVICES")));
  Json global = Example();
  global["nodes"] = 8;
  ASSERT_EQ(Plan(global, {"-o", "json"}), kExitOk) << ctl.err();
  EXPECT_EQ(Json::parse(ctl.out())["mode"], "global");
}

TEST_F(ExpertsPlanTest, ImpossibleShape_IsExitCode4WithTheNearestThatWorks) {
  for (const auto& [key, value, words] : std::vector<std::tuple<const char*, Json, const char*>>{
           {"replicas", 10, "replicas: 10 slots can't hold one copy of each of 12 experts"},
           {"replicas", 20, "the nearest number that works is 16 or 24"},
           {"replicas", 56, "at most 48 replicas"},
           {"replicas", 2000000000000, "more than the 16384 that can be planned"},
           {"groups", 5, "the nearest number that works is 4 or 6"},
           {"nodes", 3, "the nearest number that works is 2 or 4"},
           {"devices", 100000, "more than the 1024 that can be planned"}}) {
    Json file = Example();
    file[key] = value;
    EXPECT_EQ(Plan(file), kExitRefused) << key << " " << value;
    EXPECT_THAT(ctl.err(), HasSubstr(words));
    EXPECT_THAT(ctl.err(), HasSubstr("loads.json: "));
    EXPECT_THAT(ctl.out(), IsEmpty());
  }
}

TEST_F(ExpertsPlanTest, WrongFile_IsExitCode2AndSaysWhere) {
  struct Case {
    const char* text;  // ~ stands for the rest of the file
    const char* words;
  };
  const Case cases[] = {
      {"", "is not JSON: parse error at line 1"},
      {"{\"loads\": [[1,2],\n[3,]", "is not JSON: parse error at line 2"},
      {"{\"loads\": [[NaN, 1]]~", "is not JSON"},
      {"{\"loads\": [[1e999, 1]]~", "is not JSON"},
      {"[1, 2]", "it holds [1,2], not an object"},
      {"{}", "'loads' is missing"},
      {"{\"loads\": [[1, 2]], \"replica\": 4}", "unknown key 'replica'"},
      {"{\"loads\": 7~", "loads is 7, not a list"},
      {"{\"loads\": []~", "loads is [], not a list"},
      {"{\"loads\": [[]]~", "loads[0] is [], not a list"},
      {"{\"loads\": [[1, 2], [3]]~", "loads[1] has 1 entries, but loads[0] has 2"},
      {"{\"loads\": [[1, 2], [3, -4]]~", "loads[1][1] is -4, not a number"},
      {"{\"loads\": [[1, \"2\"]]~", "loads[0][1] is \"2\""},
      {"{\"loads\": [[1, 1e30]]~", "the load of expert 1 is 1e+30"},
      {"{\"loads\": [[1, 2]], \"current\": [[0, 1]]~", "2 slots, not 4"},
      {"{\"loads\": [[1, 2]], \"current\": [[0, 1, 2, 0]]~", "slot 2"},
      {"{\"loads\": [[1, 2]], \"current\": [[0, 1, 0.5, 0]]~", "current[0][2] is 0.5"},
      {"{\"loads\": [[1, 2], [3, 4]], \"current\": [[0, 1, 1, 0]]~",
       "current has 1 rows, but loads has 2"},
      {R"({"loads": [[1]], "replicas": "x", "groups": 1, "nodes": 1, "devices": 1})",
       "replicas is \"x\", not an integer"},
      {R"({"loads": [[1]], "replicas": 1, "groups": 1, "nodes": 0, "devices": 1})",
       "nodes: 0 is not positive"}};
  for (const auto& [pattern, words] : cases) {
    const std::string text = absl::StrReplaceAll(
        pattern, {{"~", R"(, "replicas": 4, "groups": 1, "nodes": 1, "devices": 2})"}});
    EXPECT_EQ(ctl.Run({"experts", "plan", "--loads", Write(text)}), kExitUsage) << text;
    EXPECT_THAT(ctl.err(), HasSubstr(words)) << text;
    const std::string error = ctl.err();
    EXPECT_EQ(std::count(error.begin(), error.end(), '\n'), 1) << error;
    EXPECT_THAT(ctl.out(), IsEmpty());
  }
  EXPECT_EQ(ctl.Run({"experts", "plan", "--loads", ctl.folder() + "/none.json"}), kExitNotFound);
  EXPECT_EQ(ctl.Run({"experts", "plan"}), kExitUsage);
  EXPECT_EQ(Plan(Example(), {"--algorithm", "dice"}), kExitUsage);
  EXPECT_EQ(Plan(Example(), {"--tolerance", "-1"}), kExitUsage);
}

}  // namespace
}  // namespace fathom::cli
