#include <cmath>
#include <functional>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/model/model_config.h"
#include "common/plan/even_plan.h"
#include "common/plan/job_resolve.h"
#include "common/plan/plan_check.h"
#include "common/plan/plan_layout.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace fathom::plan {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

v1::Job ToyJob() {
  v1::Job job;
  job.set_api_version("fathom/v1");
  job.set_kind("Job");
  job.mutable_metadata()->set_name("toy");
  job.mutable_spec()->mutable_model()->set_preset("toy");
  job.mutable_spec()->mutable_data()->set_token_file("/data/tokens");
  return job;
}

TEST(ResolveJobTest, ShortestJob_GetsEveryDefault) {
  ResolveContext context;
  context.default_user = "ada";
  context.checkpoint_folder = "/var/lib/fathom/checkpoints/";
  const v1::Job job = ResolveJob(ToyJob(), context).value();
  EXPECT_EQ(job.metadata().name(), "toy");
  EXPECT_EQ(job.metadata().user(), "ada");
  const v1::JobSpec& spec = job.spec();
  EXPECT_EQ(spec.model().hidden_size(), 32);
  EXPECT_EQ(spec.data().sequence_length(), 32);
  EXPECT_EQ(spec.precision(), "bf16");
  EXPECT_EQ(spec.parallelism().pipeline(), 1);
  EXPECT_EQ(spec.parallelism().expert(), 1);
  EXPECT_EQ(spec.parallelism().replicas(), 1);
  const v1::Training& t = spec.training();
  EXPECT_EQ(t.steps(), 100);
  EXPECT_EQ(t.micro_batches(), 1);
  EXPECT_EQ(t.micro_batch_sequences(), 1);
  EXPECT_EQ(t.seed(), 1);
  EXPECT_EQ(t.learning_rate(), 2.2e-4);
  EXPECT_EQ(t.final_learning_rate(), 2.2e-4 / 10);
  EXPECT_EQ(t.warmup_steps(), 5);
  EXPECT_EQ(t.constant_steps(), 0);
  EXPECT_EQ(t.beta1(), 0.9);
  EXPECT_EQ(t.beta2(), 0.95);
  EXPECT_EQ(t.epsilon(), 1e-8);
  EXPECT_EQ(t.weight_decay(), 0.1);
  EXPECT_EQ(t.clip_norm(), 1.0);
  EXPECT_EQ(t.mtp_loss_weight(), 0.3);
  EXPECT_EQ(t.balance_alpha(), 1e-4);
  EXPECT_EQ(t.bias_update_speed(), 1e-3);
  EXPECT_EQ(t.validation_every(), 0);
  EXPECT_EQ(t.validation_batches(), 1);
  EXPECT_EQ(spec.checkpoint().directory(), "/var/lib/fathom/checkpoints/toy");
  EXPECT_EQ(spec.checkpoint().every_steps(), 0);
  EXPECT_EQ(spec.checkpoint().keep(), 2);
  EXPECT_EQ(spec.restart().max_restarts_without_progress(), 3);
  EXPECT_EQ(spec.restart().peer_timeout_s(), 120);
  EXPECT_EQ(spec.restart().start_timeout_s(), 120);
  EXPECT_TRUE(spec.scheduling().preemptible());
  EXPECT_EQ(spec.scheduling().priority(), 0);
  EXPECT_EQ(spec.recovery().snapshot_every_steps(), 1);
  EXPECT_TRUE(spec.recovery().verify_weights());
  EXPECT_TRUE(spec.recovery().shed_replicas());
}

TEST(ResolveJobTest, ResolvedJob_StaysAsItIs) {
  for (const std::string& preset : model::PresetNames()) {
    for (int pipeline : {1, 2, 6}) {
      v1::Job job = ToyJob();
      job.mutable_spec()->mutable_model()->set_preset(preset);
      job.mutable_spec()->mutable_parallelism()->set_pipeline(pipeline);
      job.mutable_spec()->mutable_training()->set_steps(7);  // a warm-up of no steps
      ResolveContext context;
      context.checkpoint_folder = "/checkpoints";
      const v1::Job once = ResolveJob(job, context).value();
      context.checkpoint_folder = "/elsewhere";
      context.default_user = "";
      context.default_name = "other";
      const v1::Job twice = ResolveJob(once, context).value();
      EXPECT_EQ(once.SerializeAsString(), twice.SerializeAsString());
      EXPECT_TRUE(CheckResolvedSpec(once.spec()).ok()) << CheckResolvedSpec(once.spec());
      EXPECT_EQ(once.spec().training().micro_batches(), pipeline == 1 ? 1 : 2 * pipeline);
    }
  }
}

