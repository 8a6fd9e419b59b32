// What goes in as data comes out in every format, and can be read back.
#include "cli/render.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/exit_code.h"
#include "cli/resources.h"
#include "cli/value.h"
#include "common/base/config_loader.h"

namespace fathom::cli {
namespace {

using Json = nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

v1::JobStatus RunningJob() {
  v1::JobStatus job;
  job.set_name("tiny");
  job.set_id("tiny-7");
  job.set_state(v1::JOB_STATE_RUNNING);
  job.set_reason("all ranks train");
  job.set_epoch(2);
  job.mutable_job()->mutable_spec()->mutable_training()->set_steps(400);
  job.mutable_last_step()->set_step(120);
  job.mutable_last_step()->set_loss(2.5);
  job.set_tokens_per_second(12345);
  job.set_eta_s(62);
  job.set_submitted_ms(1'700'000'000'000);
  return job;
}

TEST(ValueTest, OddTextsAndNumbers_ReadBackTheSameFromJsonAndYaml) {
  const std::vector<std::string> texts = {
      "plain", "",           "two\nlines", "tab\tand \"quotes\"",
      "\x01",  "null",       "12",         "- a",
      "a: b",  "\u00e9",     "# no",       "true",
      "inf",   "2024-05-01", "~",          "back\\slash"};
  Value list = Value::List();
  for (const std::string& text : texts) list.Add(text);
  Value value = Value::Object();
  value.Set("texts", list).Set("whole", INT64_MIN).Set("real", 0.1).Set("tiny", 5e-324);
  value.Set("none", Value()).Set("nan", std::nan("")).Set("yes", true).Set("empty", Value::List());
  value.Set("nested", Value::Object()
                          .Set("odd key: #", 1)
                          .Set("inner", Value::List().Add(Value::Object().Set("a", 1).Set(
                                            "b", Value::List().Add(2)))));
  const Json json = Json::parse(ToJson(value));
  EXPECT_EQ(json["texts"].get<std::vector<std::string>>(), texts);
  EXPECT_EQ(json["whole"].get<int64_t>(), INT64_MIN);
  EXPECT_EQ(json["real"].get<double>(), 0.1);
  EXPECT_EQ(json["tiny"].get<double>(), 5e-324);
  EXPECT_TRUE(json["none"].is_null());
  EXPECT_TRUE(json["nan"].is_null());
  EXPECT_TRUE(json["yes"].get<bool>());
  EXPECT_TRUE(json["empty"].is_array());
  EXPECT_EQ(json["nested"]["odd key: #"], 1);
  EXPECT_EQ(json["nested"]["inner"][0]["b"][0], 2);

  // YAML through the loader of job files: labels are texts, so each must come back as it was.
  Value labels = Value::Object();
  for (const std::string& text : texts)
    labels.Set("k" + std::to_string(labels.members().size()), text);
  Value metadata = Value::Object();
  metadata.Set("metadata", Value::Object().Set("labels", labels));
  v1::Job job;
  const absl::Status loaded = LoadYaml(ToYaml(metadata), "yaml", &job);
  ASSERT_TRUE(loaded.ok()) << loaded << "\n" << ToYaml(metadata);
  for (size_t i = 0; i < texts.size(); ++i) {
    EXPECT_EQ(job.metadata().labels().at("k" + std::to_string(i)), texts[i]);
  }
}

TEST(ToTextTest, ListOfLikeObjects_StandsInColumns) {
  Value list = Value::List();
  list.Add(Value::Object().Set("rank", 0).Set("node", "node-0").Set("note", Value()));
  list.Add(Value::Object().Set("rank", 10).Set("node", "n").Set("note", Value()));
  Value value = Value::Object();
  value.Set("name", "sea").Set("ranks", list).Set("empty", Value::List()).Set("none", Value());
  value.Set("one", Value::List().Add(Value::Object().Set("a", 1).Set("b", true)));
  EXPECT_EQ(ToText(value),
            "name: sea\n"
            "ranks:\n"
            "  rank  node\n"
            "  0     node-0\n"
            "  10    n\n"
            "one:\n"
            "  a 1  b true\n");
}

TEST(ValueTest, InvalidUtf8_IsReplaced) {
  EXPECT_EQ(Json::parse(ToJson(Value(std::string("a\xFF")))), "a?");
}

TEST(ValueOfTest, Message_KeepsNamesAndDropsEnumPrefixes) {
  v1::JobStatus job = RunningJob();
  (*job.mutable_job()->mutable_metadata()->mutable_labels())["team"] = "deep";
  job.mutable_plan()->add_expert_owner(3);
  const Json json = Json::parse(ToJson(ValueOf(job)));
  EXPECT_EQ(json["state"], "RUNNING");
  EXPECT_EQ(json["last_step"]["loss"], 2.5);
  EXPECT_EQ(json["job"]["metadata"]["labels"]["team"], "deep");
  EXPECT_EQ(json["plan"]["expert_owner"][0], 3);
}

TEST(RenderTableTest, EveryFormat_SaysTheSame) {
  const Table table = JobTable({RunningJob()}, 1'700'000'060'000);
  const Json json = Json::parse(RenderTable(table, OutputFormat::kJson));
  ASSERT_EQ(json["items"].size(), 1u);
  const Json& job = json["items"][0];
  EXPECT_EQ(job["name"], "tiny");
  EXPECT_EQ(job["state"], "RUNNING");
  EXPECT_EQ(job["reason"], "all ranks train");
  EXPECT_EQ(job["step"], 120);
  EXPECT_EQ(job["epoch"], 2);
  EXPECT_EQ(job["loss"], 2.5);
  EXPECT_TRUE(job["weights_sha256"].is_null());
  EXPECT_EQ(job["submitted"], "2023-11-14T22:13:20Z");
  EXPECT_EQ(RenderTable(table, OutputFormat::kName), "tiny\n");
  const std::string text = RenderTable(table, OutputFormat::kTable);
  EXPECT_THAT(text, HasSubstr("120/400"));
  EXPECT_THAT(text, HasSubstr("12.3k"));
  EXPECT_THAT(text, HasSubstr("1m02s"));
  EXPECT_THAT(text, HasSubstr("1m00s"));
  EXPECT_THAT(text, Not(HasSubstr("tiny-7")));
  EXPECT_THAT(RenderTable(table, OutputFormat::kWide), HasSubstr("tiny-7"));
  EXPECT_THAT(RenderTable(table, OutputFormat::kYaml), HasSubstr("items:\n  - name: tiny\n"));
}

TEST(RenderTableTest, NoRows_IsAnEmptyListOrASentence) {
  const Table table = NodeTable({}, 0);
  EXPECT_EQ(Json::parse(RenderTable(table, OutputFormat::kJson))["items"], Json::array());
  EXPECT_EQ(RenderTable(table, OutputFormat::kTable), "no nodes\n");
  EXPECT_EQ(RenderTable(table, OutputFormat::kName), "");
}

TEST(RenderTableTest, HostileText_MovesNoCursorAndAddsNoLine) {
  v1::JobStatus job = RunningJob();
  job.set_name("evil\x1b[2J\nline");
  for (const OutputFormat format : {OutputFormat::kTable, OutputFormat::kWide, OutputFormat::kName,
                                    OutputFormat::kJson, OutputFormat::kYaml}) {
    const std::string text = RenderTable(JobTable({job}, 0), format);
    EXPECT_THAT(text, Not(HasSubstr("\x1b")));
    EXPECT_THAT(text, Not(HasSubstr("evil\nline")));
  }
  EXPECT_THAT(RenderOne("x", JobValue(job), OutputFormat::kTable), Not(HasSubstr("\x1b")));
}

TEST(RenderTableTest, Columns_LineUp) {
  Table table;
  table.columns = {{"NAME"}, {"N", false, true}, {"END"}};
  table.rows = {{"a", {"\u00e9", "1", "x"}, {}}, {"b", {"long", "1234", ""}, {}}};
  EXPECT_EQ(RenderTable(table, OutputFormat::kTable),
            "NAME     N  END\n"
            "\u00e9        1  x\n"
            "long  1234  -\n");
}

TEST(NodeTableTest, Node_HasTheFieldsScriptsUse) {
  v1::NodeStatus node;
  node.mutable_node()->set_name("node-0");
  node.mutable_node()->set_address("127.0.0.1");
  node.mutable_node()->add_devices();
  node.set_state(v1::NODE_STATE_READY);
  node.set_pid(4711);
  v1::NodeRank* rank = node.add_ranks();
  rank->set_job("tiny-7");
  rank->set_rank(3);
  rank->set_pid(4712);
  const Json json = Json::parse(RenderTable(NodeTable({node}, 0), OutputFormat::kJson))["items"][0];
  EXPECT_EQ(json["name"], "node-0");
  EXPECT_EQ(json["state"], "READY");
  EXPECT_EQ(json["pid"], 4711);
  EXPECT_EQ(json["address"], "127.0.0.1");
  EXPECT_EQ(json["ranks"][0]["rank"], 3);
  EXPECT_EQ(json["ranks"][0]["pid"], 4712);
}

TEST(ShortFormsTest, NumbersAndTimes_KeepThreeDigits) {
  EXPECT_EQ(CountText(0), "0");
  EXPECT_EQ(CountText(999), "999");
  EXPECT_EQ(CountText(12345), "12.3k");
  EXPECT_EQ(CountText(999999), "1M");
  EXPECT_EQ(DurationText(0.04), "0.0s");
  EXPECT_EQ(DurationText(59.4), "59s");
  EXPECT_EQ(DurationText(59.6), "1m00s");
  EXPECT_EQ(DurationText(125), "2m05s");
  EXPECT_EQ(DurationText(11400), "3h10m");
  EXPECT_EQ(DurationText(190000), "2d4h");
  EXPECT_EQ(DurationText(-1), "?");
  EXPECT_EQ(DurationText(std::numeric_limits<double>::infinity()), "?");
  EXPECT_EQ(BytesText(17), "17 B");
  EXPECT_EQ(BytesText(3'355'443), "3.2 MiB");
}

TEST(ExitCodeTest, CodeAndOrigin_DecideTogether) {
  EXPECT_EQ(ExitCodeOf(absl::OkStatus()), 0);
  EXPECT_EQ(ExitCodeOf(absl::InvalidArgumentError("x")), 2);
  EXPECT_EQ(ExitCodeOf(FromCoordinator(absl::InvalidArgumentError("x"))), 4);
  EXPECT_EQ(ExitCodeOf(absl::NotFoundError("x")), 3);
  EXPECT_EQ(ExitCodeOf(FromCoordinator(absl::NotFoundError("x"))), 3);
  EXPECT_EQ(ExitCodeOf(FromCoordinator(absl::UnavailableError("x"))), 5);
  EXPECT_EQ(ExitCodeOf(absl::UnavailableError("x")), 1);
  EXPECT_EQ(ExitCodeOf(absl::DeadlineExceededError("x")), 124);
  EXPECT_EQ(ExitCodeOf(FromCoordinator(absl::DeadlineExceededError("x"))), 5);
  EXPECT_EQ(ExitCodeOf(FromCoordinator(absl::ResourceExhaustedError("x"))), 4);
  EXPECT_EQ(ExitCodeOf(absl::ResourceExhaustedError("x")), 1);
  EXPECT_EQ(ExitCodeOf(absl::FailedPreconditionError("x")), 4);
  EXPECT_EQ(ExitCodeOf(absl::AbortedError("x")), 1);
  EXPECT_EQ(ExitCodeOf(absl::DataLossError("x")), 1);
  EXPECT_FALSE(IsFromCoordinator(absl::NotFoundError("x")));
}

}  // namespace
}  // namespace fathom::cli
