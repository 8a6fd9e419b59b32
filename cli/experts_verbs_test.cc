// fathomctl experts: what plan and traffic print, and how they refuse what can't be placed or
// read.
#include "cli/experts_verbs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
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
           {"replicas", 2000000, "replicas: 2000000 is more than the 16384 that can be planned"},
           {"replicas", 2000000000000, "replicas is 2000000000000, more than can be planned"},
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
      {"{\"loads\": [[1, 2]], \"loads\": [[1]]~", "key 'loads' stands there twice"},
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
  // As deep as a file may be long, which no stack is.
  const std::string deep = std::string(1 << 20, '[') + std::string(1 << 20, ']');
  for (const std::string& text : {deep, absl::StrCat("{\"loads\": ", deep, ", \"replicas\": 4}")}) {
    EXPECT_EQ(ctl.Run({"experts", "plan", "--loads", Write(text)}), kExitUsage);
    EXPECT_THAT(ctl.err(), HasSubstr("loads.json: lists and objects in each other, more than 16"));
  }
  EXPECT_EQ(ctl.Run({"experts", "plan", "--loads", ctl.folder() + "/none.json"}), kExitNotFound);
  EXPECT_EQ(ctl.Run({"experts", "plan"}), kExitUsage);
  EXPECT_EQ(Plan(Example(), {"--algorithm", "dice"}), kExitUsage);
  EXPECT_EQ(Plan(Example(), {"--tolerance", "-1"}), kExitUsage);
}

constexpr char kCluster[] = R"(apiVersion: fathom/v1
kind: Cluster
metadata:
  name: two
spec:
  pools:
    - name: h800
      device: h800
      nodes: 2
      devices_per_node: 2
      nodes_per_leaf: 1
)";

// Two nodes of two devices, and an expert on each.
class ExpertsTrafficTest : public testing::Test {
 protected:
  ExpertsTrafficTest()
      : ctl(testing::TempDir() + "/" +
            testing::UnitTest::GetInstance()->current_test_info()->name()) {
    Write("cluster.yaml", kCluster);
  }

  void Write(const std::string& name, const std::string& text) {
    std::ofstream(ctl.folder() + "/" + name) << text;
  }

  static Json Example() {
    return Json::parse(R"({"experts": 4, "groups": 2, "topk_group": 2, "layers": [
        {"ranks": [[[0, 3]], [], [], [[2]]]},
        {"ranks": [[[3], [3]], [[3]], [], [[3, 2]]]}]})");
  }

  int Traffic(const std::string& trace, const std::vector<std::string>& further = {}) {
    Write("trace.json", trace);
    std::vector<std::string> arguments = {"experts",    "traffic",   "--trace",
                                          "trace.json", "--cluster", "cluster.yaml"};
    arguments.insert(arguments.end(), further.begin(), further.end());
    return ctl.Run(arguments);
  }

  TestEnvironment ctl;
};

TEST_F(ExpertsTrafficTest, Json_HasEveryLinkOfEveryLayer) {
  ASSERT_EQ(Traffic(Example().dump(), {"-o", "json"}), kExitOk) << ctl.err();
  const Json found = Json::parse(ctl.out());
  EXPECT_EQ(found["ranks"], 4);
  EXPECT_EQ(found["scale_up_domains"], 2);
  EXPECT_EQ(found["domain_limit"], 2);
  // DeepSeek-V3: 7168 values of a byte, 56 scales, 8 ids and weights; back in BF16.
  EXPECT_EQ(found["dispatch_bytes_per_token"], 7168 + 56 * 4 + 8 * 4 + 8 * 4);
  EXPECT_EQ(found["combine_bytes_per_token"], 7168 * 2);
  ASSERT_EQ(found["links"].size(), 10u);
  EXPECT_EQ(found["links"][2]["name"], "h800-1 device 0 NIC");
  EXPECT_EQ(found["links"][9]["name"], "leaf 1 uplink");
  ASSERT_EQ(found["layers"].size(), 2u);
  const Json& first = found["layers"][0];
  EXPECT_EQ(first["dispatch"]["out_bytes"], Json({7456, 0, 0, 0, 0, 0, 7456, 7456, 7456, 0}));
  EXPECT_EQ(first["dispatch"]["in_bytes"], Json({0, 0, 7456, 0, 0, 0, 7456, 7456, 0, 7456}));
  EXPECT_EQ(first["combine"]["in_bytes"], Json({14336, 0, 0, 0, 0, 0, 14336, 14336, 14336, 0}));
  EXPECT_EQ(first["device_tokens"], Json({1, 0, 1, 1}));
  EXPECT_EQ(first["domains_per_token"], 1.5);
  EXPECT_EQ(first["dispatch"]["busiest_link"], "h800-0 device 0 NIC out");
  EXPECT_EQ(found["layers"][1]["tokens"], 4);
  EXPECT_EQ(found["total"]["tokens"], 6);
  EXPECT_EQ(found["total"]["device_tokens"], Json({1, 0, 2, 5}));
  EXPECT_DOUBLE_EQ(found["total"]["dispatch"]["seconds"],
                   first["dispatch"]["seconds"].get<double>() +
                       found["layers"][1]["dispatch"]["seconds"].get<double>());
  EXPECT_THAT(ctl.coordinator.addresses, IsEmpty());
}