TEST(ResolveJobTest, ZeroWhereItMeansSomething_IsKept) {
  v1::Job job = ToyJob();
  v1::Training* t = job.mutable_spec()->mutable_training();
  t->set_weight_decay(0);
  t->set_mtp_loss_weight(0);
  t->set_warmup_steps(0);
  t->set_final_learning_rate(0);
  t->set_beta1(0);
  t->set_balance_alpha(0);
  t->set_bias_update_speed(0);
  job.mutable_spec()->mutable_restart()->set_max_restarts_without_progress(0);
  job.mutable_spec()->mutable_scheduling()->set_preemptible(false);
  job.mutable_spec()->mutable_recovery()->set_snapshot_every_steps(0);
  job.mutable_spec()->mutable_recovery()->set_verify_weights(false);
  job.mutable_spec()->mutable_recovery()->set_shed_replicas(false);
  const v1::Job resolved = ResolveJob(job).value();
  EXPECT_FALSE(resolved.spec().scheduling().preemptible());
  EXPECT_EQ(resolved.spec().recovery().snapshot_every_steps(), 0);
  EXPECT_FALSE(resolved.spec().recovery().verify_weights());
  EXPECT_FALSE(resolved.spec().recovery().shed_replicas());
  const v1::Training& r = resolved.spec().training();
  EXPECT_EQ(r.weight_decay() + r.mtp_loss_weight() + r.final_learning_rate() + r.beta1() +
                r.balance_alpha() + r.bias_update_speed(),
            0);
  EXPECT_EQ(r.warmup_steps(), 0);
  EXPECT_EQ(resolved.spec().restart().max_restarts_without_progress(), 0);
}

TEST(ResolveJobTest, RelativePaths_StartInTheWorkingFolder) {
  v1::Job job = ToyJob();
  job.mutable_spec()->mutable_data()->set_token_file("./tokens.bin");
  job.mutable_spec()->mutable_checkpoint()->set_directory("out");
  job.mutable_spec()->mutable_checkpoint()->set_resume_from("../old/manifest.json");
  ResolveContext context;
  context.working_folder = "/home/ada";
  const v1::Job resolved = ResolveJob(job, context).value();
  EXPECT_EQ(resolved.spec().data().token_file(), "/home/ada/tokens.bin");
  EXPECT_EQ(resolved.spec().checkpoint().directory(), "/home/ada/out");
  EXPECT_EQ(resolved.spec().checkpoint().resume_from(), "/home/ada/../old/manifest.json");
  EXPECT_THAT(std::string(ResolveJob(job).status().message()),
              StartsWith("spec.data.token_file: \"./tokens.bin\" is relative"));
}

TEST(ResolveJobTest, NoName_TakesTheContextsOrStaysOpen) {
  v1::Job job = ToyJob();
  job.mutable_metadata()->clear_name();
  ResolveContext context;
  context.checkpoint_folder = "/checkpoints";
  EXPECT_EQ(ResolveJob(job, context).value().spec().checkpoint().directory(), "");
  context.default_name = "toy-3";
  const v1::Job named = ResolveJob(job, context).value();
  EXPECT_EQ(named.metadata().name(), "toy-3");
  EXPECT_EQ(named.spec().checkpoint().directory(), "/checkpoints/toy-3");
}

struct BadJob {
  std::function<void(v1::Job&)> change;
  std::vector<std::string> message;  // its beginning, and what it also says
};

