// Whole commands against a coordinator in memory: what they print, what they ask for, how they end.
#include "cli/run_fathomctl.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/command_tree.h"
#include "cli/completion.h"
#include "cli/exit_code.h"
#include "cli/test_environment.h"
#include "common/data/token_file.h"

namespace fathom::cli {
namespace {

using Json = nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

int64_t LinesOf(const std::string& text) { return std::count(text.begin(), text.end(), '\n'); }

class FathomctlTest : public testing::Test {
 protected:
  FathomctlTest()
      : ctl(testing::TempDir() + "/" +
            testing::UnitTest::GetInstance()->current_test_info()->name()) {}

  std::string Write(const std::string& name, const std::string& text) {
    const std::string path = ctl.folder() + "/" + name;
    std::ofstream(path) << text;
    return path;
  }

  // Tokens enough for toy sequences, in data.tokens of the user's folder.
  void WriteTokens(int64_t vocab_size, int tokens) {
    auto writer = data::TokenFileWriter::Create(ctl.folder() + "/data.tokens",
                                                data::TokenizerKind::kBytes, vocab_size, 0);
    ASSERT_TRUE(writer.ok()) << writer.status();
    const std::vector<int32_t> document(static_cast<size_t>(tokens), 7);
    ASSERT_TRUE(writer->AddDocument(data::Split::kTraining, document).ok());
    ASSERT_TRUE(writer->AddDocument(data::Split::kValidation, document).ok());
    ASSERT_TRUE(writer->Finish(0, 0, "").ok());
  }

  std::string JobFile(const std::string& extra = "") {
    return Write("job.yaml",
                 "apiVersion: fathom/v1\nkind: Job\nmetadata: {name: sea}\nspec:\n"
                 "  model: {preset: toy}\n"
                 "  data: {token_file: data.tokens, sequence_length: 16}\n" +
                     extra);
  }

  static v1::JobStatus Job(v1::JobState state, int64_t step) {
    v1::JobStatus job;
    job.set_name("sea");
    job.set_id("sea-1");
    job.set_state(state);
    job.mutable_job()->mutable_spec()->mutable_training()->set_steps(10);
    if (step > 0) {
      job.mutable_last_step()->set_step(step);
      job.mutable_last_step()->set_loss(3.25);
    }
    if (state == v1::JOB_STATE_COMPLETED) job.set_weights_sha256("abc123");
    if (state == v1::JOB_STATE_FAILED) job.set_reason("rank 3: peer 1 is silent");
    return job;
  }

  static v1::NodeStatus Node(const std::string& name) {
    v1::NodeStatus node;
    node.mutable_node()->set_name(name);
    node.set_state(v1::NODE_STATE_READY);
    node.set_pid(11);
    return node;
  }

