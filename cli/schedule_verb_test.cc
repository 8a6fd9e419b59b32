// `fathomctl schedule` as a user meets it: its JSON read back, its timeline, its errors.
#include "cli/schedule_verb.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "cli/exit_code.h"
#include "cli/test_environment.h"
#include "common/schedule/named_schedules.h"

namespace fathom::cli {
namespace {

using Json = nlohmann::json;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class ScheduleVerbTest : public testing::Test {
 protected:
  ScheduleVerbTest()
      : ctl(testing::TempDir() + "/" +
            testing::UnitTest::GetInstance()->current_test_info()->name()) {}

  int Schedule(const std::string& kind, int ranks, int batches,
               const std::vector<std::string>& more = {}) {
    std::vector<std::string> arguments = {
        "schedule",           "--kind", kind, "--ranks", absl::StrCat(ranks), "--micro-batches",
        absl::StrCat(batches)};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return ctl.Run(arguments);
  }

  Json Parsed(const std::string& kind, int ranks, int batches,
              const std::string& costs = "F=1,B=1,W=1,FB=3") {
    EXPECT_EQ(Schedule(kind, ranks, batches, {"--costs", costs, "-o", "json"}), kExitOk)
        << ctl.err();
    return Json::parse(ctl.out());
  }

  TestEnvironment ctl;
};

TEST_F(ScheduleVerbTest, DualPipeOfFourRanks_IsThePublishedOne) {
  const Json json = Parsed("dualpipe", 4, 8);
  EXPECT_EQ(json["makespan"], 26);
  EXPECT_EQ(json["idle"], Json({2, 2, 2, 2}));
  EXPECT_EQ(json["peak_activations"], Json({5, 5, 5, 5}));
  EXPECT_EQ(json["ranks"][0],
            Json({"F0.0", "F0.1", "F0.2", "F1.0", "Bi1.0", "W", "F1.1", "F0.3|B1.1", "F1.2|B0.0",
                  "B1.2", "F1.3|B0.1", "B1.3", "Bi0.2", "W", "Bi0.3", "W"}));
  EXPECT_EQ(json["ranks"].size(), 4u);
  EXPECT_EQ(json.size(), 4u);
  EXPECT_THAT(ctl.coordinator.addresses, IsEmpty());
}

TEST_F(ScheduleVerbTest, ASvgFile_HoldsThePicture) {
  ASSERT_EQ(Schedule("dualpipe", 4, 8, {"--svg", "step.svg"}), kExitOk) << ctl.err();
  std::ifstream file(ctl.folder() + "/step.svg");
  const std::string svg{std::istreambuf_iterator<char>(file), {}};
  EXPECT_THAT(svg, HasSubstr("<title>dualpipe</title>"));
  EXPECT_THAT(svg, HasSubstr("F0.3|B1.1"));
  EXPECT_EQ(Schedule("dualpipe", 4, 8, {"--svg", "no/such/folder.svg"}), kExitNotFound);
  EXPECT_THAT(ctl.err(), HasSubstr("--svg: "));
}

// Played again from the printed lists alone: every rank's work at the given costs, and every
// micro-batch forwards and backwards once on each chunk.
TEST_F(ScheduleVerbTest, EveryKind_PrintsListsThatAddUp) {
  for (const std::string& kind : schedule::ScheduleKinds()) {
    const Json json = Parsed(kind, 4, 12, "F=2,B=3,W=1.5,FB=5");
    for (size_t rank = 0; rank < 4; ++rank) {
      std::map<std::string, int> forwards, backwards;  // by "0.3"
      int deferred = 0;
      double busy = 0;
      for (const std::string text : json["ranks"][rank]) {
        const std::vector<std::string> ops = absl::StrSplit(text, '|');
        busy += ops.size() == 2 ? 5 : 0;
        for (const std::string& op : ops) {
          if (op == "W") {
            busy += 1.5;
            EXPECT_GE(--deferred, 0) << kind;
            continue;
          }
          const bool input_only = op.rfind("Bi", 0) == 0;
          deferred += input_only;
          if (ops.size() == 1) busy += op[0] == 'F' ? 2 : input_only ? 3 : 4.5;
          ++(op[0] == 'F' ? forwards : backwards)[op.substr(input_only ? 2 : 1)];
        }
      }
      EXPECT_EQ(forwards, backwards) << kind;
      EXPECT_EQ(deferred, 0) << kind;
      const bool two_ways = kind == "interleaved-1f1b" || kind == "dualpipev" || kind == "zbv";
      EXPECT_EQ(forwards.size(), two_ways ? 24u : 12u) << kind;
      for (const auto& [name, count] : forwards) EXPECT_EQ(count, 1) << kind << " " << name;
      EXPECT_NEAR(busy + json["idle"][rank].get<double>(), json["makespan"].get<double>(), 1e-9)
          << kind;
    }
  }
}

TEST_F(ScheduleVerbTest, Costs_AreTheInputGradientTheWeightsAndThePair) {
  // A full backward is B + W: (P - 1)(F + B + W) idle.
  EXPECT_THAT(Parsed("1f1b", 4, 8, "F=1,B=2,W=3")["idle"], Each(3 * (1 + 2 + 3)));
  EXPECT_EQ(Parsed("1F1B", 1, 3, "f=0.5, B=0")["makespan"], 3 * 1.5);
  EXPECT_LT(Parsed("dualpipe", 4, 8, "FB=2.5")["makespan"], 26);
  EXPECT_EQ(Parsed("dualpipe", 4, 8, "F=0,B=0,W=0,FB=0")["makespan"], 0);
  EXPECT_EQ(Schedule("dualpipe", 4, 8, {"-o", "json"}), kExitOk);
  EXPECT_EQ(Json::parse(ctl.out())["makespan"], 26);
}

TEST_F(ScheduleVerbTest, Chunks_AreOfInterleaving) {
  EXPECT_EQ(Schedule("interleaved-1f1b", 4, 8, {"--chunks", "3", "-o", "json"}), kExitOk);
  EXPECT_EQ(Json::parse(ctl.out())["makespan"], 3 * (3 * 8 + 3));
  EXPECT_EQ(Json::parse(ctl.out())["ranks"][0][8], "F2.0");
  EXPECT_EQ(Schedule("1f1b", 4, 8, {"--chunks", "2"}), kExitUsage);
  EXPECT_THAT(ctl.err(), HasSubstr("1f1b: chunks: 2; a rank has 1 chunk"));
}

TEST_F(ScheduleVerbTest, StageCosts_AreOfEachStage) {
  const std::string uneven = "F=1,2,3,4; B=2; W=1,1,1,5";
  ASSERT_EQ(Schedule("1f1b", 4, 8, {"--stage-costs", uneven, "-o", "json"}), kExitOk) << ctl.err();
  const Json json = Json::parse(ctl.out());
  const double makespan = json["makespan"];
  for (int rank = 0; rank < 4; ++rank) {
    const double busy = 8 * (1 + rank + 2 + (rank == 3 ? 5 : 1));
    EXPECT_EQ(json["idle"][rank], makespan - busy) << rank;
  }
  const std::string file = testing::TempDir() + "/stage_costs";
  std::ofstream(file) << "# measured\nF=1,2,3,4\n\nB=2\nW=1,1,1,5\n";
  ASSERT_EQ(Schedule("1f1b", 4, 8, {"--stage-costs", file, "-o", "json"}), kExitOk) << ctl.err();
  EXPECT_EQ(Json::parse(ctl.out()), json);
  // What it doesn't name is as --costs says.
  ASSERT_EQ(Schedule("1f1b", 2, 2, {"--stage-costs", "F=1,2", "--costs", "B=3,W=4", "-o", "json"}),
            kExitOk);
  EXPECT_EQ(Json::parse(ctl.out())["makespan"], (1 + 2 + 7) + (2 + 7) + 7);
  ASSERT_EQ(Schedule("1f1b", 2, 1, {"--message-time", "10", "-o", "json"}), kExitOk);
  EXPECT_EQ(Json::parse(ctl.out())["makespan"], 2 * 10 + 6);
}

TEST_F(ScheduleVerbTest, Searched_IsNoSlowerThanTheNamedOfItsPlacement) {
  const std::string costs = "F=3,3,3,3,3,3,3,5";
  for (const auto& [family, named] :
       std::map<std::string, std::string>{{"v", "zbv"}, {"loop", "zb1p"}}) {
    std::vector<std::string> more = {"--max-activations",
                                     "9",
                                     "-o",
                                     "json",
                                     "--stage-costs",
                                     costs.substr(0, family == "v" ? 17 : 9)};
    ASSERT_EQ(Schedule(named, 4, 8, {more.begin() + 2, more.end()}), kExitOk) << ctl.err();
    const Json known = Json::parse(ctl.out());
    more.insert(more.end(), {"--family", family});
    ASSERT_EQ(Schedule("searched", 4, 8, more), kExitOk) << ctl.err();
    const Json searched = Json::parse(ctl.out());
    EXPECT_EQ(searched.size(), 4u);
    EXPECT_LE(searched["makespan"], known["makespan"]);
    for (const Json& peak : searched["peak_activations"]) EXPECT_LE(peak, 9);
    EXPECT_EQ(searched["ranks"].size(), 4u);
  }
  ASSERT_EQ(Schedule("Searched", 4, 8, {"--family", "bidirectional"}), kExitOk) << ctl.err();
  EXPECT_THAT(ctl.out(), HasSubstr("searched: 4 ranks, 4 stages, 8 micro-batches: makespan"));
  EXPECT_THAT(ctl.out(), HasSubstr("best named one of this placement and memory: dualpipe, 26. "));
  ASSERT_EQ(Schedule("searched", 4, 8, {"--chunks", "2", "-o", "json"}), kExitOk) << ctl.err();
  EXPECT_LE(Json::parse(ctl.out())["makespan"], 3 * (2 * 8 + 3));
}

TEST_F(ScheduleVerbTest, Table_DrawsATimeline) {
  ASSERT_EQ(Schedule("dualpipe", 4, 8), kExitOk);
  const std::vector<std::string> lines = absl::StrSplit(ctl.out(), '\n');
  ASSERT_GE(lines.size(), 6u);
  EXPECT_EQ(lines[0], "dualpipe: 4 ranks, 4 stages, 8 micro-batches: makespan 26, 7.7% of it idle");
  EXPECT_EQ(lines[1], "RANK  IDLE  PEAK  TIMELINE");
  EXPECT_EQ(lines[2], "   0     2     5  F0F1F2f0i0w0f1F3|b1-..f2|B0-b2--..f3|B1-b3--I2W2I3W3");
  // All that fits: the widest schedules keep to the line, and bars never overlap.
  ctl.environment().terminal_columns = 100;
  for (int batches : {8, 64, 256}) {
    ASSERT_EQ(Schedule("zb1p", 4, batches), kExitOk);
    for (const absl::string_view line : absl::StrSplit(ctl.out(), '\n')) {
      if (line.substr(0, 3) == "   ") {
        EXPECT_LE(line.size(), 100u) << line;
      }
    }
  }
  ASSERT_EQ(Schedule("1f1b", 2, 2, {"--costs", "F=0,B=0,W=0", "-o", "wide"}), kExitOk);
  EXPECT_THAT(ctl.out(), HasSubstr("F0.0 F0.1 B0.0 B0.1"));
  EXPECT_EQ(Schedule("zb-v", 2, 4, {"-o", "name"}), kExitOk);
  EXPECT_EQ(ctl.out(), "zbv\n");
}

TEST_F(ScheduleVerbTest, BadInput_IsOneLineThatNamesTheRule) {
  struct Case {
    std::vector<std::string> arguments;
    const char* says;
  };
  for (const Case& c : std::vector<Case>{
           {{}, "--kind is required"},
           {{"--kind", "dualpipe", "--ranks", "4"}, "--micro-batches is required"},
           {{"--kind", "pipedream", "--ranks", "4", "--micro-batches", "8"},
            "there is 1f1b, interleaved-1f1b, zb1p, zb2p, zbv, dualpipe, dualpipev"},
           {{"--kind", "dualpipe", "--ranks", "3", "--micro-batches", "8"}, "even number"},
           {{"--kind", "dualpipe", "--ranks", "4", "--micro-batches", "6"}, "at least 8"},
           {{"--kind", "dualpipe", "--ranks", "four", "--micro-batches", "8"}, "four"},
           {{"--kind", "1f1b", "--ranks", "-4", "--micro-batches", "8"},
            "'-4' is not a whole number from 1 to"},
           {{"--kind", "1f1b", "--ranks", "8", "--micro-batches", "8", "--chunks", "2000000000"},
            "choose at most 1048576 stages"},
           {{"--kind", "1f1b", "--ranks", "99999999999", "--micro-batches", "8"}, "--ranks"},
           {{"--kind", "1f1b", "--ranks", "2", "--micro-batches", "1000000"}, "too many to print"},
           {{"--kind", "1f1b", "--ranks", "2", "--micro-batches", "2", "--chunks", "0"},
            "--chunks"}}) {
    std::vector<std::string> arguments = {"schedule"};
    arguments.insert(arguments.end(), c.arguments.begin(), c.arguments.end());
    EXPECT_EQ(ctl.Run(arguments), kExitUsage) << testing::PrintToString(arguments);
    EXPECT_THAT(ctl.err(), HasSubstr(c.says));
    const std::string error = ctl.err();
    EXPECT_EQ(std::count(error.begin(), error.end(), '\n'), 1) << error;
    EXPECT_THAT(ctl.out(), IsEmpty());
  }
  for (const auto& [options, says] : std::map<std::vector<std::string>, std::string>{
           {{"--family", "v"}, "--family is of --kind searched; 1f1b has its own"},
           {{"--max-activations", "4"}, "--max-activations is of --kind searched"},
           {{"--max-activations", "0"}, "--max-activations"},
           {{"--kind", "searched", "--family", "ring"}, "there is loop, v, bidirectional"},
           {{"--kind", "searched", "--family", "v", "--chunks", "2"}, "only the loop takes"},
           {{"--kind", "searched", "--family", "v", "--max-activations", "1"}, "at least 2, or 0"},
           {{"--message-time", "-1"}, "--message-time: '-1' is not a number from 0"},
           {{"--stage-costs", "F=1,2,3"}, "costs of 3 stages for 4"},
           {{"--stage-costs", "F=1,2;B=1,2,3"}, "2 numbers of F beside 3 of another cost"},
           {{"--stage-costs", "F=1,x"}, "\"F=1,x\": no number"},
           {{"--stage-costs", "=1"}, "no such cost"},
           {{"--stage-costs", "F=1;F=2"}, "F is given twice"}}) {
    std::vector<std::string> arguments = {"--kind", "1f1b"};
    if (options[0] == "--kind") arguments.clear();
    arguments.insert(arguments.begin(), {"schedule", "--ranks", "4", "--micro-batches", "8"});
    arguments.insert(arguments.end(), options.begin(), options.end());
    EXPECT_EQ(ctl.Run(arguments), kExitUsage) << testing::PrintToString(arguments);
    EXPECT_THAT(ctl.err(), HasSubstr(says));
  }
  EXPECT_NE(Schedule("1f1b", 4, 8, {"--stage-costs", "/nowhere/costs"}), kExitOk);
  EXPECT_THAT(ctl.err(), HasSubstr("/nowhere/costs"));
  for (const auto& [costs, says] :
       std::map<std::string, std::string>{{"G=1", "\"G=1\": no such cost"},
                                          {"F", "\"F\": no number"},
                                          {"F=one", "no number"},
                                          {"F=1,F=2", "F is given twice"},
                                          {"B=-1", "not between 0 and 1e+12"},
                                          {"W=nan", "not between"},
                                          {"FB=inf", "not between"}}) {
    EXPECT_EQ(Schedule("dualpipe", 4, 8, {"--costs", costs}), kExitUsage) << costs;
    EXPECT_THAT(ctl.err(), HasSubstr(says));
    EXPECT_THAT(ctl.err(), HasSubstr("F=1,B=1,W=1,FB=3"));
  }
}

}  // namespace
}  // namespace fathom::cli