void ExpectRefused(const std::vector<BadJob>& table) {
  for (const BadJob& bad : table) {
    v1::Job job = ToyJob();
    bad.change(job);
    const absl::Status status = ResolveJob(job).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << bad.message.front();
    EXPECT_THAT(std::string(status.message()), StartsWith(bad.message.front()));
    for (const std::string& part : bad.message) {
      EXPECT_THAT(std::string(status.message()), HasSubstr(part));
    }
  }
}

TEST(ResolveJobTest, BadHeadOrMetadata_IsNamed) {
  ExpectRefused({
      {[](auto& j) { j.clear_api_version(); }, {"apiVersion: \"\"", "write fathom/v1"}},
      {[](auto& j) { j.set_api_version("v2"); }, {"apiVersion: \"v2\""}},
      {[](auto& j) { j.set_kind("job"); }, {"kind: \"job\"", "write Job"}},
      {[](auto& j) { j.mutable_metadata()->set_name("Toy"); },
       {"metadata.name: \"Toy\"", "lower-case letters"}},
      {[](auto& j) { j.mutable_metadata()->set_name("1toy"); }, {"metadata.name: \"1toy\""}},
      {[](auto& j) { j.mutable_metadata()->set_name("a/b"); }, {"metadata.name: \"a/b\""}},
      {[](auto& j) { j.mutable_metadata()->set_name(std::string(64, 'a')); },
       {"metadata.name: \"aaa", "at most 63"}},
      {[](auto& j) { j.mutable_metadata()->set_user(std::string(300, 'a')); },
       {"metadata.user: ", "300 bytes"}},
      {[](auto& j) { (*j.mutable_metadata()->mutable_labels())[""] = "x"; }, {"metadata.labels: "}},
      {[](auto& j) { (*j.mutable_metadata()->mutable_labels())["k"] = std::string(300, 'v'); },
       {"metadata.labels: \"k\""}},
      {[](auto& j) {
         for (int i = 0; i < 65; ++i) {
           (*j.mutable_metadata()->mutable_labels())[absl::StrCat("k", i)] = "v";
         }
       },
       {"metadata.labels: 65 labels", "at most 64"}},
      {[](auto& j) { j.mutable_spec()->mutable_data()->set_token_file(std::string(300'000, 'a')); },
       {"job: 300", "262144"}},
  });
}

TEST(ResolveJobTest, BadModelOrData_IsNamed) {
  ExpectRefused({
      {[](auto& j) { j.mutable_spec()->clear_model(); }, {"spec.model.vocab_size: missing"}},
      {[](auto& j) { j.mutable_spec()->mutable_model()->set_preset("gpt"); },
       {"spec.model.preset: \"gpt\"", "deepseek-v3, tiny, toy"}},
      {[](auto& j) { j.mutable_spec()->mutable_model()->set_hidden_size(-1); },
       {"spec.model.hidden_size: -1"}},
      {[](auto& j) { j.mutable_spec()->mutable_model()->set_n_group(8); },
       {"spec.model.n_group: 8", "at most 4"}},
      {[](auto& j) { j.mutable_spec()->clear_data(); },
       {"spec.data.token_file: missing", "data prepare"}},
      {[](auto& j) {
         j.mutable_spec()->mutable_data()->set_token_file("/" + std::string(5000, 'a'));
       },
       {"spec.data.token_file: a path of 5001 bytes"}},
      {[](auto& j) { j.mutable_spec()->mutable_data()->set_token_file(std::string("/a\0b", 4)); },
       {"spec.data.token_file: ", "no path"}},
      {[](auto& j) { j.mutable_spec()->mutable_data()->set_sequence_length(-5); },
       {"spec.data.sequence_length: -5", "from 1"}},
      {[](auto& j) { j.mutable_spec()->mutable_data()->set_sequence_length(int64_t{1} << 40); },
       {"spec.data.sequence_length: 1099511627776"}},
      {[](auto& j) {
         const auto toy = model::ResolveModel(j.spec().model()).value();
         *j.mutable_spec()->mutable_model() = model::ToSpec(toy, "");
       },
       {"spec.data.sequence_length: missing", "no preset"}},
      {[](auto& j) { j.mutable_spec()->set_precision("int8"); },
       {"spec.precision: \"int8\"", "fp32, bf16, fp8"}},
  });
}

TEST(ResolveJobTest, BadParallelism_IsNamed) {
  auto shape = [](v1::Job& job) { return job.mutable_spec()->mutable_parallelism(); };
  ExpectRefused({
      {[=](auto& j) { shape(j)->set_pipeline(-2); }, {"spec.parallelism.pipeline: -2"}},
      {[=](auto& j) { shape(j)->set_pipeline(3); },
       {"spec.parallelism.pipeline: 3 is odd", "choose 1 or an even number"}},
      {[=](auto& j) { shape(j)->set_pipeline(10); },
       {"spec.parallelism.pipeline: 10 stages", "8 layers", "at most 8"}},
      {[=](auto& j) { shape(j)->set_expert(3); },
       {"spec.parallelism.expert: 3 does not divide the model's 8 routed experts; choose one of 1, "
        "2, 4, 8"}},
      {[=](auto& j) { shape(j)->set_expert(16); }, {"spec.parallelism.expert: 16 does not divide"}},
      {[=](auto& j) { shape(j)->set_expert(-1); }, {"spec.parallelism.expert: -1"}},
      {[=](auto& j) { shape(j)->set_replicas(-1); }, {"spec.parallelism.replicas: -1"}},
      {[=](auto& j) {
         shape(j)->set_replicas(8192);
         shape(j)->set_expert(2);
       },
       {"spec.parallelism: 1 x 2 x 8192", "at most 8192"}},
      {[=](auto& j) { shape(j)->set_replicas(2'000'000'000); },
       {"spec.parallelism.replicas: 2000000000"}},
  });
}

TEST(ResolveJobTest, BadTraining_IsNamed) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double infinity = std::numeric_limits<double>::infinity();
  const int64_t huge = std::numeric_limits<int64_t>::max();
  auto t = [](v1::Job& job) { return job.mutable_spec()->mutable_training(); };
  auto pipeline = [](v1::Job& job, int ranks) {
    job.mutable_spec()->mutable_parallelism()->set_pipeline(ranks);
  };
  const std::string p = "spec.training.";
  ExpectRefused({
      {[=](auto& j) { t(j)->set_steps(-1); }, {p + "steps: -1"}},
      {[=](auto& j) { t(j)->set_steps(huge); }, {p + "steps: 9223"}},
      {[=](auto& j) { t(j)->set_micro_batches(-1); }, {p + "micro_batches: -1", "at least 1"}},
      {[=](auto& j) {
         pipeline(j, 4);
         t(j)->set_micro_batches(6);
       },
       {p + "micro_batches: 6 does not fill a pipeline of 4", "an even number of at least 8"}},
      {[=](auto& j) {
         pipeline(j, 4);
         t(j)->set_micro_batches(9);
       },
       {p + "micro_batches: 9"}},
      {[=](auto& j) { t(j)->set_micro_batches(huge); }, {p + "micro_batches: 9223", "at most"}},
      {[=](auto& j) { t(j)->set_micro_batch_sequences(-1); }, {p + "micro_batch_sequences: -1"}},
      {[=](auto& j) { t(j)->set_micro_batch_sequences(huge); },
       {p + "micro_batch_sequences: 9223", "to 8388608"}},
      {[=](auto& j) {
         t(j)->set_micro_batch_sequences(8388608);
         t(j)->set_micro_batches(4'000'000);
       },
       {p + "micro_batches: 4000000", "tokens per step"}},
      {[=](auto& j) { t(j)->set_learning_rate(-1e-3); }, {p + "learning_rate: -0.001"}},
      {[=](auto& j) { t(j)->set_learning_rate(nan); }, {p + "learning_rate: nan", "above 0"}},
      {[=](auto& j) { t(j)->set_learning_rate(infinity); }, {p + "learning_rate: inf"}},
      {[=](auto& j) { t(j)->set_final_learning_rate(1e-3); },
       {p + "final_learning_rate: 0.001", "at most 0.00022"}},
      {[=](auto& j) { t(j)->set_final_learning_rate(-1e-9); }, {p + "final_learning_rate: -1e-09"}},
      {[=](auto& j) { t(j)->set_warmup_steps(101); }, {p + "warmup_steps: 101", "to 100"}},
      {[=](auto& j) { t(j)->set_warmup_steps(-1); }, {p + "warmup_steps: -1"}},
      {[=](auto& j) { t(j)->set_constant_steps(-1); }, {p + "constant_steps: -1"}},
      {[=](auto& j) {
         t(j)->set_warmup_steps(60);
         t(j)->set_constant_steps(50);
       },
       {p + "constant_steps: 50", "60 of warmup_steps", "at most 40"}},
      {[=](auto& j) { t(j)->set_beta1(1); }, {p + "beta1: 1", "below 1"}},
      {[=](auto& j) { t(j)->set_beta2(-0.1); }, {p + "beta2: -0.1"}},
      {[=](auto& j) { t(j)->set_beta2(nan); }, {p + "beta2: nan"}},
      {[=](auto& j) { t(j)->set_epsilon(-1); }, {p + "epsilon: -1"}},
      {[=](auto& j) { t(j)->set_weight_decay(-0.1); }, {p + "weight_decay: -0.1"}},
      {[=](auto& j) { t(j)->set_clip_norm(-1); }, {p + "clip_norm: -1"}},
      {[=](auto& j) { t(j)->set_mtp_loss_weight(-0.3); }, {p + "mtp_loss_weight: -0.3"}},
      {[=](auto& j) { t(j)->set_balance_alpha(nan); }, {p + "balance_alpha: nan"}},
      {[=](auto& j) { t(j)->set_bias_update_speed(infinity); }, {p + "bias_update_speed: inf"}},
      {[=](auto& j) { t(j)->set_validation_every(-1); }, {p + "validation_every: -1"}},
      {[=](auto& j) {
         pipeline(j, 2);
         t(j)->set_validation_batches(3);
       },
       {p + "validation_batches: 3", "an even number of at least 2"}},
      {[=](auto& j) { t(j)->set_validation_batches(-1); }, {p + "validation_batches: -1"}},
  });
}

TEST(ResolveJobTest, BadPolicy_IsNamed) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  auto checkpoint = [](v1::Job& job) { return job.mutable_spec()->mutable_checkpoint(); };
  auto restart = [](v1::Job& job) { return job.mutable_spec()->mutable_restart(); };
  ExpectRefused({
      {[=](auto& j) { checkpoint(j)->set_directory("here"); },
       {"spec.checkpoint.directory: \"here\" is relative", "starting with '/'"}},
      {[=](auto& j) { checkpoint(j)->set_resume_from("m.json"); },
       {"spec.checkpoint.resume_from: \"m.json\" is relative"}},
      {[=](auto& j) { checkpoint(j)->set_every_steps(-1); }, {"spec.checkpoint.every_steps: -1"}},
      {[=](auto& j) { checkpoint(j)->set_keep(-1); }, {"spec.checkpoint.keep: -1"}},
      {[=](auto& j) { restart(j)->set_max_restarts_without_progress(-1); },
       {"spec.restart.max_restarts_without_progress: -1"}},
      {[=](auto& j) { restart(j)->set_peer_timeout_s(-1); }, {"spec.restart.peer_timeout_s: -1"}},
      {[=](auto& j) { restart(j)->set_start_timeout_s(nan); },
       {"spec.restart.start_timeout_s: nan"}},
      {[=](auto& j) { restart(j)->set_start_timeout_s(1e9); },
       {"spec.restart.start_timeout_s: 1e+09", "at most 86400"}},
  });
}

TEST(ResolveJobTest, BadSchedulingOrRecovery_IsNamed) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double infinity = std::numeric_limits<double>::infinity();
  auto scheduling = [](v1::Job& job) { return job.mutable_spec()->mutable_scheduling(); };
  auto recovery = [](v1::Job& job) { return job.mutable_spec()->mutable_recovery(); };
  const std::string p = "spec.scheduling.";
  ExpectRefused({
      {[=](auto& j) { scheduling(j)->set_priority(1001); },
       {p + "priority: 1001", "from -1000 to 1000"}},
      {[=](auto& j) { scheduling(j)->set_priority(-1001); }, {p + "priority: -1001"}},
      {[=](auto& j) { scheduling(j)->set_expected_hours(-1); }, {p + "expected_hours: -1"}},
      {[=](auto& j) { scheduling(j)->set_expected_hours(nan); }, {p + "expected_hours: nan"}},
      {[=](auto& j) { scheduling(j)->set_expected_hours(infinity); },
       {p + "expected_hours: inf", "at most 1e+06"}},
      {[=](auto& j) { scheduling(j)->set_time_slice_s(-0.5); }, {p + "time_slice_s: -0.5"}},
      {[=](auto& j) { scheduling(j)->set_time_slice_s(infinity); }, {p + "time_slice_s: inf"}},
      {[=](auto& j) { recovery(j)->set_snapshot_every_steps(-1); },
       {"spec.recovery.snapshot_every_steps: -1", "from 0 to 1000"}},
      {[=](auto& j) { recovery(j)->set_snapshot_every_steps(1001); },
       {"spec.recovery.snapshot_every_steps: 1001"}},
  });
}

// toy on pipeline 4 x expert 2 x replicas 2, on nodes of four.
v1::Plan ToyPlan(int pipeline = 4, int expert = 2, int replicas = 2) {
  v1::Job job = ToyJob();
  v1::Parallelism* shape = job.mutable_spec()->mutable_parallelism();
  shape->set_pipeline(pipeline);
  shape->set_expert(expert);
  shape->set_replicas(replicas);
  v1::Plan plan = EvenPlan(ResolveJob(job).value().spec(), /*ranks_per_node=*/4);
  plan.set_job("toy-1");
  plan.set_epoch(1);
  return plan;
}

TEST(CheckPlanTest, SoundPlans_Pass) {
  for (int pipeline : {1, 2, 4, 8}) {
    for (int expert : {1, 4}) {
      EXPECT_TRUE(CheckPlan(ToyPlan(pipeline, expert, 3)).ok());
    }
  }
  v1::Plan plan = ToyPlan();
  plan.mutable_resume()->set_step(100);
  plan.mutable_resume()->set_manifest("/c/manifest.json");
  EXPECT_TRUE(CheckPlan(plan).ok());
  // Ends may hold nothing but embedding and head.
  for (int i : {0, 3}) plan.mutable_stages(i)->set_layer_count(0);
  for (int i : {1, 2}) plan.mutable_stages(i)->set_layer_count(4);
  plan.mutable_stages(1)->set_first_layer(0);
  plan.mutable_stages(2)->set_first_layer(4);
  plan.mutable_stages(3)->set_first_layer(8);
  EXPECT_TRUE(CheckPlan(plan).ok()) << CheckPlan(plan);
}

TEST(EvenPlanTest, LayersThatDontDivide_AreSpreadByOneAtMost) {
  v1::Job job = ToyJob();
  job.mutable_spec()->mutable_parallelism()->set_pipeline(4);
  v1::JobSpec spec = ResolveJob(job).value().spec();
  spec.mutable_model()->set_num_hidden_layers(10);
  const v1::Plan plan = EvenPlan(spec, 3);
  int64_t next = 0;
  for (const v1::Stage& stage : plan.stages()) {
    EXPECT_EQ(stage.first_layer(), next);
    EXPECT_GE(stage.layer_count(), 2);
    EXPECT_LE(stage.layer_count(), 3);
    next += stage.layer_count();
  }
  EXPECT_EQ(next, 10);
  EXPECT_EQ(plan.ranks(3).node(), "node1");
  EXPECT_EQ(plan.ranks(3).device(), 0);
}

struct BadPlan {
  std::function<void(v1::Plan&)> change;
  std::string message;
};

TEST(CheckPlanTest, EachBrokenRule_IsNamed) {
  const std::vector<BadPlan> table = {
      {[](auto& p) { p.clear_job(); }, "plan.job: missing"},
      {[](auto& p) { p.set_epoch(0); }, "epoch: 0"},
      {[](auto& p) { p.clear_spec(); }, "spec.model.vocab_size: missing"},
      {[](auto& p) { p.mutable_spec()->clear_precision(); }, "spec: not resolved"},
      {[](auto& p) { p.mutable_spec()->mutable_training()->clear_beta1(); }, "training.beta1"},
      {[](auto& p) { p.mutable_spec()->mutable_model()->clear_hidden_size(); }, "hidden_size"},
      {[](auto& p) { p.mutable_spec()->mutable_training()->set_micro_batches(6); },
       "spec.training.micro_batches: 6"},
      {[](auto& p) { p.mutable_spec()->mutable_data()->set_token_file("t"); }, "is relative"},
      {[](auto& p) { p.mutable_stages()->RemoveLast(); }, "stages: 3 for a pipeline of 4"},
      {[](auto& p) { p.mutable_stages(1)->set_index(2); }, "stages[1].index: 2"},
      {[](auto& p) { p.mutable_stages(1)->set_first_layer(3); }, "stages[1].first_layer: 3"},
      {[](auto& p) { p.mutable_stages(3)->set_layer_count(1); }, "they end at layer 7"},
      {[](auto& p) { p.mutable_stages(3)->set_layer_count(3); }, "stages[3].layer_count: 3"},
      {[](auto& p) { p.mutable_stages(0)->set_layer_count(-1); }, "stages[0].layer_count: -1"},
      {[](auto& p) {
         p.mutable_stages(1)->set_layer_count(0);
         p.mutable_stages(2)->set_first_layer(2);
       },
       "stages[1].layer_count: 0"},
      {[](auto& p) { p.mutable_stages(0)->set_has_embedding(false); }, "stages[0].has_embedding"},
      {[](auto& p) { p.mutable_stages(2)->set_has_embedding(true); }, "stages[2].has_embedding"},
      {[](auto& p) { p.mutable_stages(3)->set_has_head(false); }, "stages[3].has_head"},
      {[](auto& p) { p.mutable_stages(0)->set_has_head(true); }, "stages[0].has_head"},
      {[](auto& p) { p.mutable_ranks()->RemoveLast(); }, "ranks: 15 where"},
      {[](auto& p) { *p.add_ranks() = p.ranks(0); }, "ranks: 17 where"},
      {[](auto& p) { p.mutable_ranks(5)->set_rank(4); }, "ranks[5].rank: 4, not 5"},
      {[](auto& p) { p.mutable_ranks(5)->set_pipeline_rank(2); }, "ranks[5].pipeline_rank: 2"},
      {[](auto& p) { p.mutable_ranks(5)->set_expert_rank(0); }, "ranks[5].expert_rank: 0, not 1"},
      {[](auto& p) { p.mutable_ranks(8)->set_replica(0); }, "ranks[8].replica: 0, not 1"},
      {[](auto& p) { p.mutable_ranks(2)->clear_node(); }, "ranks[2].node: \"\""},
      {[](auto& p) { p.mutable_ranks(2)->set_device(-1); }, "ranks[2].device: -1"},
      {[](auto& p) { p.mutable_ranks(2)->set_device(64); }, "ranks[2].device: 64"},
      {[](auto& p) { p.mutable_ranks(2)->set_device(1); },
       "ranks[2].device: 1 of node node0 already has rank 1"},
      {[](auto& p) { p.mutable_expert_owner()->RemoveLast(); }, "expert_owner: 7 entries"},
      {[](auto& p) { p.set_expert_owner(0, 2); }, "expert_owner[0]: 2"},
      {[](auto& p) { p.set_expert_owner(0, -1); }, "expert_owner[0]: -1"},
      {[](auto& p) { p.set_expert_owner(0, 1); }, "expert rank 0 owns 3 experts, not 4"},
      {[](auto& p) { p.mutable_resume()->set_step(1); }, "resume.manifest: missing"},
      {[](auto& p) { p.mutable_resume()->set_step(-1); }, "resume.step: -1"},
      {[](auto& p) { p.mutable_resume()->set_step(101); }, "resume.step: 101"},
  };
  for (const BadPlan& bad : table) {
    v1::Plan plan = ToyPlan();
    bad.change(plan);
    const absl::Status status = CheckPlan(plan);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << bad.message;
    EXPECT_THAT(std::string(status.message()), HasSubstr(bad.message));
  }
  EXPECT_FALSE(CheckPlan(v1::Plan()).ok());
}

TEST(PlanLayoutTest, Groups_AreAscendingAndShareWhatTheySay) {
  const v1::Plan plan = ToyPlan();  // 4 x 2 x 2: rank = (replica * 2 + expert) * 4 + pipeline
  EXPECT_THAT(StagesOfRank(plan, 5), ElementsAre(1, 2));
  EXPECT_THAT(StagesOfRank(plan, 7), ElementsAre(3, 0));
  EXPECT_THAT(DenseGroup(plan, 5), ElementsAre(1, 2, 5, 6, 9, 10, 13, 14));
  EXPECT_EQ(DenseGroup(plan, 6), DenseGroup(plan, 5));
  EXPECT_EQ(RanksOfStage(plan, 2), DenseGroup(plan, 5));
  EXPECT_THAT(ExpertOwnerGroup(plan, 5), ElementsAre(5, 6, 13, 14));
  EXPECT_THAT(ExpertGroup(plan, 5), ElementsAre(1, 5));
  EXPECT_THAT(ExpertGroup(plan, 15), ElementsAre(11, 15));
  EXPECT_THAT(ExpertsOf(plan, 1), ElementsAre(4, 5, 6, 7));
  EXPECT_THAT(ExpertsOf(plan, 2), IsEmpty());
  EXPECT_EQ(AllRanks(plan).size(), 16);
  EXPECT_EQ(AllRanks(plan).back(), 15);
  EXPECT_EQ(RankAt(plan.spec().parallelism(), 1, 0, 3), 11);
}

TEST(PlanLayoutTest, OneRank_IsEveryGroup) {
  const v1::Plan plan = ToyPlan(1, 1, 1);
  EXPECT_THAT(StagesOfRank(plan, 0), ElementsAre(0));
  EXPECT_THAT(DenseGroup(plan, 0), ElementsAre(0));
  EXPECT_THAT(ExpertOwnerGroup(plan, 0), ElementsAre(0));
  EXPECT_THAT(ExpertGroup(plan, 0), ElementsAre(0));
  EXPECT_EQ(PipelineNeighbour(plan, 0, 0, 1), -1);
  EXPECT_EQ(PipelineNeighbour(plan, 0, 0, -1), -1);
}

TEST(PlanLayoutTest, Neighbours_FollowTheDirection) {
  const v1::Plan plan = ToyPlan();
  EXPECT_EQ(PipelineNeighbour(plan, 5, 0, 1), 6);
  EXPECT_EQ(PipelineNeighbour(plan, 5, 1, 1), 4);
  EXPECT_EQ(PipelineNeighbour(plan, 5, 1, -1), 6);
  EXPECT_EQ(PipelineNeighbour(plan, 4, 0, -1), -1);
  EXPECT_EQ(PipelineNeighbour(plan, 4, 1, 1), -1);
  EXPECT_EQ(PipelineNeighbour(plan, 7, 0, 1), -1);
}

TEST(PlanLayoutTest, MicroBatches_AreEachOneLanes) {
  const v1::Plan plan = ToyPlan();
  ASSERT_EQ(LaneCount(plan), 4);
  EXPECT_EQ(LaneOfRank(plan, 5), 1);
  EXPECT_EQ(LaneOfRank(plan, 11), 2);
  EXPECT_THAT(RanksOfLane(plan, 2), ElementsAre(8, 9, 10, 11));
  std::set<int64_t> seen;
  for (int lane = 0; lane < 4; ++lane) {
    for (int rank : RanksOfLane(plan, lane)) EXPECT_EQ(LaneOfRank(plan, rank), lane);
    for (int direction : {0, 1}) {
      for (int m = 0; m < 4; ++m) seen.insert(MicroBatchIndex(plan, lane, direction, m));
    }
  }
  EXPECT_EQ(seen.size(), 32);
  EXPECT_EQ(*seen.begin(), 0);
  EXPECT_EQ(*seen.rbegin(), 31);
  EXPECT_EQ(MicroBatchIndex(plan, 2, 1, 3), 2 * 8 + 4 + 3);
}

}  // namespace
}  // namespace fathom::plan