  TestEnvironment ctl;
};

TEST_F(FathomctlTest, WrongCommandLine_IsOneLineOfUsage) {
  for (const std::vector<std::string>& wrong : std::vector<std::vector<std::string>>{
           {},
           {"sail"},
           {"get"},
           {"get", "ships"},
           {"get", "jobs", "--bogus"},
           {"get", "jobs", "-o", "xml"},
           {"submit"},
           {"wait"},
           {"wait", "sea", "--timeout", "soon"},
           {"wait", "sea", "--timeout", "-1"},
           {"local", "up", "--nodes", "-3"},
           {"local", "up", "--coordinator-port", "70000"},
           {"logs", "sea", "--rank", "-1"},
           {"data", "prepare", "x"},
           {"data", "prepare", "x", "-o", "y", "--validation-fraction", "2"},
           {"completion", "fish"}}) {
    EXPECT_EQ(ctl.Run(wrong), kExitUsage) << testing::PrintToString(wrong);
    EXPECT_THAT(ctl.err(), testing::StartsWith("fathomctl: "));
    EXPECT_EQ(LinesOf(ctl.err()), 1) << ctl.err();
    EXPECT_THAT(ctl.err(), HasSubstr("--help")) << ctl.err();
    EXPECT_THAT(ctl.out(), IsEmpty());
  }
  EXPECT_EQ(ctl.Run({"get", "ships"}), kExitUsage);
  EXPECT_THAT(ctl.err(), HasSubstr("not expected: ships; see fathomctl get --help"));
  EXPECT_THAT(ctl.coordinator.addresses, IsEmpty());
}

TEST_F(FathomctlTest, NumberOutOfRange_IsToldInAShortLineWithWhatWouldDo) {
  for (const auto& [wrong, says] : std::vector<std::pair<std::vector<std::string>, std::string>>{
           {{"trace", "sea", "--lane", "-1"}, "--lane: '-1' is not a whole number from 0 to "},
           {{"logs", "sea", "--epoch", "0"}, "--epoch: '0' is not a whole number from 1 to "},
           {{"whatif", "kill", "n-0", "--steps-done", "1e3"},
            "--steps-done: '1e3' is not a whole number from 0 to 1000000000;"},
           {{"whatif", "kill", "n-0", "--steps-done", "99999999999999999999"},
            "'99999999999999999999' is not a whole number"},
           {{"schedule", "--chunks", "x"}, "--chunks: 'x' is not a whole number from 1 to "},
           {{"experts", "traffic", "--layers", "0"}, "--layers: '0' is not a whole number from 1"},
           {{"schedule", "--ranks", "99999999999"}, "--ranks: '99999999999' is not a whole"},
           {{"schedule", "--micro-batches", "nan"}, "--micro-batches: 'nan' is not a whole"},
           {{"experts", "plan", "--tolerance", "nan"}, "--tolerance: 'nan' is not a number from"},
           {{"schedule", "--message-time", "soon"}, "--message-time: 'soon' is not a number from"},
           {{"schedule", "--message-time", "1e300"}, "'1e300' is not a number from 0 to 1e+12"}}) {
    EXPECT_EQ(ctl.Run(wrong), kExitUsage) << testing::PrintToString(wrong);
    EXPECT_THAT(ctl.err(), HasSubstr(says));
    EXPECT_LT(ctl.err().size(), 160) << ctl.err();
    EXPECT_THAT(ctl.err(), HasSubstr("--help"));
  }
}

TEST_F(FathomctlTest, PlanOnProcessors_ReadsTheirProfileOrSaysWhatIsWrongWithIt) {
  const std::string cluster =
      Write("cluster.yaml",
            "apiVersion: fathom/v1\nkind: Cluster\nspec: {pools: [{device: cpu, nodes: 1}]}\n");
  const auto plan = [&](const std::string& state) {
    return ctl.Run({"plan", "-f", JobFile(), "--cluster", cluster, "--state-dir", state});
  };
  EXPECT_EQ(plan(std::string(5000, 'x')), kExitRefused);
  EXPECT_THAT(ctl.err(), HasSubstr("run `fathomctl profile` on the machine first"));
  const std::string state = ctl.folder() + "/state";
  std::filesystem::create_directories(state);
  Write("state/cpu-profile.yaml", "kind: h800\n");
  EXPECT_EQ(plan(state), kExitUsage);
  EXPECT_THAT(ctl.err(), HasSubstr("cpu-profile.yaml: kind is 'h800', not cpu"));
  Write("state/cpu-profile.yaml", "kind: cpu\nop_times: {ops: [{op: Gemm, format: fp32}]}\n");
  EXPECT_EQ(plan(state), kExitRefused);  // not "no such file"
  EXPECT_THAT(ctl.err(), HasSubstr("make a new one with: fathomctl profile"));
}

TEST_F(FathomctlTest, Help_NamesCommandsFlagsAndExitCodes) {
  EXPECT_EQ(ctl.Run({"--help"}), kExitOk);
  EXPECT_THAT(ctl.out(), HasSubstr("checkpoint"));
  EXPECT_THAT(ctl.out(), HasSubstr("124  time-out"));
  EXPECT_EQ(ctl.Run({"submit", "--help"}), kExitOk);
  EXPECT_THAT(ctl.out(), HasSubstr("fathomctl submit"));
  EXPECT_THAT(ctl.out(), HasSubstr("--dry-run"));
  EXPECT_EQ(ctl.Run({"help", "exit-codes"}), kExitOk);
  EXPECT_THAT(ctl.out(), HasSubstr("5    the coordinator can't be reached"));
}

TEST_F(FathomctlTest, CoordinatorAddress_IsTakenFromFlagVariableThenLocalCluster) {
  ctl.Run({"get", "jobs"});
  std::filesystem::create_directories(ctl.folder() + "/state/coordinator");
  Write("state/coordinator/coordinator.json", R"({"address": "127.0.0.1:3", "pid": 5})");
  ctl.Run({"get", "jobs"});
  ctl.variables["FATHOM_COORDINATOR"] = "127.0.0.1:2";
  ctl.Run({"get", "jobs"});
  ctl.Run({"get", "jobs", "--coordinator", "127.0.0.1:1"});
  EXPECT_THAT(ctl.coordinator.addresses,
              ElementsAre("127.0.0.1:7070", "127.0.0.1:3", "127.0.0.1:2", "127.0.0.1:1"));
}

TEST_F(FathomctlTest, UnreachableCoordinator_IsExitCode5ForEveryVerb) {
  ctl.coordinator.failure = absl::UnavailableError("the coordinator can't be reached");
  WriteTokens(257, 200);
  const std::string job = JobFile();
  for (const std::vector<std::string>& command :
       std::vector<std::vector<std::string>>{{"get", "jobs"},
                                             {"get", "nodes"},
                                             {"get", "events"},
                                             {"describe", "job", "sea"},
                                             {"describe", "node", "n"},
                                             {"logs", "sea"},
                                             {"cancel", "sea"},
                                             {"wait", "sea"},
                                             {"top", "--once"},
                                             {"submit", "-f", job},
                                             {"checkpoint", "list", "sea"}}) {
    EXPECT_EQ(ctl.Run(command), kExitUnreachable) << testing::PrintToString(command);
    EXPECT_EQ(LinesOf(ctl.err()), 1) << ctl.err();
  }
  EXPECT_EQ(ctl.Run({"version"}), kExitOk);
}

TEST_F(FathomctlTest, GetJobs_ListsSelectsAndMisses) {
  ctl.coordinator.jobs = {Job(v1::JOB_STATE_FAILED, 3), Job(v1::JOB_STATE_COMPLETED, 10)};
  ctl.coordinator.jobs[0].set_id("sea-0");
  EXPECT_EQ(ctl.Run({"get", "jobs", "-o", "json"}), kExitOk);
  const Json items = Json::parse(ctl.out())["items"];
  ASSERT_EQ(items.size(), 2u);
  EXPECT_EQ(items[0]["state"], "FAILED");
  EXPECT_TRUE(items[0]["weights_sha256"].is_null());
  EXPECT_EQ(items[1]["weights_sha256"], "abc123");
  // Of several of one name the newest; an id is exact. The flag may come first, too.
  EXPECT_EQ(ctl.Run({"-o", "json", "get", "jobs", "sea", "sea-0"}), kExitOk);
  const Json chosen = Json::parse(ctl.out())["items"];
  EXPECT_EQ(chosen[0]["id"], "sea-1");
  EXPECT_EQ(chosen[1]["id"], "sea-0");
  EXPECT_EQ(ctl.Run({"get", "jobs", "sky"}), kExitNotFound);
  EXPECT_THAT(ctl.err(), HasSubstr("no job sky"));
}

TEST_F(FathomctlTest, Watch_PrintsAgainOnlyWhatChanged) {
  ctl.coordinator.nodes = {Node("node-0")};
  int looks = 0;
  ctl.coordinator.before_list_nodes = [&] {
    if (++looks == 3) ctl.coordinator.nodes[0].set_state(v1::NODE_STATE_LOST);
  };
  ctl.pause().left = 5;
  EXPECT_EQ(ctl.Run({"get", "nodes", "--watch", "-o", "json"}), kExitOk);
  EXPECT_EQ(looks, 5);
  std::istringstream documents(ctl.out());
  Json first, second;
  documents >> first >> second;
  EXPECT_EQ(first["items"][0]["state"], "READY");
  EXPECT_EQ(second["items"][0]["state"], "LOST");
  EXPECT_EQ(documents.get(), '\n');
  EXPECT_EQ(documents.get(), EOF);
}

TEST_F(FathomctlTest, Describe_ShowsSpecPlanAndEvents) {
  ctl.coordinator.jobs = {Job(v1::JOB_STATE_RUNNING, 4)};
  v1::RankAssignment* rank = ctl.coordinator.jobs[0].mutable_plan()->add_ranks();
  rank->set_rank(5);
  rank->set_node("node-1");
  ctl.coordinator.events.resize(2);
  ctl.coordinator.events[0].set_job("sea-1");
  ctl.coordinator.events[0].set_message("it began");
  ctl.coordinator.events[1].set_job("sky-1");
  EXPECT_EQ(ctl.Run({"describe", "job", "sea", "-o", "json"}), kExitOk);
  const Json job = Json::parse(ctl.out());
  EXPECT_EQ(job["plan"]["ranks"][0]["node"], "node-1");
  EXPECT_EQ(job["spec"]["training"]["steps"], 10);
  ASSERT_EQ(job["events"].size(), 1u);
  EXPECT_EQ(job["events"][0]["message"], "it began");
  EXPECT_EQ(ctl.Run({"describe", "job", "sea"}), kExitOk);
  EXPECT_THAT(ctl.out(), HasSubstr("it began"));
  EXPECT_EQ(ctl.Run({"describe", "node", "node-9"}), kExitNotFound);
}

TEST_F(FathomctlTest, Top_ShowsNodesAndJobs) {
  ctl.coordinator.nodes = {Node("node-0")};
  ctl.coordinator.jobs = {Job(v1::JOB_STATE_RUNNING, 4)};
  EXPECT_EQ(ctl.Run({"top", "--once"}), kExitOk);
  EXPECT_THAT(ctl.out(), HasSubstr("node-0"));
  EXPECT_THAT(ctl.out(), HasSubstr("4/10"));
  EXPECT_EQ(ctl.Run({"top", "--once", "-o", "json"}), kExitOk);
  EXPECT_EQ(Json::parse(ctl.out())["nodes"][0]["name"], "node-0");
}

TEST_F(FathomctlTest, Submit_SendsTheJobAsTheUserMeantIt) {
  WriteTokens(257, 200);
  const std::string job = JobFile("  checkpoint: {directory: saved}\n");
  EXPECT_EQ(ctl.Run({"submit", "-f", job, "--set", "spec.training.steps=50", "--set",
                     "spec.training.seed=9"}),
            kExitOk)
      << ctl.err();
  EXPECT_THAT(ctl.out(), HasSubstr("job sea submitted (sea-1)"));
  ASSERT_EQ(ctl.coordinator.submitted.size(), 1u);
  const v1::SubmitJobRequest& request = ctl.coordinator.submitted[0];
  EXPECT_EQ(request.job().metadata().user(), "ada");
  EXPECT_EQ(request.job().spec().data().token_file(), ctl.folder() + "/data.tokens");
  EXPECT_EQ(request.job().spec().checkpoint().directory(), ctl.folder() + "/saved");
  EXPECT_EQ(request.job().spec().training().steps(), 50);
  EXPECT_EQ(request.job().spec().training().seed(), 9u);
  EXPECT_THAT(request.request_id(), Not(IsEmpty()));
  EXPECT_EQ(ctl.Run({"submit", "-f", job, "--dry-run", "-o", "json", "--name", "sky"}), kExitOk);
  EXPECT_EQ(Json::parse(ctl.out())["plan"]["stages"][0]["layers"], 3);
  EXPECT_TRUE(ctl.coordinator.submitted[1].dry_run());
  EXPECT_EQ(ctl.coordinator.submitted[1].job().metadata().name(), "sky");
}

TEST_F(FathomctlTest, SubmitOfBadInput_FailsBeforeTheCoordinatorHearsOfIt) {
  WriteTokens(257, 200);
  const std::string good = JobFile();
  EXPECT_EQ(ctl.Run({"submit", "-f", ctl.folder() + "/none.yaml"}), kExitNotFound);
  EXPECT_EQ(
      ctl.Run({"submit", "-f", Write("bad.yaml", "apiVersion: fathom/v1\nkind: Job\nspeck: 1\n")}),
      kExitUsage);
  EXPECT_THAT(ctl.err(), HasSubstr("bad.yaml:3: speck"));
  EXPECT_EQ(ctl.Run({"submit", "-f", good, "--set", "spec.training.stepz=5"}), kExitUsage);
  EXPECT_THAT(ctl.err(), HasSubstr("stepz"));
  EXPECT_EQ(ctl.Run({"submit", "-f", good, "--set", "spec.data.sequence_length=4096"}),
            kExitRefused);
  EXPECT_THAT(ctl.err(), HasSubstr("holds no sequence of 4096"));
  EXPECT_EQ(ctl.Run({"submit", "-f", good, "--set", "spec.model.vocab_size=100"}), kExitRefused);
  EXPECT_THAT(ctl.err(), HasSubstr("vocabulary of 257"));
  EXPECT_EQ(ctl.Run({"submit", "-f", good, "--resume-from", "no/manifest.json"}), kExitNotFound);
  std::filesystem::resize_file(ctl.folder() + "/data.tokens", 600);
  EXPECT_EQ(ctl.Run({"submit", "-f", good}), kExitError);
  EXPECT_THAT(ctl.err(), HasSubstr("data.tokens"));
  std::filesystem::remove(ctl.folder() + "/data.tokens");
  EXPECT_EQ(ctl.Run({"submit", "-f", good}), kExitNotFound);
  EXPECT_THAT(ctl.coordinator.addresses, IsEmpty());
  // A coordinator elsewhere may see files that aren't here.
  EXPECT_EQ(ctl.Run({"submit", "-f", good, "--coordinator", "example.org:7070"}), kExitOk);
}

TEST_F(FathomctlTest, Refusal_IsExitCode4WithTheCoordinatorsWords) {
  WriteTokens(257, 200);
  ctl.coordinator.refusal = absl::InvalidArgumentError("spec.parallelism.pipeline: 3 is odd");
  EXPECT_EQ(ctl.Run({"submit", "-f", JobFile()}), kExitRefused);
  EXPECT_EQ(ctl.err(), "fathomctl: spec.parallelism.pipeline: 3 is odd\n");
  EXPECT_EQ(ctl.Run({"cancel", "sea"}), kExitRefused);
}

TEST_F(FathomctlTest, SubmitAndWait_FollowsToTheEnd) {
  WriteTokens(257, 200);
  ctl.coordinator.watched = {Job(v1::JOB_STATE_PENDING, 0), Job(v1::JOB_STATE_RUNNING, 4),
                             Job(v1::JOB_STATE_COMPLETED, 10)};
  EXPECT_EQ(ctl.Run({"submit", "-f", JobFile(), "--wait"}), kExitOk) << ctl.err();
  EXPECT_THAT(ctl.out(), HasSubstr("sea PENDING\n"));
  EXPECT_THAT(ctl.out(), HasSubstr("sea RUNNING  step 4/10  loss 3.2500"));
  EXPECT_THAT(ctl.out(), HasSubstr("sea COMPLETED  step 10/10"));
  EXPECT_THAT(ctl.out(), HasSubstr("weights abc123"));
  EXPECT_THAT(ctl.out(), Not(HasSubstr("\x1b")));
}

TEST_F(FathomctlTest, WaitInJson_KeepsTheOutputClean) {
  ctl.coordinator.watched = {Job(v1::JOB_STATE_RUNNING, 4), Job(v1::JOB_STATE_COMPLETED, 10)};
  EXPECT_EQ(ctl.Run({"wait", "sea", "-o", "json"}), kExitOk);
  EXPECT_EQ(Json::parse(ctl.out())["weights_sha256"], "abc123");
  EXPECT_THAT(ctl.err(), HasSubstr("step 4/10"));
}

TEST_F(FathomctlTest, WaitOnATerminal_ChangesOneLine) {
  ctl.environment().out_is_terminal = true;
  ctl.coordinator.watched = {Job(v1::JOB_STATE_RUNNING, 4), Job(v1::JOB_STATE_RUNNING, 5),
                             Job(v1::JOB_STATE_COMPLETED, 10)};
  EXPECT_EQ(ctl.Run({"wait", "sea"}), kExitOk);
  EXPECT_THAT(ctl.out(), HasSubstr("\rsea RUNNING  step 5/10"));
  EXPECT_EQ(LinesOf(ctl.out()), 2);
  // One that would wrap is cut.
  ctl.environment().terminal_columns = 20;
  ctl.coordinator.watched = {Job(v1::JOB_STATE_RUNNING, 4), Job(v1::JOB_STATE_COMPLETED, 10)};
  EXPECT_EQ(ctl.Run({"wait", "sea"}), kExitOk);
  EXPECT_THAT(ctl.out(), HasSubstr("\rsea RUNNING  ste...\x1b[K"));
}

TEST_F(FathomctlTest, JobThatFails_IsExitCode1WithItsReason) {
  ctl.coordinator.watched = {Job(v1::JOB_STATE_FAILED, 3)};
  EXPECT_EQ(ctl.Run({"wait", "sea"}), kExitError);
  EXPECT_THAT(ctl.err(), HasSubstr("job sea is FAILED: rank 3: peer 1 is silent"));
}

TEST_F(FathomctlTest, WaitForNothingOrTooLong_IsNotFoundOrTimeOut) {
  EXPECT_EQ(ctl.Run({"wait", "sky"}), kExitNotFound);
  ctl.coordinator.watched = {Job(v1::JOB_STATE_RUNNING, 4)};
  ctl.coordinator.watch_end = absl::DeadlineExceededError("the time is up");
  EXPECT_EQ(ctl.Run({"wait", "sea", "--timeout", "0.5"}), kExitTimeOut);
  EXPECT_THAT(ctl.err(), HasSubstr("fathomctl wait sea"));
}

TEST_F(FathomctlTest, CoordinatorThatComesBack_IsWaitedFor) {
  // A nameless status stands for a broken stream.
  ctl.coordinator.watched = {Job(v1::JOB_STATE_RUNNING, 4), v1::JobStatus(), v1::JobStatus(),
                             Job(v1::JOB_STATE_COMPLETED, 10)};
  EXPECT_EQ(ctl.Run({"wait", "sea"}), kExitOk) << ctl.err();
  EXPECT_THAT(ctl.out(), HasSubstr("the coordinator is away"));
  EXPECT_THAT(ctl.out(), HasSubstr("the coordinator is back"));
}

TEST_F(FathomctlTest, CoordinatorThatStaysAway_IsGivenUp) {
  ctl.coordinator.watched.assign(900, v1::JobStatus());
  ctl.coordinator.watched[0] = Job(v1::JOB_STATE_RUNNING, 4);
  EXPECT_EQ(ctl.Run({"wait", "sea"}), kExitUnreachable);
}

TEST_F(FathomctlTest, Cancel_NamesActorAndReason) {
  EXPECT_EQ(ctl.Run({"cancel", "sea", "--reason", "too deep", "-o", "json"}), kExitOk);
  EXPECT_EQ(Json::parse(ctl.out())["state"], "CANCELLED");
  ASSERT_EQ(ctl.coordinator.cancelled.size(), 1u);
  EXPECT_EQ(ctl.coordinator.cancelled[0].actor(), "ada");
  EXPECT_EQ(ctl.coordinator.cancelled[0].reason(), "too deep");
  // A job may be called like a command.
  EXPECT_EQ(ctl.Run({"cancel", "top"}), kExitOk) << ctl.err();
  EXPECT_EQ(ctl.coordinator.cancelled[1].name(), "top");
}

TEST_F(FathomctlTest, DataCommands_PrepareInspectAndVerify) {
  std::string text;
  for (int i = 0; i < 5000; ++i) text += "deep sea " + std::to_string(i) + "\n";
  const std::string input = Write("text.txt", text);
  const std::string output = ctl.folder() + "/text.tokens";
  EXPECT_EQ(ctl.Run({"data", "prepare", input, "-o", output, "--validation-fraction", "0.1",
                     "--output", "json"}),
            kExitOk)
      << ctl.err();
  const Json prepared = Json::parse(ctl.out());
  EXPECT_EQ(prepared["vocab_size"], 257);
  EXPECT_GT(prepared["unigram_entropy"], prepared["bigram_entropy"]);
  EXPECT_EQ(ctl.Run({"data", "info", output, "-o", "json"}), kExitOk);
  EXPECT_EQ(Json::parse(ctl.out()), prepared);
  EXPECT_EQ(ctl.Run({"data", "info", output}), kExitOk);
  EXPECT_THAT(ctl.out(), HasSubstr("nats per token"));
  EXPECT_EQ(ctl.Run({"data", "verify", output}), kExitOk);
  {
    std::fstream file(output, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(700);
    file.put('\x7F');
  }
  EXPECT_EQ(ctl.Run({"data", "verify", output}), kExitError);
  EXPECT_THAT(ctl.err(), HasSubstr("hash"));
  EXPECT_EQ(ctl.Run({"data", "info", ctl.folder() + "/none"}), kExitNotFound);
  EXPECT_EQ(ctl.Run({"data", "info", input}), kExitError);
  // Neither a format's name nor somebody's file is taken for the output.
  EXPECT_EQ(ctl.Run({"data", "prepare", input, "-o", "json"}), kExitUsage);
  EXPECT_EQ(ctl.Run({"data", "prepare", output, "-o", input}), kExitRefused);
  EXPECT_EQ(std::filesystem::file_size(input), text.size());
}

TEST_F(FathomctlTest, Checkpoints_AreMissedByName) {
  EXPECT_EQ(ctl.Run({"checkpoint", "list", ctl.folder()}), kExitOk);
  EXPECT_THAT(ctl.out(), HasSubstr("no checkpoints in"));
  EXPECT_EQ(ctl.Run({"checkpoint", "verify", ctl.folder()}), kExitNotFound);
  EXPECT_EQ(ctl.Run({"checkpoint", "show", "/no/manifest.json"}), kExitNotFound);
  EXPECT_EQ(ctl.Run({"checkpoint", "list", "sky"}), kExitNotFound);
  std::filesystem::create_directories(ctl.folder() + "/step-00000001");
  Write("step-00000001/manifest.json", "{\"format\": \"other\"}");
  EXPECT_EQ(ctl.Run({"checkpoint", "list", ctl.folder(), "-o", "json"}), kExitOk);
  EXPECT_THAT(Json::parse(ctl.out())["items"][0]["fault"].get<std::string>(), HasSubstr("format"));
  EXPECT_EQ(ctl.Run({"checkpoint", "verify", ctl.folder()}), kExitError);
}

TEST_F(FathomctlTest, OutputThatCantBeWritten_IsAnError) {
  std::ofstream full("/dev/full");
  ctl.environment().out = &full;
  EXPECT_EQ(ctl.Run({"help", "exit-codes"}), kExitError);
  EXPECT_THAT(ctl.err(), HasSubstr("cannot write the output"));
}

// What bash answers after the words, the last of which is being written.
std::string Complete(const std::string& script, const std::string& words) {
  const std::string command = "bash -c 'source " + script + "; COMP_WORDS=(" + words +
                              "); COMP_CWORD=$((${#COMP_WORDS[@]}-1)); fathomctl() { :; }; "
                              "_fathomctl; echo ${COMPREPLY[@]}' 2>&1";
  std::FILE* pipe = popen(command.c_str(), "r");
  char text[4096] = {};
  const size_t got = std::fread(text, 1, sizeof(text) - 1, pipe);
  EXPECT_EQ(pclose(pipe), 0) << text;
  return {text, got};
}

TEST_F(FathomctlTest, BashCompletion_KnowsTheTree) {
  ASSERT_EQ(ctl.Run({"completion", "bash"}), kExitOk);
  const std::string script = Write("completion.bash", ctl.out());
  EXPECT_EQ(Complete(script, "fathomctl lo"), "local logs\n");
  EXPECT_EQ(Complete(script, "fathomctl local \"\""), "up down status\n");
  EXPECT_EQ(Complete(script, "fathomctl get jobs -o j"), "json\n");
  EXPECT_EQ(Complete(script, "fathomctl -o json get n"), "nodes\n");
  EXPECT_THAT(Complete(script, "fathomctl submit --d"), HasSubstr("--dry-run"));
  EXPECT_EQ(Complete(script, "fathomctl completion z"), "zsh\n");
  EXPECT_EQ(Complete(script, "fathomctl schedule --kind dualpipe"), "dualpipe dualpipev\n");
  // -o of `data prepare` names a file.
  EXPECT_THAT(Complete(script, "fathomctl data prepare x -o /et"), HasSubstr("/etc"));
}

TEST_F(FathomctlTest, ZshCompletion_KnowsTheTree) {
  ASSERT_EQ(ctl.Run({"completion", "zsh"}), kExitOk);
  EXPECT_THAT(ctl.out(), testing::StartsWith("#compdef fathomctl\n"));
  EXPECT_THAT(ctl.out(), HasSubstr("\"fathomctl local up\"|"));
  EXPECT_FALSE(CompletionScript(DescribeCommands(), "fish").ok());
}

}  // namespace
}  // namespace fathom::cli
