// A timeline's picture and trace, read back by programs that know nothing of how they were made.
#include "cli/pipeline_svg.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cli/chrome_trace.h"
#include "cli/common_start.h"
#include "cli/schedule_timeline.h"
#include "cli/timeline_op.h"
#include "common/schedule/event_simulator.h"
#include "common/schedule/named_schedules.h"

namespace fathom::cli {
namespace {

using Json = nlohmann::json;
using ::testing::HasSubstr;
using ::testing::Not;

v1::Timeline Simulated(const std::string& kind, int ranks, int micro_batches) {
  const auto schedule = schedule::MakeSchedule(kind, ranks, micro_batches);
  EXPECT_TRUE(schedule.ok()) << schedule.status();
  const auto simulation = schedule::Simulate(*schedule, {schedule::StageCosts()});
  EXPECT_TRUE(simulation.ok()) << simulation.status();
  return TimelineOf(*schedule, *simulation);
}

v1::RankTimes& AddRank(v1::Timeline& timeline, int rank, int pipeline_rank) {
  v1::RankTimes& times = *timeline.add_ranks();
  times.set_rank(rank);
  times.set_pipeline_rank(pipeline_rank);
  return times;
}

void AddInstruction(v1::RankTimes& rank, const std::string& what, double start, double end,
                    double wait = 0) {
  v1::TimedInstruction& instruction = *rank.add_instructions();
  instruction.set_what(what);
  instruction.set_start_s(start);
  instruction.set_end_s(end);
  instruction.set_wait_s(wait);
}

// What Python's XML parser makes of it: "rects paths texts groups-with-titles"; empty: not XML.
std::string ParsedByPython(const std::string& svg) {
  const std::string folder = testing::TempDir() + "/";
  const std::string name =
      folder + testing::UnitTest::GetInstance()->current_test_info()->name() + ".svg";
  std::ofstream(name) << svg;
  const std::string script =
      "import sys, xml.etree.ElementTree as E\n"
      "root = E.parse(sys.argv[1]).getroot()\n"
      "ns = '{http://www.w3.org/2000/svg}'\n"
      "n = lambda tag: sum(1 for _ in root.iter(ns + tag))\n"
      "titled = sum(1 for g in root.iter(ns + 'g') if g.find(ns + 'title') is not None)\n"
      "print(n('rect'), n('path'), n('text'), titled)\n";
  std::ofstream(folder + "parse.py") << script;
  const std::string command =
      absl::StrCat("python3 ", folder, "parse.py ", name, " > ", name, ".out");
  EXPECT_EQ(std::system(command.c_str()), 0) << svg.substr(0, 2000);
  std::ifstream out(name + ".out");
  std::string line;
  std::getline(out, line);
  return line;
}

TEST(TimelineOpTest, Instructions_AreReadAsTheSchedulesWriteThem) {
  const auto pair = ParseTimelineOps("F0.3|B1.12");
  ASSERT_EQ(pair.size(), 2u);
  EXPECT_EQ(pair[0].kind, TimelineOpKind::kForward);
  EXPECT_EQ(pair[0].way, 0);
  EXPECT_EQ(pair[0].micro_batch, 3);
  EXPECT_EQ(pair[1].kind, TimelineOpKind::kBackward);
  EXPECT_EQ(pair[1].way, 1);
  EXPECT_EQ(pair[1].micro_batch, 12);
  EXPECT_EQ(ParseTimelineOps("Bi1.0").front().kind, TimelineOpKind::kBackwardInput);
  EXPECT_EQ(ParseTimelineOps("W").front().kind, TimelineOpKind::kWeight);
}

TEST(TimelineOpTest, OtherTexts_ArePartsByTheirName) {
  for (const std::string text :
       {"reduce gradients", "", "F", "F0", "F0.", "F-1.2", "F0.3|", "|", "B0.1.2", "Fx.1",
        "Waiting", "F0.99999999999999999999", "optimizer|snapshot"}) {
    const auto ops = ParseTimelineOps(text);
    ASSERT_EQ(ops.size(), 1u) << text;
    EXPECT_EQ(ops.front().kind, TimelineOpKind::kOther) << text;
    EXPECT_EQ(ops.front().text, text);
    EXPECT_EQ(ops.front().micro_batch, -1) << text;
  }
}

TEST(PipelineSvgTest, FourRanks_EveryInstructionIsABoxWithItsNameAndTimes) {
  const v1::Timeline timeline = Simulated("dualpipe", 4, 8);
  int instructions = 0;
  int ops = 0;
  for (const auto& rank : timeline.ranks()) {
    for (const auto& instruction : rank.instructions()) {
      ++instructions;
      ops += static_cast<int>(ParseTimelineOps(instruction.what()).size());
    }
  }
  const std::string svg = PipelineSvg(timeline, {.title = "four <ranks> & \"more\""});
  std::istringstream counts(ParsedByPython(svg));
  int rects = 0, paths = 0, texts = 0, titled = 0;
  counts >> rects >> paths >> texts >> titled;
  EXPECT_EQ(titled, instructions);
  // A box for every op, but one for both of a pair where they have one colour; grid and edge.
  EXPECT_EQ(paths, ops + 2);
  EXPECT_GE(texts, ops) << "labels fit in a picture this small";
  EXPECT_THAT(svg, HasSubstr("four &lt;ranks&gt; &amp; &quot;more&quot;"));
  EXPECT_THAT(svg, HasSubstr("F0.3|B1.1 "));
  EXPECT_THAT(svg, HasSubstr("26 s from start to end"));
  EXPECT_THAT(svg, HasSubstr("7.7% of their time idle"));
  EXPECT_THAT(svg, HasSubstr("0, 1: direction"));
}

TEST(PipelineSvgTest, ChunksOfARank_AreToldFromDirections) {
  const std::string svg = PipelineSvg(Simulated("zb-v", 4, 8), {});
  EXPECT_THAT(svg, HasSubstr("0, 1: chunk of the rank"));
  EXPECT_THAT(svg, Not(HasSubstr("overlapped pair")));
  EXPECT_FALSE(ParsedByPython(svg).empty());
}

TEST(PipelineSvgTest, ThousandsOfInstructions_StaySmall) {
  const v1::Timeline timeline = Simulated("dualpipe", 16, 120);
  EXPECT_LT(PipelineSvg(timeline).size(), 400'000u);
  const v1::Timeline large = Simulated("1f1b", 64, 256);
  const std::string svg = PipelineSvg(large);
  EXPECT_LT(svg.size(), 1'000'000u);
  EXPECT_FALSE(ParsedByPython(svg).empty());
}

TEST(PipelineSvgTest, OddTimelines_AreStillPictures) {
  v1::Timeline timeline;
  timeline.set_job("<&\x01\xff>");
  EXPECT_FALSE(ParsedByPython(PipelineSvg(timeline)).empty());
  v1::RankTimes& rank = AddRank(timeline, 7, 3);
  rank.set_node("a<b>&\"c");
  AddInstruction(rank, "no <number>", 0, NAN);
  AddInstruction(rank, "backwards", 2, 1);
  AddInstruction(rank, "endless", 0, INFINITY);
  EXPECT_FALSE(ParsedByPython(PipelineSvg(timeline)).empty());
  AddInstruction(rank, "snap<shot>", 0, 1e-5, 5e-6);
  AddRank(timeline, 8, 3);
  const std::string svg = PipelineSvg(timeline);
  EXPECT_FALSE(ParsedByPython(svg).empty());
  EXPECT_THAT(svg, HasSubstr("10 \u00b5s"));
  EXPECT_THAT(svg, HasSubstr("waited 5 \u00b5s"));
  EXPECT_THAT(svg, HasSubstr("1 pipeline ranks, 2 ranks shown"));
  EXPECT_THAT(svg, Not(HasSubstr("<shot>")));
  EXPECT_THAT(svg, Not(HasSubstr("endless")));
}

TEST(PipelineSvgTest, PartsOfTheLegend_HaveAColourEach) {
  v1::Timeline timeline;
  v1::RankTimes& rank = AddRank(timeline, 0, 0);
  const std::vector<std::string> parts = {"read samples",   "reduce gradients", "snapshot",
                                          "sum over ranks", "optimizer",        "gather weights"};
  for (size_t i = 0; i < parts.size(); ++i) {
    AddInstruction(rank, parts[i], static_cast<double>(i), static_cast<double>(i) + 0.1);
  }
  const std::string svg = PipelineSvg(timeline);
  std::map<std::string, std::string> part_of_class;
  for (const std::string& part : parts) {
    const size_t text = svg.find(absl::StrCat(">", part, "</text>"));
    ASSERT_NE(text, std::string::npos) << part;
    const size_t swatch = svg.rfind("<rect class=\"", text) + 13;
    const std::string name = svg.substr(swatch, svg.find('"', swatch) - swatch);
    EXPECT_EQ(part_of_class.emplace(name, part).first->second, part) << name;
  }
}

// Instructions and idle time of each rank, by process.
std::map<int, std::vector<std::pair<double, double>>> TracksOf(const Json& trace, int thread) {
  std::map<int, std::vector<std::pair<double, double>>> tracks;
  for (const Json& event : trace["traceEvents"]) {
    if (event["ph"] != "X" || event["tid"] != thread) continue;
    const double start = event["ts"];
    tracks[event["pid"]].emplace_back(start, start + event["dur"].get<double>());
  }
  return tracks;
}

TEST(ChromeTraceTest, EveryTrack_IsFullAndWithoutOverlap) {
  for (const std::string kind : {"dualpipe", "1f1b", "zb-v"}) {
    const v1::Timeline timeline = Simulated(kind, 4, 16);
    double end = 0;
    for (const auto& rank : timeline.ranks()) {
      for (const auto& instruction : rank.instructions()) end = std::max(end, instruction.end_s());
    }
    const Json trace = Json::parse(ChromeTrace(timeline));
    for (const Json& event : trace["traceEvents"]) {  // names, too
      for (const char* key : {"name", "ph", "ts", "pid", "tid"}) {
        EXPECT_TRUE(event.contains(key)) << key << " of " << event;
      }
    }
    const auto tracks = TracksOf(trace, 0);
    ASSERT_EQ(tracks.size(), 4u) << kind;
    for (const auto& [pid, events] : tracks) {
      double now = 0;
      double total = 0;
      for (const auto& [start, stop] : events) {
        EXPECT_NEAR(start, now, 1e-3) << kind << " " << pid;
        EXPECT_GT(stop, start);
        now = stop;
        total += stop - start;
      }
      EXPECT_NEAR(total, end * 1e6, 1) << kind << " " << pid;
    }
  }
}

TEST(ChromeTraceTest, MeasuredRanks_ArePutOnOneAxisWithTheirWaitsApart) {
  v1::Timeline timeline;
  timeline.set_job("tiny");
  timeline.set_epoch(2);
  timeline.set_step(31);
  v1::RankTimes& second = AddRank(timeline, 5, 1);
  second.set_node("node-1");
  second.set_begin_us(1'700'000'000'250'000);
  AddInstruction(second, "F0.0", 0, 1, 0.75);
  AddInstruction(second, "optimizer", 1, 1.5);
  v1::RankTimes& first = AddRank(timeline, 4, 0);
  first.set_node("node-0");
  first.set_begin_us(1'700'000'000'000'000);
  AddInstruction(first, "F0.0", 0, 1);
  const Json trace = Json::parse(ChromeTrace(timeline));
  EXPECT_EQ(trace["otherData"]["step"], 31);
  std::vector<std::string> processes;
  for (const Json& event : trace["traceEvents"]) {
    if (event["name"] == "process_name") processes.push_back(event["args"]["name"]);
  }
  EXPECT_THAT(processes, testing::ElementsAre("pipeline rank 0, rank 4 on node-0",
                                              "pipeline rank 1, rank 5 on node-1"));
  using Spans = std::vector<std::pair<double, double>>;
  auto tracks = TracksOf(trace, 0);
  EXPECT_EQ(tracks[0], (Spans{{0, 1e6}, {1e6, 1.75e6}}));
  EXPECT_EQ(tracks[1], (Spans{{0, 0.25e6}, {0.25e6, 1.25e6}, {1.25e6, 1.75e6}}));
  auto waits = TracksOf(trace, 1);
  EXPECT_EQ(waits.size(), 1u);
  EXPECT_EQ(waits[1], (Spans{{0.25e6, 1e6}}));
}

TEST(CommonStartTest, ClocksThatDisagree_AreNotFollowed) {
  v1::Timeline timeline;
  for (int rank = 0; rank < 2; ++rank) {
    v1::RankTimes& times = AddRank(timeline, rank, rank);
    times.set_begin_us(1'700'000'000'000'000 + rank * 3'000'000);
    AddInstruction(times, "F0.0", 0, 2);
  }
  EXPECT_EQ(WithCommonStart(timeline).ranks(1).instructions(0).start_s(), 0);
  timeline.mutable_ranks(1)->set_begin_us(1'700'000'001'000'000);
  EXPECT_EQ(WithCommonStart(timeline).ranks(1).instructions(0).start_s(), 1);
  EXPECT_EQ(WithCommonStart(timeline).ranks(0).instructions(0).start_s(), 0);
  timeline.mutable_ranks(1)->set_begin_us(0);
  EXPECT_EQ(WithCommonStart(timeline).ranks(1).instructions(0).start_s(), 0);
}

TEST(ChromeTraceTest, OddTimes_NeverOverlap) {
  v1::Timeline timeline;
  v1::RankTimes& rank = AddRank(timeline, 0, 0);
  AddInstruction(rank, "late \"one\"\n", 1, 3);
  AddInstruction(rank, "early", 0, 2);
  AddInstruction(rank, "none", NAN, NAN, NAN);
  AddInstruction(rank, "before", -5, -4, 9);
  const Json trace = Json::parse(ChromeTrace(timeline));
  double now = 0;
  const auto tracks = TracksOf(trace, 0);
  for (const auto& [start, stop] : tracks.at(0)) {
    EXPECT_GE(start, now);
    EXPECT_GE(stop, start);
    now = stop;
  }
  EXPECT_EQ(now, 3e6);
  EXPECT_TRUE(Json::parse(ChromeTrace(v1::Timeline()))["traceEvents"].empty());
}

}  // namespace
}  // namespace fathom::cli