TEST_F(ExpertsTrafficTest, PlannedPlacement_MovesTheTraffic) {
  // What plan prints goes in as it is: expert 3 has a copy beside each source of layer 1.
  const Json loads = {{"loads", {{1, 0, 1, 1}, {0, 0, 1, 9}}},
                      {"replicas", 8},
                      {"groups", 1},
                      {"nodes", 1},
                      {"devices", 4}};
  Write("loads.json", loads.dump());
  ASSERT_EQ(ctl.Run({"experts", "plan", "--loads", ctl.folder() + "/loads.json", "-o", "json"}),
            kExitOk)
      << ctl.err();
  Write("placement.json", ctl.out());
  ASSERT_EQ(Traffic(Example().dump(), {"--placement", "placement.json", "-o", "json"}), kExitOk)
      << ctl.err();
  const Json planned = Json::parse(ctl.out());
  ASSERT_EQ(Traffic(Example().dump(), {"-o", "json"}), kExitOk);
  const Json runs = Json::parse(ctl.out());
  EXPECT_LT(planned["layers"][1]["device_max_over_mean"],
            runs["layers"][1]["device_max_over_mean"]);
  EXPECT_LT(planned["layers"][1]["dispatch"]["seconds"], runs["layers"][1]["dispatch"]["seconds"]);
  const auto over_network = [](const Json& traffic) {
    int64_t bytes = 0;
    for (int rank = 0; rank < 4; ++rank) {
      bytes += traffic["layers"][1]["dispatch"]["out_bytes"][rank].get<int64_t>();
    }
    return bytes;
  };
  // Of the three tokens from node 0 to expert 3, none has to leave it now.
  EXPECT_EQ(over_network(runs), 3 * 7456);
  EXPECT_LE(over_network(planned), 7456);
}

TEST_F(ExpertsTrafficTest, TableForPeople_NamesTheBusiestLink) {
  ASSERT_EQ(Traffic(Example().dump(), {"--dispatch-bytes", "100", "--combine-bytes", "30"}),
            kExitOk)
      << ctl.err();
  EXPECT_THAT(ctl.out(), HasSubstr("4 experts on 4 ranks in 2 scale-up domains; a token is 100 B "
                                   "on its way and 30 B back"));
  EXPECT_THAT(ctl.out(), HasSubstr("DOMAINS/TOKEN"));
  EXPECT_THAT(ctl.out(), HasSubstr("h800-0 device 0 NIC out"));
  EXPECT_THAT(ctl.out(), HasSubstr("\n  all"));
  ASSERT_EQ(Traffic(Example().dump(), {"--layers", "1", "-o", "json"}), kExitOk);
  EXPECT_EQ(Json::parse(ctl.out())["layers"].size(), 1u);
  EXPECT_EQ(Traffic(Example().dump(), {"--layers", "3"}), kExitUsage);
  EXPECT_THAT(ctl.err(), HasSubstr("--layers 3: trace.json has 2"));
  ASSERT_EQ(ctl.Run({"experts", "traffic", "--help"}), kExitOk);
  EXPECT_THAT(ctl.out(), HasSubstr("\"layers\": [{\"ranks\": [[[3, 17, ..], ..], ..]}, ..]"));
}

