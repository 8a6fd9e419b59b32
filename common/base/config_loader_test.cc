#include "common/base/config_loader.h"

#include <gmock/gmock.h>
#include <google/protobuf/struct.pb.h>
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/limits.h"
#include "common/base/text.h"
#include "proto/fathom/v1/cluster.pb.h"
#include "proto/fathom/v1/config.pb.h"
#include "proto/fathom/v1/job.pb.h"
#include "proto/fathom/v1/plan.pb.h"
#include "proto/fathom/v1/worker.pb.h"

namespace fathom {
namespace {

using google::protobuf::util::MessageDifferencer;

constexpr char kJob[] = R"(# A job as a user writes it.
apiVersion: fathom/v1
kind: Job
metadata:
  name: small
  labels: {team: "a b", tier: 3}
spec:
  model: {preset: tiny, hiddenSize: 128, rope_theta: 1e4}
  data:
    token_file: data/gcide.tokens
    sequence_length: 256
  training:
    steps: 200
    seed: 18446744073709551615
    learning_rate: 2.2e-4
    bias_update_speed: 0
  checkpoint:
    resume_from: ~
  restart: {}
)";

std::string ErrorOf(absl::string_view text, google::protobuf::Message* message) {
  absl::Status status = LoadYaml(text, "job.yaml", message);
  if (status.ok()) return "OK";
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(IsValidUtf8(std::string(status.message())));
  return std::string(status.message());
}

std::string JobError(absl::string_view text) {
  v1::Job job;
  return ErrorOf(text, &job);
}

TEST(LoadYamlTest, WholeJob_EveryFieldArrives) {
  v1::Job job;
  absl::Status status = LoadYaml(kJob, "job.yaml", &job);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(job.api_version(), "fathom/v1");
  EXPECT_EQ(job.metadata().labels().at("team"), "a b");
  EXPECT_EQ(job.metadata().labels().at("tier"), "3");
  EXPECT_EQ(job.spec().model().hidden_size(), 128);
  EXPECT_EQ(job.spec().model().rope_theta(), 10000.0);
  EXPECT_EQ(job.spec().data().token_file(), "data/gcide.tokens");
  EXPECT_EQ(job.spec().training().seed(), 18446744073709551615u);
  EXPECT_EQ(job.spec().training().learning_rate(), 2.2e-4);
  EXPECT_TRUE(job.spec().training().has_bias_update_speed());
  EXPECT_FALSE(job.spec().training().has_balance_alpha());
  EXPECT_TRUE(job.spec().has_restart());
  EXPECT_EQ(job.spec().checkpoint().resume_from(), "");
}

TEST(LoadYamlTest, UnknownField_NamesLinePathAndNearestName) {
  EXPECT_EQ(JobError("spec:\n  model:\n    hiden_size: 3\n"),
            "job.yaml:3: spec.model.hiden_size: unknown field; did you mean hidden_size?");
  EXPECT_EQ(JobError("spec:\n  data: {qqqqqqqq: 3}\n"),
            "job.yaml:2: spec.data.qqqqqqqq: unknown field; known here: token_file, "
            "sequence_length");
}

TEST(LoadYamlTest, WrongValues_NameTheFieldAndWhatWasExpected) {
  struct Case {
    absl::string_view yaml, expected;
  };
  for (const Case& c : std::vector<Case>{
           {"spec: 3", "job.yaml:1: spec: expected a mapping of fields, got '3'"},
           {"- 1", "job.yaml:1: expected a mapping of fields, got a list"},
           {"kind: [a]", "job.yaml:1: kind: expected a single value, got a list"},
           {"kind: Job\nkind: Job", "job.yaml:2: kind: given twice"},
           {"apiVersion: a\napi_version: a", "job.yaml:2: api_version: given twice"},
           {"spec: {training: {steps: 1.5}}",
            "job.yaml:1: spec.training.steps: expected an integer, got '1.5'"},
           {"spec: {training: {steps: \"15\"}}",
            "job.yaml:1: spec.training.steps: expected an integer, got the text '15'"},
           {"spec: {training: {steps: 9223372036854775808}}",
            "job.yaml:1: spec.training.steps: '9223372036854775808' is out of range; it must be "
            "from -9223372036854775808 to 9223372036854775807"},
           {"spec: {training: {seed: -1}}",
            "job.yaml:1: spec.training.seed: '-1' is out of range; it must be from 0 to "
            "18446744073709551615"},
           {"spec: {parallelism: {pipeline: 2147483648}}",
            "job.yaml:1: spec.parallelism.pipeline: '2147483648' is out of range; it must be from "
            "-2147483648 to 2147483647"},
           {"spec: {training: {learning_rate: .nan}}",
            "job.yaml:1: spec.training.learning_rate: expected a finite number, got '.nan'"},
           {"spec: {training: {learning_rate: -.inf}}",
            "job.yaml:1: spec.training.learning_rate: expected a finite number, got '-.inf'"},
           {"spec: {training: {learning_rate: 1e999}}",
            "job.yaml:1: spec.training.learning_rate: '1e999' is out of range for this number"},
           {"spec: {training: {learning_rate: 1.2.3}}",
            "job.yaml:1: spec.training.learning_rate: expected a number, got '1.2.3'"},
           {"spec: {training: {learning_rate: 0x10}}",
            "job.yaml:1: spec.training.learning_rate: expected a finite number, got '0x10'"},
           {"metadata: {labels: {a: 1, a: 2}}", "job.yaml:1: metadata.labels[a]: given twice"},
           {"metadata: {labels: [1]}",
            "job.yaml:1: metadata.labels: expected a mapping, got a list"},
           {"? [a]\n: b", "job.yaml:1: a key must be a field's name"},
           {"kind: a\n---\nkind: b", "job.yaml:2: a second document; give one per file"},
           {"kind: !custom a", "job.yaml:1: kind: tag '!custom' is not supported"},
       }) {
    EXPECT_EQ(JobError(c.yaml), c.expected) << c.yaml;
  }
}

TEST(LoadYamlTest, BooleansEnumsAndLists_TakeTheirOwnWordsOnly) {
  v1::WorkerConfig config;
  EXPECT_EQ(ErrorOf("spare: true\ndevices: 4", &config), "OK");
  EXPECT_TRUE(config.spare());
  EXPECT_EQ(ErrorOf("spare: yes", &config), "job.yaml:1: spare: expected true or false, got 'yes'");
  EXPECT_EQ(config.devices(), 4) << "a failed load must leave the message alone";
  v1::NodeStatus node;
  EXPECT_EQ(ErrorOf("state: lost", &node), "OK");
  EXPECT_EQ(node.state(), v1::NODE_STATE_LOST);
  EXPECT_EQ(ErrorOf("state: NODE_STATE_SPARE", &node), "OK");
  EXPECT_EQ(node.state(), v1::NODE_STATE_SPARE);
  EXPECT_EQ(
      ErrorOf("state: 7", &node),
      "job.yaml:1: state: expected one of unspecified, ready, lost, spare, expected, got '7'");
  v1::Plan plan;
  EXPECT_EQ(ErrorOf("expert_owner: [0, 1]\nranks: [{rank: 1}, {node: x, device: a}]", &plan),
            "job.yaml:2: ranks[1].device: expected an integer, got 'a'");
  EXPECT_EQ(ErrorOf("expert_owner: 3", &plan),
            "job.yaml:1: expert_owner: expected a list, got '3'");
  v1::RankEvent event;
  EXPECT_EQ(ErrorOf("listening: a\nfailed: b", &event),
            "job.yaml:2: failed: cannot be given together with listening");
}

TEST(LoadYamlTest, BrokenText_RefusedBeforeParsing) {
  EXPECT_EQ(JobError(absl::string_view("kind: a\n\x04kind: b", 16)),
            "job.yaml:2: a control character (byte 4) in the text");
  EXPECT_EQ(JobError("kind: \xFF"), "job.yaml: the text is not valid UTF-8");
  EXPECT_EQ(JobError(std::string(limits::kMaxConfigBytes + 1, ' ')),
            absl::StrCat("job.yaml: longer than the ", limits::kMaxConfigBytes, " bytes allowed"));
  EXPECT_TRUE(absl::StartsWith(JobError("spec: {model"), "job.yaml:1: not valid YAML: "));
  EXPECT_EQ(JobError(""), "OK");
  EXPECT_EQ(JobError("# only a comment\n"), "OK");
}

TEST(LoadYamlTest, BillionLaughs_StopsAtTheValueLimit) {
  std::string yaml = "ranks:\n- last_step: &step {expert_loads: [1";
  for (int i = 1; i < 4000; ++i) yaml += ", 1";
  yaml += "]}\n";
  v1::NodeReport report;
  EXPECT_EQ(ErrorOf(yaml, &report), "OK");
  for (int i = 0; i < 50; ++i) yaml += "- last_step: *step\n";
  EXPECT_THAT(ErrorOf(yaml, &report),
              ::testing::EndsWith("more than 100000 values once aliases are followed"));
}

TEST(LoadYamlTest, EndlessOrDeepNesting_StopsAtTheDepthLimit) {
  google::protobuf::Value value;
  EXPECT_THAT(ErrorOf("list_value: &a {values: [{list_value: *a}]}", &value),
              ::testing::EndsWith("nested deeper than 32"));
  for (char c : {'[', '{'}) {
    EXPECT_THAT(ErrorOf(std::string(100'000, c), &value), ::testing::HasSubstr("not valid YAML"));
  }
}

TEST(ToYamlTest, Message_PrintsReadableYaml) {
  v1::NodeStatus node;
  node.mutable_node()->set_name("a: b");
  node.mutable_node()->add_devices()->set_kind("cpu");
  node.mutable_node()->add_devices();
  node.mutable_node()->mutable_devices(0)->set_memory_bytes(5);
  node.set_state(v1::NODE_STATE_READY);
  EXPECT_EQ(ToYaml(node),
            "node:\n  name: \"a: b\"\n  devices:\n  - kind: cpu\n    memory_bytes: 5\n  - {}\n"
            "state: ready\n");
  EXPECT_EQ(ToYaml(v1::Job()), "{}\n");
}

std::string RandomText(std::mt19937_64& random) {
  static const std::vector<std::string> kPieces = {
      "a", "Z", "0", "-",    ":",    " ",   "#",        "\"",           "'", "\\", "\n", "\t",
      "{", "]", "~", "true", "null", "1e3", "\xC3\xA9", "\xE2\x82\xAC", "*", "&",  "!",  "%",
      "@", "`", ",", "?",    "\r",   "|",   ">"};
  std::string text;
  for (uint64_t i = random() % 6; i > 0; --i) text += kPieces[random() % kPieces.size()];
  return text;
}

v1::Job RandomJob(std::mt19937_64& random) {
  v1::Job job;
  job.set_api_version(RandomText(random));
  for (uint64_t i = random() % 3; i > 0; --i) {
    (*job.mutable_metadata()->mutable_labels())[RandomText(random)] = RandomText(random);
  }
  v1::JobSpec& spec = *job.mutable_spec();
  if (random() % 2 == 0) spec.mutable_model()->set_hidden_size(static_cast<int64_t>(random()));
  if (random() % 2 == 0) spec.mutable_model()->set_rope_theta(0);
  if (random() % 2 == 0) spec.mutable_restart();
  spec.mutable_training()->set_seed(random());
  spec.mutable_training()->set_learning_rate(
      std::ldexp(static_cast<double>(random()), static_cast<int>(random() % 1800) - 900));
  spec.mutable_data()->set_token_file(RandomText(random));
  spec.mutable_parallelism()->set_pipeline(static_cast<int32_t>(random()));
  return job;
}

TEST(ToYamlTest, RandomJobs_LoadBackTheSame) {
  const uint64_t seed = 20240611;
  std::mt19937_64 random(seed);
  for (int i = 0; i < 2000; ++i) {
    const v1::Job job = RandomJob(random);
    const std::string yaml = ToYaml(job);
    v1::Job back;
    absl::Status status = LoadYaml(yaml, "job.yaml", &back);
    ASSERT_TRUE(status.ok()) << "seed " << seed << " round " << i << ": " << status << "\n" << yaml;
    ASSERT_TRUE(MessageDifferencer::Equals(job, back)) << "seed " << seed << ":\n" << yaml;
  }
}

// What a random change makes of a good file must be loaded or refused, never crash or loop.
TEST(LoadYamlTest, RandomMutations_LoadOrFailCleanly) {
  const uint64_t seed = 7;
  std::mt19937_64 random(seed);
  const std::string signs = "{}[]:,-&*!|>'\"%@`?#~<= \n\t0aez\x7F\x80\xE2";
  int loaded = 0;
  int refused = 0;
  for (int i = 0; i < 20'000; ++i) {
    std::string text = kJob;
    for (uint64_t change = 1 + random() % 6; change > 0; --change) {
      const size_t at = random() % text.size();
      switch (random() % 4) {
        case 0:
          text[at] = signs[random() % signs.size()];
          break;
        case 1:
          text.insert(at, 1, signs[random() % signs.size()]);
          break;
        case 2:
          text.erase(at, 1 + random() % 20);
          break;
        default:
          text.insert(at, text.substr(random() % text.size(), random() % 40));
      }
    }
    v1::Job job;
    absl::Status status = LoadYaml(text, "job.yaml", &job);
    if (status.ok()) {
      ++loaded;
      v1::Job back;
      ASSERT_TRUE(LoadYaml(ToYaml(job), "again", &back).ok()) << "seed " << seed << ":\n" << text;
    } else {
      ++refused;
      ASSERT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
      ASSERT_TRUE(absl::StartsWith(status.message(), "job.yaml:")) << status;
    }
  }
  EXPECT_GT(loaded, 100);
  EXPECT_GT(refused, 1000);
}

}  // namespace
}  // namespace fathom
