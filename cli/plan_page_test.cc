// What people and programs read of a prediction: the page, its amounts, JSON, and the report of a
// prediction beside measurements.
#include "cli/plan_page.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "cli/page.h"
#include "cli/prediction_report.h"
#include "cli/value.h"

namespace fathom::cli {
namespace {

std::vector<std::string> LinesOf(const std::string& text) { return absl::StrSplit(text, '\n'); }

using Json = nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

v1::PredictedLayout Layout(int pipeline, int expert, int replicas) {
  v1::PredictedLayout layout;
  layout.mutable_parallelism()->set_pipeline(pipeline);
  layout.mutable_parallelism()->set_expert(expert);
  layout.mutable_parallelism()->set_replicas(replicas);
  layout.set_schedule("dualpipe");
  layout.set_micro_batches(120);
  layout.set_micro_batch_sequences(1);
  layout.set_recomputation("selective");
  return layout;
}

void AddStages(v1::Prediction& prediction) {
  for (int stage = 0; stage < 16; ++stage) {
    v1::PredictedStage& one = *prediction.add_stages();
    one.set_index(stage);
    one.set_first_layer(stage == 0 ? 0 : 4 * stage - 1);
    one.set_layer_count(stage == 0 ? 3 : stage == 15 ? 2 : 4);
    one.set_has_embedding(stage == 0);
    one.set_has_head(stage == 15);
    one.set_forward_s(0.0412 + 0.001 * stage);
    one.set_backward_s(0.0801);
    one.set_overlapped_s(0.1102);
    v1::PredictedRank& rank = *prediction.add_ranks();
    rank.set_pipeline_rank(stage);
    rank.set_busy_s(17 + 0.01 * stage);
    rank.set_idle_s(1.5);
  }
}

void AddMemory(v1::Prediction& prediction) {
  v1::PredictedMemory& memory = *prediction.mutable_memory();
  memory.set_peak_bytes(71'200'000'000);
  memory.set_capacity_bytes(80'000'000'000);
  memory.set_at("F0.3|B1.1");
  memory.set_pipeline_rank(7);
  const auto part = [&](const char* name, int64_t bytes) {
    memory.add_parts()->set_name(name);
    memory.mutable_parts(memory.parts_size() - 1)->set_bytes(bytes);
  };
  part("weights", 30'000'000'000);
  part("activations", 41'200'000'000);
}

// Limits, assumptions, search, survivability.
void AddFindings(v1::Prediction& prediction) {
  prediction.add_limits("the network carries dispatch and combine for 34% of a pair");
  v1::Assumption& small = *prediction.add_assumptions();
  small.set_name("jitter");
  small.set_value("1%");
  small.set_source("assumed: no figure is published");
  small.set_adds_s(0.2);
  v1::Assumption& large = *prediction.add_assumptions();
  large.set_name("routing imbalance");
  large.set_value("1.08");
  large.set_source("arXiv 2412.19437");
  large.set_adds_s(0.9);
  v1::SearchSummary& search = *prediction.mutable_search();
  search.set_considered(1234);
  search.set_infeasible(1100);
  v1::Candidate& best = *search.add_candidates();
  *best.mutable_layout() = Layout(16, 64, 2);
  best.set_feasible(true);
  best.set_step_seconds(19.5);
  v1::Candidate& other = *search.add_candidates();
  *other.mutable_layout() = Layout(8, 64, 4);
  other.set_why(
      "its pipeline ranks hold twice the layers, whose weights and optimizer state take more "
      "memory "
      "than a device has");
  v1::Survivability& survivability = *prediction.mutable_survivability();
  survivability.set_any_node(true);
  survivability.set_any_leaf(true);
  survivability.set_fatal_pair_count(128);
  v1::NodePair& pair = *survivability.add_fatal_pairs();
  pair.set_first("h800-3");
  pair.set_second("h800-131");
  pair.set_holds("experts 0-3 of stages 2 and 13");
}

v1::Prediction Sample() {
  v1::Prediction prediction;
  prediction.set_job("deepseek-v3");
  prediction.set_cluster("h800-256");
  prediction.set_devices(2048);
  prediction.add_profiles()->set_title("NVIDIA H800 SXM");
  prediction.mutable_parameters()->set_total(671026419200);
  prediction.mutable_parameters()->set_active(37600000000);
  *prediction.mutable_layout() = Layout(16, 64, 2);
  prediction.mutable_layout()->set_nodes(256);
  prediction.mutable_layout()->set_leaves_per_expert_group(1);
  prediction.mutable_step()->set_seconds(19.5);
  v1::StepBreakdown& breakdown = *prediction.mutable_step()->mutable_breakdown();
  breakdown.set_overlapped_s(15);
  breakdown.set_forward_s(1.25);
  breakdown.set_backward_s(0.5);
  breakdown.set_weight_s(0.25);
  breakdown.set_bubble_s(1.5);
  breakdown.set_optimizer_s(0.4);
  breakdown.set_reduce_s(0.6);
  prediction.set_mfu_causal(0.4213);
  prediction.set_mfu_noncausal(0.5);
  prediction.set_tflops_causal(416.7);
  prediction.set_tokens_per_step(62914560);
  prediction.set_tokens_per_day(2.788e11);
  prediction.set_gpu_hours_per_trillion_tokens(176300);
  prediction.set_dollars_per_trillion_tokens(352600);
  prediction.set_total_hours(1231.2);
  prediction.set_total_gpu_hours(2521000);
  prediction.set_total_dollars(5042000);
  AddMemory(prediction);
  AddStages(prediction);
  AddFindings(prediction);
  return prediction;
}

TEST(PageTest, Amounts_HaveTheUnitThatSuitsThem) {
  EXPECT_EQ(SecondsText(0), "0 s");
  EXPECT_EQ(SecondsText(1.23e-5), "12.30 \u00b5s");
  EXPECT_EQ(SecondsText(0.0412), "41.2 ms");
  EXPECT_EQ(SecondsText(0.99999), "1.00 s");
  EXPECT_EQ(SecondsText(19.42), "19.42 s");
  EXPECT_EQ(SecondsText(1231.2 * 3600), "51.3 days");
  EXPECT_EQ(SecondsText(NAN), "?");
  EXPECT_EQ(GigabytesText(512), "512 B");
  EXPECT_EQ(GigabytesText(71'200'000'000), "71.2 GB");
  EXPECT_EQ(GigabytesText(999'999'999), "1.00 GB");
  EXPECT_EQ(AmountText(178900), "178.9 K");
  EXPECT_EQ(AmountText(2.788e6), "2.79 M");
  EXPECT_EQ(AmountText(671026419200), "671.0 B");
  EXPECT_EQ(AmountText(14.3e12), "14.30 T");
  EXPECT_EQ(AmountText(950), "950");
  EXPECT_EQ(DollarsText(2), "$2.00");
  EXPECT_EQ(DollarsText(5.576e6), "$5.58 M");
  EXPECT_EQ(WholeText(2048), "2,048");
  EXPECT_EQ(WholeText(-1234567), "-1,234,567");
  EXPECT_EQ(WholeText(-123), "-123");
  EXPECT_EQ(PercentText(0.4213), "42.1%");
}

TEST(PageTest, Bars_AreAsLongAsTheirPartToAnEighth) {
  EXPECT_EQ(Bar(0, 10), "");
  EXPECT_EQ(Bar(NAN, 10), "");
  EXPECT_EQ(Bar(1e-9, 10), "\u258f");
  EXPECT_EQ(Bar(0.25, 10), "\u2588\u2588\u258c");
  EXPECT_EQ(TextColumns(Bar(7, 10)), 10u);
}

TEST(PageTest, Paragraphs_HangBelowTheirFirstWords) {
  std::string words;
  for (int i = 0; i < 40; ++i) words += "word ";
  const std::string text = Paragraph("  12. ", words);
  const std::vector<std::string> lines = absl::StrSplit(text, '\n');
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_EQ(lines[0].substr(0, 10), "  12. word");
  EXPECT_EQ(lines[1].substr(0, 10), "      word");
  EXPECT_LE(lines[0].size(), kPageColumns);
  EXPECT_EQ(Paragraph(std::string(200, 'x'), "a b"), std::string(200, 'x') + "a b\n");
}

TEST(PlanPageTest, APrediction_IsTold) {
  const std::string broken = PlanPage(Sample());
  const std::string page = absl::StrReplaceAll(broken, {{"\n  ", " "}});
  for (const char* part :
       {"deepseek-v3 on h800-256: 2,048 \u00d7 NVIDIA H800 SXM on 256 nodes",
        "671.0 B, 37.6 B active",
        "19.50 s for 62.9 M tokens: 278.8 B tokens a day",
        "42.1% causal, 417 TFLOPS a device",
        "176.3 K GPU-hours, $352.6 K",
        "51.3 days, 2.52 M GPU-hours, $5.04 M",
        "pipeline 16 \u00d7 experts over 64 \u00d7 2 replicas, dualpipe, 120 micro-batches",
        "selective recomputation",
        "stage 0: 3 layers + embedding; stages 1-14: 4 layers each; stage "
        "15: 2 layers + head",
        "Memory: 71.2 GB of 80.0 GB at the peak of pipeline rank 7, in "
        "F0.3|B1.1",
        "free",
        "8.80 GB",
        "overlapped pairs    15.000 s  76.9%",
        "any leaf            a whole copy of all state is left in memory",
        "any failure domain  NO: state is lost with it",
        "128 pairs of nodes: h800-3 + h800-131 (experts 0-3",
        "127 more",
        "1,234 layouts, 1,100 of them not feasible",
        "PP8 EP64 DP4 dualpipe M120",
        "1. the network carries"}) {
    EXPECT_THAT(page, HasSubstr(part));
  }
  EXPECT_THAT(page, Not(HasSubstr("other  ")));  // nothing of it
  EXPECT_LT(page.find("activations"), page.find("weights  "));
  EXPECT_LT(page.find("routing imbalance"), page.find("jitter"));
}

TEST(PlanPageTest, SlowDevices_AreToldInASmallerUnit) {
  v1::Prediction prediction = Sample();
  prediction.set_tflops_causal(0.00214);
  prediction.set_tflops_noncausal(2.34);
  const std::string page = PlanPage(prediction);
  EXPECT_THAT(page, HasSubstr("causal, 2.14 GFLOPS a device"));
  EXPECT_THAT(page, HasSubstr("non-causal, 2.3 TFLOPS"));
}

TEST(PlanPageTest, OneStageWithBothEnds_NamesEach) {
  v1::Prediction prediction = Sample();
  prediction.clear_stages();
  v1::PredictedStage& stage = *prediction.add_stages();
  stage.set_layer_count(4);
  stage.set_has_embedding(true);
  stage.set_has_head(true);
  EXPECT_THAT(PlanPage(prediction, /*wide=*/true), HasSubstr("  embedding + head\n"));
}

TEST(PlanPageTest, EveryLine_KeepsWithinThePage) {
  for (const bool wide : {false, true}) {
    for (const std::string& line : LinesOf(PlanPage(Sample(), wide))) {
      EXPECT_LE(TextColumns(line), kPageColumns) << line;
      EXPECT_TRUE(line.empty() || line.back() != ' ') << "'" << line << "'";
    }
  }
}

TEST(PlanPageTest, TimesOfTheStep_AddUpAsPrinted) {
  const std::string page = PlanPage(Sample());
  const size_t begin = page.find("Step: ");
  double sum = 0;
  double percent = 0;
  for (const std::string& line : LinesOf(page.substr(begin, page.find("a micro-batch") - begin))) {
    const size_t unit = line.find(" s ");
    if (unit == std::string::npos || line.find("Step") == 0) continue;
    sum += std::stod(line.substr(line.rfind(' ', unit - 1)));
    percent += std::stod(line.substr(unit + 3));
  }
  EXPECT_NEAR(sum, 19.5, 0.004);
  EXPECT_NEAR(percent, 100, 0.4);
}

TEST(PlanPageTest, HostileAndEmptyPredictions_AreStillAPage) {
  EXPECT_THAT(PlanPage(v1::Prediction(), true), HasSubstr("Layout"));
  v1::Prediction prediction = Sample();
  prediction.set_job("a\x1b[2Jb\xff");
  prediction.add_limits("line\nbreak");
  prediction.mutable_memory()->set_peak_bytes(90'000'000'000);
  const std::string page = PlanPage(prediction);
  EXPECT_EQ(page.find('\x1b'), std::string::npos);
  EXPECT_THAT(page, HasSubstr("line break"));
  EXPECT_THAT(page, HasSubstr("too much"));
}

TEST(PlanJsonTest, EveryKey_IsThereAndNumbersAreNumbers) {
  const Json empty = Json::parse(ToJson(ValueOf(v1::Prediction(), Fields::kAll)));
  EXPECT_TRUE(empty["parameters"]["total"].is_number_integer());
  EXPECT_TRUE(empty["memory"]["parts"].is_array());
  EXPECT_TRUE(empty["stages"].is_array());
  EXPECT_EQ(empty["layout"]["parallelism"]["pipeline"], 0);
  const Json json = Json::parse(ToJson(ValueOf(Sample(), Fields::kAll)));
  EXPECT_EQ(json["parameters"]["total"], 671026419200);
  EXPECT_EQ(json["parameters"]["active"], 37600000000);
  EXPECT_EQ(json["step"]["seconds"], 19.5);
  for (const char* key : {"forward_s", "backward_s", "weight_s", "overlapped_s", "bubble_s",
                          "optimizer_s", "reduce_s", "other_s"}) {
    ASSERT_TRUE(json["step"]["breakdown"][key].is_number()) << key;
  }
  EXPECT_EQ(json["step"]["breakdown"]["other_s"], 0.0);
  EXPECT_EQ(json["mfu_causal"], 0.4213);
  EXPECT_EQ(json["mfu_noncausal"], 0.5);
  EXPECT_TRUE(json["tokens_per_day"].is_number());
  EXPECT_TRUE(json["gpu_hours_per_trillion_tokens"].is_number());
  EXPECT_EQ(json["memory"]["peak_bytes"], 71'200'000'000);
  EXPECT_EQ(json["memory"]["capacity_bytes"], 80'000'000'000);
  EXPECT_EQ(json["memory"]["parts"].size(), 2u);
  EXPECT_EQ(json["stages"].size(), 16u);
  EXPECT_EQ(json["stages"][1]["has_embedding"], false);
}

// As predicted, two lanes.
std::vector<MeasuredRank> Measured() {
  std::vector<MeasuredRank> ranks;
  for (int lane = 0; lane < 2; ++lane) {
    for (int rank = 0; rank < 16; ++rank) {
      MeasuredRank one;
      one.rank = lane * 16 + rank;
      one.pipeline_rank = rank;
      one.node = absl::StrCat("h800-", one.rank);
      one.report.set_seconds(19.5);
      one.report.set_overlapped_seconds(15);
      one.report.set_forward_seconds(1.25);
      one.report.set_backward_seconds(0.5);
      one.report.set_weight_seconds(0.25);
      one.report.set_wait_seconds(1.5);
      one.report.set_reduce_seconds(0.6);
      one.report.set_optimizer_seconds(0.4);
      ranks.push_back(one);
    }
  }
  return ranks;
}

TEST(PredictionReportTest, AMeasurementAsPredicted_HasNothingToName) {
  const PredictionReport report = ComparePrediction(Sample(), Measured(), 0);
  EXPECT_THAT(report.findings, IsEmpty());
  EXPECT_EQ(report.step.measured_s, 19.5);
  ASSERT_EQ(report.ranks.size(), 16u);
  EXPECT_THAT(report.ranks[3].stages, ElementsAre(3, 12));
  EXPECT_EQ(report.ranks[3].ranks, 2);
  EXPECT_NEAR(report.ranks[3].busy.ratio(), 17 / 17.03, 1e-9);
  EXPECT_EQ(report.busiest_rank, 15);
  const std::string text = PredictionReportText(report);
  EXPECT_THAT(text, HasSubstr("off by more than 10%"));
  EXPECT_THAT(text, HasSubstr("  nothing\n"));
  for (const std::string& line : LinesOf(text)) {
    EXPECT_LE(TextColumns(line), kPageColumns) << line;
  }
}

TEST(PredictionReportTest, WhatIsOff_IsNamed) {
  std::vector<MeasuredRank> measured = Measured();
  measured[20].report.set_overlapped_seconds(18);  // pipeline rank 4 of lane 1 alone
  measured[15].report.set_reduce_seconds(2.6);     // the busiest one's reduction, in both lanes
  measured[31].report.set_reduce_seconds(2.6);
  measured[2].report.set_forward_seconds(4);  // both ranks of a stage
  measured[18].report.set_forward_seconds(4);
  const PredictionReport report = ComparePrediction(Sample(), measured, 23);
  std::string all;
  for (const std::string& finding : report.findings) absl::StrAppend(&all, finding, "\n");
  EXPECT_EQ(report.findings.size(), 4u) << all;
  EXPECT_THAT(all, HasSubstr("the step took 23.0 s, 3.50 s more than the 19.50 s predicted "
                             "(+18%)"));
  EXPECT_THAT(all, HasSubstr("pipeline rank 2 (stages 2, 13) took 19.75 s"));
  EXPECT_THAT(all, HasSubstr("gradient reduction of pipeline rank 15 took 2.60 s"));
  EXPECT_THAT(all, HasSubstr("rank 20 on h800-20 is slow: busy 20.0 s, where ranks of its stages "
                             "are busy 17.00 s"));
  const Json json = Json::parse(ToJson(PredictionReportValue(report)));
  EXPECT_EQ(json["step"]["measured_s"], 23.0);
  EXPECT_EQ(json["step"]["off"], true);
  EXPECT_EQ(json["ranks"][2]["stages"], Json({2, 13}));
  EXPECT_EQ(json["findings"].size(), 4u);
}

TEST(PredictionReportTest, AWiderTolerance_ForgivesMore) {
  std::vector<MeasuredRank> measured = Measured();
  measured[20].report.set_overlapped_seconds(18);
  EXPECT_EQ(ComparePrediction(Sample(), measured, 0, 0.1).findings.size(), 1u);
  EXPECT_THAT(ComparePrediction(Sample(), measured, 0, 0.2).findings, IsEmpty());
}

TEST(PredictionReportTest, RanksThatDidNotReport_AreNamed) {
  std::vector<MeasuredRank> measured = Measured();
  std::erase_if(measured, [](const MeasuredRank& rank) { return rank.pipeline_rank == 9; });
  measured.push_back(measured.front());
  measured.back().pipeline_rank = 99;
  const PredictionReport report = ComparePrediction(Sample(), measured, 0);
  EXPECT_THAT(report.findings, ElementsAre("nothing was measured of pipeline rank 9"));
  EXPECT_EQ(report.ranks[9].ranks, 0);
  EXPECT_THAT(ComparePrediction(Sample(), {}, 0).findings, ElementsAre("nothing was measured yet"));
}

}  // namespace
}  // namespace fathom::cli