TEST_F(ExpertsTrafficTest, WrongTrace_IsExitCode2AndSaysWhere) {
  struct Case {
    const char* text;
    const char* words;
  };
  const Case cases[] = {
      {"", "trace.json: not JSON: parse error at line 1"},
      {"{\"experts\": 4,\n]", "not JSON: parse error at line 2"},
      {"[1]", "it holds a list, not an object"},
      {"{}", "'experts' is missing"},
      {R"({"experts": 4})", "'layers' is missing"},
      {R"({"experts": 4, "expert": 4})", "unknown or repeated key 'expert'"},
      {R"({"experts": 4, "experts": 4})", "unknown or repeated key 'experts'"},
      {R"({"experts": "4"})", "experts is \"4\", not an integer"},
      {R"({"experts": [4]})", "experts is a list, not an integer"},
      {R"({"experts": 4, "layers": 5})", "layers is 5, not a list of layers"},
      {R"({"experts": 4, "layers": {}})", "layers is an object, not a list of layers"},
      {R"({"experts": 4, "layers": []})", "it has no layers"},
      {R"({"experts": 4, "layers": [[]]})", "layer 0 is a list, not an object {\"ranks\": [..]}"},
      {R"({"experts": 4, "layers": [{}]})", "layer 0: 'ranks' is missing"},
      {R"({"experts": 4, "layers": [{"rank": []}]})", "layer 0: unknown or repeated key 'rank'"},
      {R"({"experts": 4, "layers": [{"ranks": null}]})", "layer 0: ranks is null, not a list"},
      {R"({"experts": 4, "layers": [{"ranks": []}]})", "layer 0 has no ranks"},
      {R"({"experts": 4, "layers": [{"ranks": [[[0]], 7]}]})",
       "layer 0: rank 1 is 7, not a list of tokens"},
      {R"({"experts": 4, "layers": [{"ranks": [[[0], 3]]}]})",
       "layer 0, rank 0: token 1 is 3, not a list of experts"},
      {R"({"experts": 4, "layers": [{"ranks": [[[0], [1, 2.5]]]}]})",
       "layer 0, rank 0: token 1 chooses 2.5, not an expert's number"},
      {R"({"experts": 4, "layers": [{"ranks": [[[0], [[1]]]]}]})",
       "layer 0, rank 0: token 1 chooses a list, not an expert's number"},
      {R"({"experts": 4, "layers": [{"ranks": [[[0], []]]}]})",
       "layer 0, rank 0: token 1 chooses no expert"},
      {R"({"experts": 4, "layers": [{"ranks": [[[0], [99999999999]]]}]})",
       "layer 0, rank 0: token 1 chooses expert 2147483647, but experts are 0 to 3"},
      {R"({"experts": 4, "layers": [{"ranks": [[[0]]]}, {"ranks": [[[0]], [[1, 1]]]}]})",
       "layer 1 has 2 ranks, but layer 0 has 1"},
      {R"({"experts": 4, "layers": [{"ranks": [[[0]], [[1, 1]]]}]})",
       "layer 0, rank 1: token 0 chooses expert 1 twice"},
      {R"({"experts": 4, "layers": [{"ranks": [[], [], []]}]})", "3 ranks don't share 4 experts"}};
  for (const auto& [text, words] : cases) {
    EXPECT_EQ(Traffic(text), kExitUsage) << text;
    EXPECT_THAT(ctl.err(), HasSubstr(words)) << text;
    EXPECT_THAT(ctl.err(), HasSubstr("trace.json")) << text;
    EXPECT_THAT(ctl.out(), IsEmpty());
  }
  EXPECT_EQ(ctl.Run({"experts", "traffic", "--cluster", "cluster.yaml", "--trace", "none"}),
            kExitNotFound);
  EXPECT_EQ(ctl.Run({"experts", "traffic", "--trace", "trace.json"}), kExitUsage);
  EXPECT_EQ(Traffic(Example().dump(), {"--dispatch-bytes", "0"}), kExitUsage);
  EXPECT_NE(Traffic(R"({"experts": 8, "layers": [{"ranks": [[],[],[],[],[],[],[],[]]}]})"),
            kExitOk);
  EXPECT_THAT(ctl.err(), HasSubstr("trace.json on cluster.yaml: the trace has 8 ranks, but pool "
                                   "'h800' has 4 devices besides its spares"));
}

TEST_F(ExpertsTrafficTest, WrongPlacement_IsExitCode2AndSaysWhere) {
  for (const auto& [text, words] : std::vector<std::pair<const char*, const char*>>{
           {"[", "placement.json is not JSON"},
           {"[]", "it holds [], not an object {\"layers\""},
           {R"({"layers": []})", "physical_to_logical is []"},
           {R"({"layers": [[0, 1, 2, 3]]})", "layers[0] is [0,1,2,3], not an object"},
           {R"({"layers": [{"physical_to_logical": [0, "x"]}]})", "[0][1] is \"x\""},
           {R"({"layers": [{"physical_to_logical": [0, 1, 2, 2]}]})", "expert 3 has no slot"},
           {R"({"layers": [{"physical_to_logical": [0, 1, 2, 3, 1]}]})",
            "5 slots, which 4 ranks"}}) {
    Write("placement.json", text);
    EXPECT_EQ(Traffic(Example().dump(), {"--placement", "placement.json"}), kExitUsage) << text;
    EXPECT_THAT(ctl.err(), HasSubstr(words)) << text;
    EXPECT_THAT(ctl.err(), HasSubstr("placement.json")) << text;
  }
}

}  // namespace
}  // namespace fathom::cli
